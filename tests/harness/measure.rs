//! What benchmarks measure, and how they tell it.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::proxy::Proxy;
use crate::raw::{Raw, api_versions, until};

/// One figure of several runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// In the middle of all; of an even number, the lower of the two that are there.
    pub median: f64,
    /// The least of all.
    pub least: f64,
    /// The most of all.
    pub most: f64,
}

impl Spread {
    /// An error if there is none, or one is no number.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut all: Vec<f64> = figures.into_iter().collect();
        ensure!(!all.is_empty() && all.iter().all(|figure| figure.is_finite()), "no figures: {all:?}");
        all.sort_by(f64::total_cmp);
        Ok(Self { median: all[(all.len() - 1) / 2], least: all[0], most: all[all.len() - 1] })
    }
}

/// `median (least to most)`, with `{:.2}` two digits each.
impl fmt::Display for Spread {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = to.precision().unwrap_or(1);
        write!(to, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.least, self.most)
    }
}

/// Which parts of a benchmark the command line asks for (`--only PART,PART`): by default all.
pub fn parts(all: &[&str]) -> Result<Vec<String>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let parts: Vec<String> = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => all.iter().map(|&part| part.to_owned()).collect(),
        ["--only", parts] => parts.split(',').map(str::to_owned).collect(),
        _ => bail!("usage: --only PART,PART; the parts: {}", all.join(", ")),
    };
    if let Some(unknown) = parts.iter().find(|part| !all.contains(&part.as_str())) {
        bail!("there is no part {unknown}: the parts are {}", all.join(", "));
    }
    Ok(parts)
}

/// CPU time that a process has used so far, user and system, all of its threads (`utime` and `stime`, proc(5)).
pub fn cpu_time(process_id: u32) -> Result<Duration> {
    let path = format!("/proc/{process_id}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The second field is the program's name in brackets, which may have spaces; utime and stime are fields 14 and 15.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).map(|field| Ok(field.parse::<u64>()?)).sum::<Result<u64>>().context(path)?;
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Memory of a process in RAM, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Now (`VmRSS`).
    pub resident: u64,
    /// The most so far (`VmHWM`).
    pub peak: u64,
}

/// None: the process has ended, and nobody has waited for it yet; [`cpu_time`] still answers.
pub fn memory(process_id: u32) -> Result<Option<Memory>> {
    let path = format!("/proc/{process_id}/status");
    let status = fs::read_to_string(&path).context(path)?;
    let bytes = |key: &str| {
        let kib = status.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024)
    };
    Ok(bytes("VmRSS:").zip(bytes("VmHWM:")).map(|(resident, peak)| Memory { resident, peak }))
}

/// The machine, in a line: without it a figure says little.
pub fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown CPU", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg")?;
    let load = load.split(' ').next().unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    Ok(format!("{cores} cores, {model}, Linux {}, load {load} at the start", kernel.trim()))
}

/// What connections cost that rest.
#[derive(Debug, Clone, Copy)]
pub struct Resting {
    /// The proxy's resident memory with them, in bytes; what the kernel holds for their sockets is not in it.
    pub memory: u64,
    /// What one of them added to it, in bytes.
    pub each: f64,
    /// How long it took to open all.
    pub opening: Duration,
}

impl fmt::Display for Resting {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, each) = (self.memory as f64 / 1024.0 / 1024.0, self.each / 1024.0);
        write!(to, "{all:.1} MiB in all, {each:.2} KiB each; opened in {:.2} s", self.opening.as_secs_f64())
    }
}

/// Opens connections to a proxy that has had none, and lets them rest: after a first answer if there is a `client_id`, else without a word.
pub fn resting(proxy: &Proxy, connections: usize, client_id: Option<&str>) -> Result<Resting> {
    // The first connection brings what all share: buffers of the worker threads, the table of metrics.
    Raw::connect(proxy.port())?.ask(&api_versions(0, client_id))?;
    let before = proxy.resident_memory()?;
    let mut open = Vec::with_capacity(connections);
    let start = Instant::now();
    for n in 0..connections {
        let mut connection = Raw::connect(proxy.port())?;
        if client_id.is_some() {
            connection.ask(&api_versions(n as i32, client_id)).with_context(|| format!("connection {n}"))?;
        }
        open.push(connection);
    }
    let opening = start.elapsed();
    until(
        "all connections are accepted",
        || Ok(proxy.metric("kferry_proxy_connections", &[("listener", "plain")])? >= connections as f64),
    )?;
    std::thread::sleep(Duration::from_secs(1));
    let memory = proxy.resident_memory()?;
    Ok(Resting { memory, each: memory.saturating_sub(before) as f64 / connections as f64, opening })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_told_with_its_ends() {
        assert_eq!(format!("{:.2}", Spread::of([3.0, 1.0, 2.0]).unwrap()), "2.00 (1.00 to 3.00)");
        assert_eq!(Spread::of([4.0, 1.0]).unwrap(), Spread { median: 1.0, least: 1.0, most: 4.0 });
        assert!(Spread::of([]).is_err() && Spread::of([f64::NAN]).is_err());
    }

    #[test]
    fn the_cpu_time_of_this_process_grows_as_it_works() {
        let before = cpu_time(std::process::id()).unwrap();
        let start = Instant::now();
        while cpu_time(std::process::id()).unwrap() <= before {
            assert!(start.elapsed() < Duration::from_secs(20), "it stays at {before:?}");
        }
    }
}

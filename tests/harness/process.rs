//! Programs that the test bed starts. None outlives the process that started it, however that one ends: the kernel kills them
//! (`PR_SET_PDEATHSIG`, by util-linux's `setpriv`, since this crate has no unsafe code).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How long a thread may take to stop: it waits for the disk.
const STOPS: Duration = Duration::from_secs(30);

/// One running program; its output is in a file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    frozen: bool,
}

impl Process {
    /// Starts `command` in a process group of its own (Ctrl-C in the terminal is for the owner alone); both outputs are appended to the file `log`.
    /// `name` is for error messages.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let program = command.get_program();
        if !Path::new(program).is_absolute() {
            require(&program.to_string_lossy(), "install it")?;
        }
        require("setpriv", "install util-linux (`apt install util-linux`)")?;
        let output = File::options().create(true).append(true).open(log).with_context(|| format!("{} can't be opened", log.display()))?;

        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(program).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            wrapped.current_dir(folder);
        }
        wrapped.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        std::os::unix::process::CommandExt::process_group(&mut wrapped, 0);
        let child = spawn_from_lasting_thread(wrapped).with_context(|| format!("{name} can't be started"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), frozen: false })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself, at most `limit`; then it's killed and an error.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                self.kill();
                bail!("{} didn't end within {limit:?}; the end of {}:\n{}", self.name, self.log.display(), self.log_tail(30));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGKILL; returns when it's gone.
    pub fn kill(&mut self) {
        // Both fail only for a child that has been reaped already: gone is gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits until it's gone, at most `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        if self.frozen {
            self.thaw()?;
        }
        self.wait(limit)
    }

    /// SIGSTOP: its connections stay open and the kernel accepts new ones for it, but nothing answers. Returns when each of its threads has stopped:
    /// one that waits for the disk does so later.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.frozen = true;
        let deadline = Instant::now() + STOPS;
        while !self.has_stopped()? {
            ensure!(Instant::now() < deadline, "{} still runs {STOPS:?} after SIGSTOP", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn has_stopped(&self) -> Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // A thread may end meanwhile. The state is behind the name, which may contain anything.
            let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
            // Stopped, or it has ended by itself just before.
            if !stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T") || rest.starts_with(" Z")) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SIGCONT.
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.frozen = false;
        Ok(())
    }

    /// Whether it's frozen.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// The last `lines` lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        log_tail(&self.log, lines)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        // Until it has been waited for, its id can't be another process's.
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended before ({status}); the end of {}:\n{}", self.name, self.log.display(), self.log_tail(30));
        }
        kill_process(Pid::from_child(&self.child), signal).with_context(|| format!("no signal to {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `lines` lines of a file that may not exist.
pub fn log_tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The path of a program, or an error that says how to get it.
pub fn require(program: &str, remedy: &str) -> Result<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("there is no `{program}` on PATH: {remedy}"))
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The death signal is tied to the *thread* that forked, not to its process: a child of a test's thread would be killed as soon as that test
/// ends, though another test still uses it. This thread ends with the process.
fn spawn_from_lasting_thread(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        std::thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                for (mut command, reply) in inbox {
                    // Who asked waits for the reply, unless it panicked: then nobody wants the child, and dropping it leaves it to the end of the run.
                    let _ = reply.send(command.spawn());
                }
            })
            .expect("a thread can be started");
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::channel();
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).expect("the spawner never ends");
    answer.recv().expect("the spawner answers each order")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let asked = std::thread::spawn({
            let log = log.clone();
            move || {
                let child = Process::spawn("sh", Command::new("sh").args(["-c", "echo up; exec sleep 60"]), &log).unwrap();
                // Before this the child may not have asked for its death signal yet.
                while child.log_tail(1) != "up" {
                    std::thread::sleep(Duration::from_millis(5));
                }
                child
            }
        });
        let mut child = asked.join().unwrap();
        assert!(child.wait(Duration::from_millis(300)).is_err(), "it was still running when the wait ended");
        assert!(child.exited().is_some(), "and a wait that ran out of time kills");
    }

    #[test]
    fn a_frozen_child_can_be_terminated() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Process::spawn("sleep", Command::new("sleep").arg("60"), &folder.path().join("log")).unwrap();
        child.freeze().unwrap();
        let status = child.terminate(Duration::from_secs(10)).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::TERM.as_raw()));
        assert!(child.freeze().is_err(), "a signal to what is gone is an error");
    }

    #[test]
    fn output_goes_to_the_log_and_a_missing_program_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut child =
            Process::spawn("sh", Command::new("sh").args(["-c", "echo one; echo two >&2; echo $X"]).env("X", "three"), &log).unwrap();
        assert!(child.wait(Duration::from_secs(10)).unwrap().success());
        assert_eq!(child.log_tail(2), "two\nthree");
        let missing = Process::spawn("no", &Command::new("no-such-program"), &log).unwrap_err();
        assert_eq!(missing.to_string(), "there is no `no-such-program` on PATH: install it");
    }
}

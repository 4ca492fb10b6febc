//! What the file asks of the machine that the proxy runs on, as far as this one has it.

use kferry_config::{Config, EphemeralPorts, OpenFiles};
use rustix::process::{Resource, getrlimit};

/// A sentence for each thing that this machine does not have.
pub(super) fn lacks(config: &Config) -> Vec<String> {
    let mut sentences = Vec::new();
    if !config.listeners.is_empty() {
        // The hard limit, to which the proxy raises its own.
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        sentences.extend(too_few_files(config, files));
    }
    if let Some(ephemeral) = EphemeralPorts::of_this_machine() {
        sentences.extend(ports_of_others(config, &ephemeral));
    }
    sentences
}

/// Ports that may be an outgoing connection's when they are wanted.
fn ports_of_others(config: &Config, ephemeral: &EphemeralPorts) -> Vec<String> {
    let given = config.ports().into_iter().filter_map(|(who, ports)| Some((who, ephemeral.among(&ports)?)));
    let told = given.map(|(who, given)| {
        let (first, last) = (given.start(), given.end());
        let ports = if first == last { format!("port {first}") } else { format!("ports {first}-{last}") };
        format!(
            "{ports} ({who}): this machine gives such ports to outgoing connections, and one that is taken keeps the program from starting; it lies \
             in {}",
            ephemeral.way_out()
        )
    });
    told.collect()
}

fn too_few_files(config: &Config, files: u64) -> Option<String> {
    let wanted = config.limits.max_connections;
    let OpenFiles { limit, clients, .. } = OpenFiles::share(files, config.own_sockets());
    (clients < wanted).then(|| {
        format!(
            "limits.max_connections is {wanted}, and a process may have {limit} open files here (ulimit -Hn), which are enough for {clients} \
             clients: kferry-proxy would turn the others away. Raise that limit where it runs"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::two_clusters;
    use super::*;

    #[test]
    fn a_limit_of_open_files_that_is_too_low_is_told_with_what_it_is_enough_for() {
        let config = two_clusters(&[("orders", "new")]);
        assert_eq!(too_few_files(&config, 1 << 20), None);
        let told = too_few_files(&config, 4096).unwrap();
        assert!(
            told.contains("max_connections is 10000") && told.contains("4096 open files") && told.contains("for 1800 clients"),
            "{told}"
        );
    }
}

//! What the file asks of the machine that the proxy runs on, as far as this one has it.

use kferry_config::{Config, OpenFiles};
use rustix::process::{Resource, getrlimit};

/// A sentence for each thing that this machine does not have. None where the file is not for a proxy.
pub(super) fn lacks(config: &Config) -> Vec<String> {
    if config.listeners.is_empty() {
        return Vec::new();
    }
    // The hard limit, to which the proxy raises its own.
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    too_few_files(config, files).into_iter().collect()
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

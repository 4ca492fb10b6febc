//! What the file asks of the machine that the proxy runs on, as far as this one has it.

use kferry_config::{Config, EphemeralPorts, OpenFiles, Sasl, Secret};
use kferry_wire::security::tls::{client_config, server_config};
use kferry_wire::security::users::Users;
use rustix::process::{Resource, getrlimit};

/// A sentence for each thing that this machine does not have.
pub(super) fn lacks(config: &Config) -> Vec<String> {
    let mut sentences = Vec::new();
    if !config.listeners.is_empty() {
        // The hard limit, to which the proxy raises its own.
        let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        sentences.extend(too_few_files(config, files));
    }
    sentences.extend(unusable(config));
    if let Some(ephemeral) = EphemeralPorts::of_this_machine() {
        sentences.extend(ports_of_others(config, &ephemeral));
    }
    sentences
}

/// Certificates, keys and passwords that the file names, and that cannot be read here or are none.
fn unusable(config: &Config) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    let mut say = |who: String, error: Option<String>| {
        told.extend(error.map(|error| format!("{who}: {error}. As it is here, it cannot be used where kferry runs")));
    };
    for listener in &config.listeners {
        let error = listener.tls.as_ref().and_then(|tls| server_config(tls).err());
        say(format!("listener {}", listener.name), error.map(|error| error.to_string()));
    }
    say("users".to_owned(), Users::load(&config.users).err().map(|error| error.to_string()));
    for cluster in &config.clusters {
        let error = cluster.security.tls.as_ref().and_then(|tls| client_config(tls).err());
        say(format!("cluster {}", cluster.name), error.map(|error| error.to_string()));
        let mut login = cluster.security.sasl.iter().flatten();
        say(format!("cluster {}", cluster.name), login.find_map(unreadable));
    }
    for route in &config.routes {
        for (cluster, sasl) in &route.credentials {
            say(format!("route {}, credentials for cluster {cluster}", route.name), unreadable(sasl));
        }
    }
    told
}

/// Why the password of a login cannot be read.
fn unreadable(sasl: &Sasl) -> Option<String> {
    let read = match sasl {
        Sasl::Password { password, .. } => password.read(),
        Sasl::OAuthBearer { token_file } => Secret::File(token_file.clone()).read(),
    };
    read.err().map(|error| error.to_string())
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

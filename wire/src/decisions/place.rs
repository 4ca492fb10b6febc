//! Where this process runs, as the log knows it.

use std::collections::BTreeSet;
use std::fs;

use super::Place;

impl Place {
    /// That of this process: the boot id of the kernel, the network namespace, and the addresses that it has bound. What the system does not say is made up:
    /// then two processes never count as being in one place, and an old one is `forgotten` by an operator.
    pub fn of_this_process(listeners: BTreeSet<String>) -> Self {
        let unknown = || uuid::Uuid::new_v4().to_string();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned());
        let network = fs::read_link("/proc/self/ns/net").map(|link| link.to_string_lossy().into_owned());
        Self { boot: boot.unwrap_or_else(|_| unknown()), network: network.unwrap_or_else(|_| unknown()), listeners }
    }
}

//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ending::Cause;

/// Open connections, in all and by address.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    /// Connections that are open.
    all: AtomicUsize,
    /// Of them, those of each address. An address without any has no entry.
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Most {
    /// In all.
    pub all: usize,
    /// `all` is what the process's limit of open files allows, which is less than `max_connections`.
    pub by_open_files: bool,
    /// From one address.
    pub per_ip: usize,
}

/// A connection that was admitted; it counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    admissions: Arc<Admissions>,
    ip: IpAddr,
}

impl Admissions {
    /// Admits a connection of `ip`, unless the most that may be open are open already.
    ///
    /// # Errors
    /// [`Cause::MaxConnections`], [`Cause::MaxConnectionsPerIp`]
    pub(crate) fn admit(self: &Arc<Self>, ip: IpAddr, most: Most) -> Result<Admission, Cause> {
        let Most { all, by_open_files, per_ip } = most;
        let mut by_ip = self.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = by_ip.entry(ip).or_default();
        if *of_ip >= per_ip {
            return Err(Cause::MaxConnectionsPerIp(per_ip));
        }
        if self.all.load(Ordering::Relaxed) >= all {
            if *of_ip == 0 {
                by_ip.remove(&ip);
            }
            return Err(Cause::MaxConnections { limit: all, by_open_files });
        }
        *of_ip += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { admissions: self.clone(), ip })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut by_ip = self.admissions.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        self.admissions.all.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut of_ip) = by_ip.entry(self.ip) {
            *of_ip.get_mut() -= 1;
            if *of_ip.get() == 0 {
                of_ip.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(all: usize, per_ip: usize) -> Most {
        Most { all, by_open_files: false, per_ip }
    }

    #[test]
    fn a_client_over_the_limit_of_all_leaves_no_entry_behind() {
        let admissions = Arc::new(Admissions::default());
        let _open = admissions.admit(IpAddr::from([10, 0, 0, 1]), most(1, 1)).ok().unwrap();
        assert!(matches!(admissions.admit(IpAddr::from([10, 0, 0, 2]), most(1, 1)), Err(Cause::MaxConnections { limit: 1, .. })));
        // Its own limit is told first: it is what this client can do something about.
        assert!(matches!(admissions.admit(IpAddr::from([10, 0, 0, 1]), most(1, 1)), Err(Cause::MaxConnectionsPerIp(1))));
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 1);
    }

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let admissions = Arc::new(Admissions::default());
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = admissions.admit(a, most(3, 2)).ok().unwrap();
        let _second = admissions.admit(a, most(3, 2)).ok().unwrap();
        assert!(matches!(admissions.admit(a, most(3, 2)), Err(Cause::MaxConnectionsPerIp(2))));
        let _third = admissions.admit(b, most(3, 2)).ok().unwrap();
        assert!(matches!(admissions.admit(b, most(3, 2)), Err(Cause::MaxConnections { limit: 3, .. })));
        drop(first);
        assert!(admissions.admit(b, most(3, 2)).is_ok());
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 2);
    }
}

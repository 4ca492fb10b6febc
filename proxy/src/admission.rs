//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::ending::Cause;

/// Open connections, in all and by address.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    /// Connections that are open.
    all: AtomicUsize,
    /// Of them, those of each address. An address without any has no entry.
    by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that was admitted; it counts as open until this is dropped.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    admissions: &'a Admissions,
    ip: IpAddr,
}

impl Admissions {
    /// Admits a connection of `ip`, unless `max` are open already, or `max_per_ip` of its address.
    ///
    /// # Errors
    /// [`Cause::MaxConnections`], [`Cause::MaxConnectionsPerIp`]
    pub(crate) fn admit(&self, ip: IpAddr, max: usize, max_per_ip: usize) -> Result<Admission<'_>, Cause> {
        let mut by_ip = self.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let of_ip = by_ip.entry(ip).or_default();
        if *of_ip >= max_per_ip {
            return Err(Cause::MaxConnectionsPerIp(max_per_ip));
        }
        if self.all.load(Ordering::Relaxed) >= max {
            if *of_ip == 0 {
                by_ip.remove(&ip);
            }
            return Err(Cause::MaxConnections(max));
        }
        *of_ip += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { admissions: self, ip })
    }
}

impl Drop for Admission<'_> {
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

    #[test]
    fn a_client_over_the_limit_of_all_leaves_no_entry_behind() {
        let admissions = Admissions::default();
        let _open = admissions.admit(IpAddr::from([10, 0, 0, 1]), 1, 1).ok().unwrap();
        assert!(matches!(admissions.admit(IpAddr::from([10, 0, 0, 2]), 1, 1), Err(Cause::MaxConnections(1))));
        // Its own limit is told first: it is what this client can do something about.
        assert!(matches!(admissions.admit(IpAddr::from([10, 0, 0, 1]), 1, 1), Err(Cause::MaxConnectionsPerIp(1))));
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 1);
    }

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let admissions = Admissions::default();
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = admissions.admit(a, 3, 2).ok().unwrap();
        let _second = admissions.admit(a, 3, 2).ok().unwrap();
        assert!(matches!(admissions.admit(a, 3, 2), Err(Cause::MaxConnectionsPerIp(2))));
        let _third = admissions.admit(b, 3, 2).ok().unwrap();
        assert!(matches!(admissions.admit(b, 3, 2), Err(Cause::MaxConnections(3))));
        drop(first);
        assert!(admissions.admit(b, 3, 2).is_ok());
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 2);
    }
}

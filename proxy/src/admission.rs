//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The client's address. `None` until the load balancer that it came by has told it.
    ip: Option<IpAddr>,
}

impl Admissions {
    /// Admits a connection of a client at `ip`, unless the most that may be open are open already. `None`: a load balancer will tell whose it is
    /// ([`Admission::count`]).
    ///
    /// # Errors
    /// [`Cause::MaxConnections`], [`Cause::MaxConnectionsPerIp`]
    pub(crate) fn admit(self: &Arc<Self>, ip: Option<IpAddr>, most: Most) -> Result<Admission, Cause> {
        let Most { all, by_open_files, per_ip } = most;
        let mut by_ip = self.by_ip();
        if ip.is_some_and(|ip| by_ip.get(&ip).is_some_and(|open| *open >= per_ip)) {
            return Err(Cause::MaxConnectionsPerIp(per_ip));
        }
        if self.all.load(Ordering::Relaxed) >= all {
            return Err(Cause::MaxConnections { limit: all, by_open_files });
        }
        if let Some(ip) = ip {
            *by_ip.entry(ip).or_default() += 1;
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { admissions: self.clone(), ip })
    }

    fn by_ip(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission {
    /// Whether the load balancer that the connection came by has yet to tell where the client is.
    pub(crate) fn awaits_client(&self) -> bool {
        self.ip.is_none()
    }

    /// The load balancer has told it: from here on the connection counts as one of `ip`.
    ///
    /// # Errors
    /// [`Cause::MaxConnectionsPerIp`]: as many of that address are open as may be.
    pub(crate) fn count(&mut self, ip: IpAddr, per_ip: usize) -> Result<(), Cause> {
        let mut by_ip = self.admissions.by_ip();
        if by_ip.get(&ip).is_some_and(|open| *open >= per_ip) {
            return Err(Cause::MaxConnectionsPerIp(per_ip));
        }
        *by_ip.entry(ip).or_default() += 1;
        self.ip = Some(ip);
        Ok(())
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut by_ip = self.admissions.by_ip();
        self.admissions.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(ip) = self.ip
            && let Entry::Occupied(mut of_ip) = by_ip.entry(ip)
        {
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
        let _open = admissions.admit(Some(IpAddr::from([10, 0, 0, 1])), most(1, 1)).ok().unwrap();
        assert!(matches!(admissions.admit(Some(IpAddr::from([10, 0, 0, 2])), most(1, 1)), Err(Cause::MaxConnections { limit: 1, .. })));
        // Its own limit is told first: it is what this client can do something about.
        assert!(matches!(admissions.admit(Some(IpAddr::from([10, 0, 0, 1])), most(1, 1)), Err(Cause::MaxConnectionsPerIp(1))));
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 1);
    }

    #[test]
    fn limits_hold_and_what_ends_makes_room() {
        let admissions = Arc::new(Admissions::default());
        let (a, b) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let first = admissions.admit(a, most(3, 2)).ok().unwrap();
        let _second = admissions.admit(a, most(3, 2)).ok().unwrap();
        assert!(matches!(admissions.admit(a, most(3, 2)), Err(Cause::MaxConnectionsPerIp(2))));
        let _third = admissions.admit(b, most(3, 2)).ok().unwrap();
        assert!(matches!(admissions.admit(b, most(3, 2)), Err(Cause::MaxConnections { limit: 3, .. })));
        drop(first);
        assert!(admissions.admit(b, most(3, 2)).is_ok());
        assert_eq!(admissions.by_ip.lock().unwrap().len(), 2);
    }

    #[test]
    fn who_comes_by_a_load_balancer_counts_by_its_own_address() {
        let admissions = Arc::new(Admissions::default());
        let client = IpAddr::from([10, 0, 0, 1]);
        let direct = admissions.admit(Some(client), most(4, 2)).ok().unwrap();
        let mut second = admissions.admit(None, most(4, 2)).ok().unwrap();
        let mut third = admissions.admit(None, most(4, 2)).ok().unwrap();
        assert!(second.awaits_client() && second.count(client, 2).is_ok() && !second.awaits_client());
        assert!(matches!(third.count(client, 2), Err(Cause::MaxConnectionsPerIp(2))));
        assert!(third.awaits_client());
        // Those whose client is not known yet count for all.
        let fourth = admissions.admit(None, most(4, 2)).ok().unwrap();
        assert!(matches!(admissions.admit(None, most(4, 2)), Err(Cause::MaxConnections { limit: 4, .. })));
        drop((third, fourth, second));
        assert_eq!(admissions.by_ip()[&client], 1);
        drop(direct);
        assert!(admissions.by_ip().is_empty());
    }
}

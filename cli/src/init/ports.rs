//! Ports that are free on this machine, and stay free: what the kernel gives to outgoing connections may be taken at any restart of the proxy.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;

use kferry_config::EphemeralPorts;

/// Ports that can be listened on, less those that were taken.
pub(super) struct Ports {
    is_free: Box<dyn Fn(u16) -> bool>,
    taken: Vec<RangeInclusive<u16>>,
}

impl Ports {
    /// Of the machine that this runs on, which may not be the proxy's.
    pub(super) fn of_this_machine() -> Self {
        let ephemeral = EphemeralPorts::of_this_machine();
        Self::new(move |port| {
            let is_given_away = ephemeral.as_ref().is_some_and(|ephemeral| ephemeral.among(&(port..=port)).is_some());
            !is_given_away && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        })
    }

    pub(super) fn new(is_free: impl Fn(u16) -> bool + 'static) -> Self {
        Self { is_free: Box::new(is_free), taken: Vec::new() }
    }

    /// Takes the first `count` neighbours that are free in a range.
    pub(super) fn take(&mut self, range: RangeInclusive<u16>, count: u16) -> Option<RangeInclusive<u16>> {
        let mut first = *range.start();
        loop {
            let last = first.checked_add(count.checked_sub(1)?).filter(|last| last <= range.end())?;
            let in_the_way =
                (first..=last).rev().find(|port| self.taken.iter().any(|taken| taken.contains(port)) || !(self.is_free)(*port));
            match in_the_way {
                Some(port) => first = port.checked_add(1)?,
                None => {
                    self.taken.push(first..=last);
                    return Some(first..=last);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_taken_once_and_around_what_is_in_use() {
        let mut ports = Ports::new(|port| port != 9103);
        assert_eq!(ports.take(9100..=9110, 3), Some(9100..=9102));
        assert_eq!(ports.take(9100..=9110, 3), Some(9104..=9106));
        assert_eq!(ports.take(9100..=9110, 5), None);
        assert_eq!(ports.take(9100..=9110, 4), Some(9107..=9110));
        assert_eq!(ports.take(9100..=9110, 1), None);
        assert_eq!(ports.take(65_535..=65_535, 2), None);
        assert_eq!(ports.take(65_535..=65_535, 1), Some(65_535..=65_535));
    }
}

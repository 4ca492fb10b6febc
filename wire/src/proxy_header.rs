//! What a load balancer says in front of a client's connection: the PROXY protocol, in its versions 1 (a line of text) and 2 (binary).
//!
//! What follows a header is TLS or Kafka, and is read by others. So not a byte behind it may be read with it, and a reader asks here how many are surely
//! the header's own.
//!
//! # References
//! - <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::net::{IpAddr, SocketAddr};

use crate::reader::{Malformed, Reader};

/// The first bytes of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The first bytes of version 1.
const LINE: &[u8] = b"PROXY ";

/// Bytes of version 2 in front of the addresses: the signature, version and command, family and protocol, length.
const FIXED: usize = SIGNATURE.len() + 4;

/// The shortest header that there is: `PROXY UNKNOWN\r\n`.
const SHORTEST: usize = 15;

/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;

/// The longest header of version 2 that is read. Its addresses take 52 bytes; load balancers add a name, an id or a certificate's subject.
pub const LONGEST: usize = 4096;

/// A header, as far as it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    /// At least so many bytes more belong to it.
    Needs(usize),
    /// It has arrived. With the client's address, or without: then the load balancer speaks for itself, as in its health checks, or the client came
    /// to it by something else than TCP.
    Whole(Option<SocketAddr>),
}

/// Why bytes are no header of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProxyHeader {
    /// Something else.
    #[error(
        "what came first is no PROXY protocol header: turn send-proxy or proxy_protocol on in the load balancer, or drop proxy_protocol_from"
    )]
    Missing,
    /// Not 2, and a command other than LOCAL and PROXY.
    #[error("a PROXY protocol header with version and command {0:#04x}, which version 2 does not have")]
    Command(u8),
    /// Datagrams, or what is not assigned.
    #[error("a PROXY protocol header with family and protocol {0:#04x}: TCP is all that there can be here")]
    Family(u8),
    /// More than [`LONGEST`], or a line that does not end in time.
    #[error("a PROXY protocol header of {0} bytes or more, which is too long: let the load balancer add less to it")]
    TooLong(usize),
    /// It ends within the addresses.
    #[error("a PROXY protocol header that is too short for its addresses")]
    Short,
    /// A line of version 1 that is none.
    #[error("a PROXY protocol header of version 1 without two addresses and two ports")]
    Line,
}

impl ProxyHeader {
    /// Looks at the first bytes of a connection.
    ///
    /// # Errors
    /// [`BadProxyHeader`] as soon as it is certain: garbage is not waited for.
    pub fn peek(bytes: &[u8]) -> Result<Self, BadProxyHeader> {
        let may_be = |front: &[u8]| front.iter().zip(bytes).all(|(expected, byte)| expected == byte);
        if bytes.is_empty() {
            Ok(Self::Needs(SHORTEST))
        } else if may_be(SIGNATURE) {
            binary(bytes)
        } else if may_be(LINE) {
            line(bytes)
        } else {
            Err(BadProxyHeader::Missing)
        }
    }
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<ProxyHeader, BadProxyHeader> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED>() else { return Ok(ProxyHeader::Needs(FIXED - bytes.len())) };
    let [.., command, family, high, low] = *fixed;
    let len = usize::from(u16::from_be_bytes([high, low]));
    // LOCAL, of which nothing but the length counts, and PROXY.
    let tells = match command {
        0x20 => false,
        0x21 => true,
        other => return Err(BadProxyHeader::Command(other)),
    };
    if FIXED + len > LONGEST {
        return Err(BadProxyHeader::TooLong(FIXED + len));
    }
    let Some(told) = rest.get(..len) else { return Ok(ProxyHeader::Needs(len - rest.len())) };
    Ok(ProxyHeader::Whole(match family {
        _ if !tells => None,
        0x11 => Some(client::<4>(told)?),
        0x21 => Some(client::<16>(told)?),
        // Unknown, and a Unix socket.
        0x00 | 0x31 => None,
        other => return Err(BadProxyHeader::Family(other)),
    }))
}

/// The client's address, the load balancer's, the client's port, the load balancer's, and perhaps more.
fn client<const N: usize>(told: &[u8]) -> Result<SocketAddr, BadProxyHeader>
where
    IpAddr: From<[u8; N]>,
{
    let mut reader = Reader::new(told);
    let mut read = || {
        let address = reader.array::<N>()?;
        reader.array::<N>()?;
        let port = u16::from_be_bytes(reader.array()?);
        reader.array::<2>()?;
        Ok(SocketAddr::new(address.into(), port))
    };
    read().map_err(|_: Malformed| BadProxyHeader::Short)
}

/// Version 1.
fn line(bytes: &[u8]) -> Result<ProxyHeader, BadProxyHeader> {
    let within = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        // Its end has two bytes, of which the first may be there.
        let needs = SHORTEST.saturating_sub(bytes.len()).max(if bytes.ends_with(b"\r") { 1 } else { 2 });
        return if bytes.len() + needs > LONGEST_LINE { Err(BadProxyHeader::TooLong(LONGEST_LINE)) } else { Ok(ProxyHeader::Needs(needs)) };
    };
    let text = str::from_utf8(&bytes[LINE.len()..end]).map_err(|_| BadProxyHeader::Line)?;
    let mut words = text.split(' ');
    let is_of_family = match words.next() {
        Some("UNKNOWN") => return Ok(ProxyHeader::Whole(None)),
        Some("TCP4") => IpAddr::is_ipv4,
        Some("TCP6") => IpAddr::is_ipv6,
        _ => return Err(BadProxyHeader::Line),
    };
    let mut address = || words.next()?.parse().ok().filter(is_of_family);
    let (client, balancer) = (address(), address());
    let mut port = || words.next()?.parse::<u16>().ok();
    let ports = (port(), port());
    match (client, balancer, ports, words.next()) {
        (Some(client), Some(_), (Some(port), Some(_)), None) => Ok(ProxyHeader::Whole(Some(SocketAddr::new(client, port)))),
        _ => Err(BadProxyHeader::Line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reader comes to that takes no more than is needed, and what it has left.
    fn read(bytes: &[u8]) -> (Result<ProxyHeader, BadProxyHeader>, &[u8]) {
        let mut taken = 0;
        loop {
            match ProxyHeader::peek(&bytes[..taken]) {
                Ok(ProxyHeader::Needs(more)) if taken < bytes.len() => taken = (taken + more).min(bytes.len()),
                certain => return (certain, &bytes[taken..]),
            }
        }
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        [SIGNATURE, &[command, family], &(rest.len() as u16).to_be_bytes(), rest].concat()
    }

    const V4: &[u8] = &[10, 1, 2, 3, 10, 9, 0, 7, 0x9c, 0x40, 0x23, 0x84];

    #[test]
    fn a_header_is_read_and_nothing_behind_it() {
        let v6 = [&[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5][..], &[0; 16], &[0x9c, 0x40, 0x23, 0x84]].concat();
        // The type, the length and the text of an extension.
        let extended = [V4, &[2, 0, 3], b"abc"].concat();
        for (header, client) in [
            (version_2(0x21, 0x11, V4), Some("10.1.2.3:40000")),
            (version_2(0x21, 0x11, &extended), Some("10.1.2.3:40000")),
            (version_2(0x21, 0x21, &v6), Some("[fd00:1::5]:40000")),
            (version_2(0x20, 0x11, V4), None),
            (version_2(0x20, 0, b""), None),
            (version_2(0x21, 0, b""), None),
            (version_2(0x21, 0x31, &[0; 216]), None),
            (b"PROXY TCP4 10.1.2.3 10.9.0.7 40000 9092\r\n".to_vec(), Some("10.1.2.3:40000")),
            (b"PROXY TCP6 fd00:1::5 fd00:9::7 40000 9092\r\n".to_vec(), Some("[fd00:1::5]:40000")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            let followed = [&header[..], b"\r\n\0\0"].concat();
            assert_eq!(read(&followed), (Ok(ProxyHeader::Whole(client)), &b"\r\n\0\0"[..]), "{}", header.escape_ascii());
            // However little of it has come.
            for cut in 0..header.len() {
                let more = ProxyHeader::peek(&header[..cut]);
                assert!(matches!(more, Ok(ProxyHeader::Needs(more)) if more > 0 && cut + more <= header.len()), "{cut}: {more:?}");
            }
        }
    }

    #[test]
    fn what_is_none_is_said_at_once() {
        let line = |text: &str| text.as_bytes().to_vec();
        for (bytes, bad) in [
            (b"\0\0\0\x20\0\x12".to_vec(), BadProxyHeader::Missing),
            (b"\r\n\r\n\0\r\nQUIZ".to_vec(), BadProxyHeader::Missing),
            (b"\x16\x03\x01".to_vec(), BadProxyHeader::Missing),
            (line("PRI * HTTP/2"), BadProxyHeader::Missing),
            (version_2(0x11, 0x11, V4), BadProxyHeader::Command(0x11)),
            (version_2(0x22, 0x11, V4), BadProxyHeader::Command(0x22)),
            (version_2(0x21, 0x12, V4), BadProxyHeader::Family(0x12)),
            (version_2(0x21, 0xff, V4), BadProxyHeader::Family(0xff)),
            (version_2(0x21, 0x11, &V4[1..]), BadProxyHeader::Short),
            (version_2(0x21, 0x21, V4), BadProxyHeader::Short),
            // The length alone is enough.
            ([SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(), BadProxyHeader::TooLong(FIXED + 0xffff)),
            (line(&format!("PROXY TCP4 {}\r\n", "1".repeat(100))), BadProxyHeader::TooLong(LONGEST_LINE)),
            (line("PROXY TCP4 10.1.2.3 10.9.0.7 40000\r\n"), BadProxyHeader::Line),
            (line("PROXY TCP4 10.1.2.3 10.9.0.7 40000 9092 1\r\n"), BadProxyHeader::Line),
            (line("PROXY TCP4 10.1.2.3 10.9.0.7 40000 65536\r\n"), BadProxyHeader::Line),
            (line("PROXY TCP4 fd00:1::5 fd00:9::7 40000 9092\r\n"), BadProxyHeader::Line),
            (line("PROXY TCP6 10.1.2.3 10.9.0.7 40000 9092\r\n"), BadProxyHeader::Line),
            (line("PROXY UDP4 10.1.2.3 10.9.0.7 40000 9092\r\n"), BadProxyHeader::Line),
            (line("PROXY TCP4 10.1.2.3\n10.9.0.7 40000 9092\r\n"), BadProxyHeader::Line),
            (b"PROXY TCP4 \xff\xff \xff\r\n".to_vec(), BadProxyHeader::Line),
        ] {
            assert_eq!(read(&bytes).0, Err(bad), "{}", bytes.escape_ascii());
        }
    }
}

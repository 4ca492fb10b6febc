//! Clients that come by a load balancer: who may speak for others, and what it says (the PROXY protocol).

use std::net::{IpAddr, SocketAddr};

use kferry_config::Listener;
use kferry_wire::proxy_header::ProxyHeader;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::ending::Cause;

/// The address of the client of a connection that comes from `peer`: that one, or `None` where it is a load balancer that will say it first.
///
/// # Errors
/// [`Cause::NotALoadBalancer`]: only load balancers may connect to this listener.
pub(crate) fn client(listener: &Listener, peer: IpAddr) -> Result<Option<IpAddr>, Cause> {
    match &listener.proxy_protocol_from[..] {
        [] => Ok(Some(peer)),
        networks if networks.iter().any(|network| network.contains(&peer)) => Ok(None),
        _ => Err(Cause::NotALoadBalancer),
    }
}

/// Reads the header in front of a connection, and nothing behind it. `None`: the load balancer speaks for itself.
///
/// # Errors
/// [`Cause::NoProxyHeader`]; [`Cause::NoRequest`] where the connection ends without a byte, as a health check's does.
pub(crate) async fn read_header(socket: &mut TcpStream) -> Result<Option<SocketAddr>, Cause> {
    let mut header = Vec::with_capacity(128);
    loop {
        let needs = match ProxyHeader::peek(&header).map_err(|bad| Cause::NoProxyHeader(bad.to_string()))? {
            ProxyHeader::Whole(client) => return Ok(client),
            ProxyHeader::Needs(bytes) => bytes,
        };
        match (&mut *socket).take(needs as u64).read_buf(&mut header).await {
            Ok(0) if header.is_empty() => return Err(Cause::NoRequest),
            Ok(0) => return Err(Cause::NoProxyHeader("the connection ended within its PROXY protocol header".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(Cause::ClientError(error)),
        }
    }
}

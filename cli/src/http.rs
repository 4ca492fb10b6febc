//! Asks the admin addresses of proxies and mirrors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// They answer from memory.
const DEADLINE: Duration = Duration::from_secs(5);

/// A proxy keeps 10,000 rows of clients at most, most of them of less than 2 KiB; a mirror's partitions have less than 1 KiB each.
pub(crate) const MAX_BODY: usize = 32 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The machine says that nobody listens there.
    Refused(io::Error),
    /// Anything else: nothing follows from it.
    Other(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(error) => error.fmt(f),
            Self::Other(why) => why.fmt(f),
        }
    }
}

/// What is answered to `GET path` by whoever listens at `address`, which is `HOST:PORT`.
///
/// # Errors
/// [`NoAnswer`].
pub(crate) async fn get(address: &str, path: &str) -> Result<Bytes, NoAnswer> {
    let asked = timeout(DEADLINE, ask(address, path)).await;
    asked.unwrap_or_else(|_elapsed| Err(NoAnswer::Other(format!("no answer within {DEADLINE:?}"))))
}

async fn ask(address: &str, path: &str) -> Result<Bytes, NoAnswer> {
    let other = |error: &dyn fmt::Display| NoAnswer::Other(error.to_string());
    let stream = TcpStream::connect(address).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionRefused => NoAnswer::Refused(error),
        _ => other(&error),
    })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| other(&error))?;
    // Ends with `sender`; what goes wrong on it fails the request too.
    let connection = tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, address).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(|error| other(&error))?).await.map_err(|error| other(&error))?;
    if !answer.status().is_success() {
        return Err(NoAnswer::Other(format!("it answers {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), MAX_BODY).collect().await.map_err(|error| other(&error))?;
    connection.abort();
    Ok(body.to_bytes())
}

/// Where what is bound to `bind` is reached on the same machine.
pub(crate) fn reachable(bind: SocketAddr) -> SocketAddr {
    let ip = match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, bind.port())
}

//! A TCP connection to a host that may have several addresses, of which some may be silent.
//!
//! # References
//! - RFC 8305, "Happy Eyeballs": a silent address does not use up the time of the next ones

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// How long an address is alone before the next one is tried beside it: the "Connection Attempt Delay".
const DELAY: Duration = Duration::from_millis(250);
/// The most addresses that are tried at a time: each is a file that is open.
const AT_ONCE: usize = 2;

/// Connects to whichever of a host's addresses accepts first, beginning with the first. Those that are silent share the time until `deadline`.
///
/// # Errors
/// That of the last address that has failed, [`TimedOut`](io::ErrorKind::TimedOut) for one that was silent; [`NotFound`](io::ErrorKind::NotFound) if
/// there is no address.
pub async fn connect(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    loop {
        let rounds = waiting.len().div_ceil(AT_ONCE) as u32;
        if attempts.len() < AT_ONCE
            && let Some(address) = waiting.next()
        {
            let share = deadline.saturating_duration_since(Instant::now()) / rounds;
            attempts.push(timeout(share, TcpStream::connect(*address)));
        } else if attempts.is_empty() {
            return Err(last);
        }
        let may_begin = waiting.len() > 0 && attempts.len() < AT_ONCE;
        let attempt = tokio::select! {
            Some(attempt) = attempts.next() => attempt,
            () = sleep(DELAY), if may_begin => continue,
        };
        match attempt {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_elapsed) => last = io::Error::new(io::ErrorKind::TimedOut, "no answer in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpSocket};

    /// An address that does not answer: its backlog is full. What fills it has to be kept.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut full = Vec::new();
        while let Ok(Ok(stream)) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            full.push(stream);
        }
        (address, full, listener)
    }

    #[tokio::test]
    async fn a_silent_address_does_not_use_up_the_time_of_the_others() {
        let (first, _full, _listener) = silent().await;
        let (second, _also_full, _also_listening) = silent().await;
        let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = good.local_addr().map(|address| (address, good)).unwrap();
        let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let connect = async |addresses: &[SocketAddr], ms| {
            let began = Instant::now();
            let connected = connect(addresses, began + Duration::from_millis(ms)).await;
            (connected.map(|stream| stream.peer_addr().unwrap()), began.elapsed())
        };
        let (connected, took) = connect(&[first, good.0], 10_000).await;
        assert_eq!(connected.unwrap(), good.0);
        assert!(took < Duration::from_secs(2), "{took:?}");
        // Both that are tried at a time are silent: they leave the third its share.
        let (connected, took) = connect(&[first, second, good.0], 2_000).await;
        assert_eq!(connected.unwrap(), good.0);
        assert!(took < Duration::from_millis(1_900), "{took:?}");
        let (connected, took) = connect(&[refusing, refusing, good.0], 10_000).await;
        assert_eq!(connected.unwrap(), good.0);
        assert!(took < Duration::from_secs(1), "what is refused is not waited for: {took:?}");
        let (connected, took) = connect(&[first, second], 400).await;
        assert_eq!(connected.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took < Duration::from_secs(2), "{took:?}");
        assert_eq!(connect(&[], 1_000).await.0.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! Bytes both ways, unchanged, until one side ends.
//!
//! A connection that is idle holds no buffer: bytes are read into the worker thread's own and written on at once; only what the other side
//! does not take yet is kept, at most one buffer a direction, and no more is read until it is gone (backpressure).

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Of a worker thread, shared by all of its connections. 64 KiB is what one `read` gets from a loopback socket in practice.
const BUFFER: usize = 64 * 1024;

/// How long a drained connection must be quiet before it is closed: nothing is on its way then.
const DRAIN_QUIET: Duration = Duration::from_millis(500);

/// How long the broker may take for its last answers after the client has closed its side.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How a relay ended.
#[derive(Debug)]
pub enum End {
    /// The client closed the connection.
    ClientClosed,
    /// The broker closed the connection.
    BrokerClosed,
    /// No byte in either direction for `connections_max_idle_ms`.
    Idle,
    /// The proxy is stopping, and the connection was quiet.
    Drained,
    /// The proxy is stopping, and the connection was not quiet in time.
    Cut,
    /// The client's socket failed.
    Client(io::Error),
    /// The broker's socket failed.
    Broker(io::Error),
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Direction {
    /// Read and not yet written: `pending[written..]`.
    pending: Vec<u8>,
    written: usize,
    unflushed: bool,
    ended: bool,
    bytes: u64,
}

/// Which end of a direction failed.
enum Failed {
    Reading(io::Error),
    Writing(io::Error),
}

impl Direction {
    fn holding(pending: Vec<u8>) -> Self {
        Self { bytes: pending.len() as u64, pending, ..Self::default() }
    }

    /// Moves bytes until one of the two has to wait. Ready once `from` has ended and `to` has been told so.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut (impl AsyncRead + ?Sized)>,
        mut to: Pin<&mut (impl AsyncWrite + ?Sized)>,
    ) -> Poll<Result<(), Failed>> {
        loop {
            while self.written < self.pending.len() {
                self.written += ready!(write(cx, to.as_mut(), &self.pending[self.written..])).map_err(Failed::Writing)?;
                self.unflushed = true;
            }
            if !self.pending.is_empty() {
                self.pending = Vec::new();
                self.written = 0;
            }
            if self.ended {
                return to.poll_shutdown(cx).map_err(Failed::Writing);
            }
            let step = SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(scratch);
                ready!(from.as_mut().poll_read(cx, &mut buf)).map_err(Failed::Reading)?;
                let read = buf.filled();
                self.ended = read.is_empty();
                self.bytes += read.len() as u64;
                let mut sent = 0;
                while sent < read.len() {
                    match write(cx, to.as_mut(), &read[sent..]) {
                        Poll::Ready(Ok(n)) => sent += n,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Writing(error))),
                        Poll::Pending => {
                            self.pending = read[sent..].to_vec();
                            break;
                        }
                    }
                }
                self.unflushed |= sent > 0;
                Poll::Ready(Ok(()))
            });
            match step {
                Poll::Ready(step) => step?,
                Poll::Pending => {
                    // TLS keeps what it encrypted until it is flushed.
                    if self.unflushed {
                        ready!(to.as_mut().poll_flush(cx)).map_err(Failed::Writing)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}

fn write(cx: &mut Context<'_>, to: Pin<&mut (impl AsyncWrite + ?Sized)>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    match ready!(to.poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        result => Poll::Ready(result),
    }
}

/// What a relay needs to know beside its two sides.
#[derive(Debug)]
pub struct Relay {
    /// Sent to the broker first, before anything that is read from the client.
    pub requests: Vec<u8>,
    /// Sent to the client first, before anything that is read from the broker.
    pub responses: Vec<u8>,
    /// `connections_max_idle_ms`
    pub max_idle: Duration,
    /// The proxy is stopping.
    pub drain: CancellationToken,
    /// It waits no longer.
    pub cut: CancellationToken,
}

/// Bytes moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the client to the broker.
    pub requests: u64,
    /// From the broker to the client.
    pub responses: u64,
}

impl Relay {
    /// Runs until one side ends, nothing moves for too long, or the proxy drains.
    pub async fn run<C, B>(self, client: C, broker: B) -> (End, Moved)
    where
        C: AsyncRead + AsyncWrite,
        B: AsyncRead + AsyncWrite,
    {
        let (mut client, mut broker) = (pin!(client), pin!(broker));
        let mut requests = Direction::holding(self.requests);
        let mut responses = Direction::holding(self.responses);
        let mut drained = pin!(self.drain.cancelled());
        let mut cut = pin!(self.cut.cancelled());
        let mut draining = false;
        // Set once no more requests can go out; the answers to the earlier ones may still come in.
        let mut no_more_requests = None;
        let mut seen = 0;
        let mut last_moved = Instant::now();
        let mut timer = pin!(sleep_until(last_moved + self.max_idle));
        let end = std::future::poll_fn(|cx| {
            if no_more_requests.is_none() {
                match requests.poll(cx, client.as_mut(), broker.as_mut()) {
                    Poll::Ready(Ok(())) => no_more_requests = Some(End::ClientClosed),
                    Poll::Ready(Err(Failed::Writing(error))) => no_more_requests = Some(End::Broker(error)),
                    Poll::Ready(Err(Failed::Reading(error))) => return Poll::Ready(End::Client(error)),
                    Poll::Pending => {}
                }
            }
            match responses.poll(cx, broker.as_mut(), client.as_mut()) {
                Poll::Ready(Ok(())) => return Poll::Ready(no_more_requests.take().unwrap_or(End::BrokerClosed)),
                Poll::Ready(Err(Failed::Reading(error))) => return Poll::Ready(no_more_requests.take().unwrap_or(End::Broker(error))),
                Poll::Ready(Err(Failed::Writing(error))) => return Poll::Ready(End::Client(error)),
                Poll::Pending => {}
            }
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            draining = draining || drained.as_mut().poll(cx).is_ready();
            let moved = requests.bytes + responses.bytes;
            if moved != seen {
                seen = moved;
                last_moved = Instant::now();
            }
            let quiet = match &no_more_requests {
                Some(_) => LAST_ANSWERS,
                None if draining => DRAIN_QUIET,
                None => self.max_idle,
            };
            // Moving the timer costs a lock, so it is only moved forward when it fires, or back when the limit has become shorter.
            let deadline = last_moved + quiet;
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            while timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= deadline {
                    let quiet = if draining { End::Drained } else { End::Idle };
                    return Poll::Ready(no_more_requests.take().unwrap_or(quiet));
                }
                timer.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await;
        (end, Moved { requests: requests.bytes, responses: responses.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn relay(max_idle: Duration, drain: &CancellationToken) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<(End, Moved)>) {
        let (client, client_side) = duplex(1000);
        let (broker, broker_side) = duplex(1000);
        let cut = CancellationToken::new();
        let relay = Relay { requests: b"first".to_vec(), responses: Vec::new(), max_idle, drain: drain.clone(), cut };
        (client, broker, tokio::spawn(relay.run(client_side, broker_side)))
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_arrive_in_order_behind_what_was_held_whatever_the_other_side_takes() {
        let (mut client, mut broker, running) = relay(Duration::from_mins(1), &CancellationToken::new());
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| n as u8).collect();
        let expected = [b"first".as_slice(), &sent].concat();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answers = Vec::new();
            client.read_to_end(&mut answers).await.unwrap();
            answers
        });
        let mut got = Vec::new();
        broker.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
        // The client has closed its side; the last answers still reach it.
        broker.write_all(b"the last answer").await.unwrap();
        drop(broker);
        assert_eq!(writer.await.unwrap(), b"the last answer");
        let (end, moved) = running.await.unwrap();
        assert!(matches!(end, End::ClientClosed), "{end:?}");
        assert_eq!(moved, Moved { requests: expected.len() as u64, responses: 15 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_connection_ends_after_the_idle_time_and_not_before() {
        let start = Instant::now();
        let (mut client, mut broker, running) = relay(Duration::from_mins(1), &CancellationToken::new());
        broker.read_exact(&mut [0; 5]).await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            client.write_all(b"x").await.unwrap();
            broker.read_exact(&mut [0]).await.unwrap();
        }
        assert!(matches!(running.await.unwrap().0, End::Idle));
        assert_eq!(start.elapsed().as_secs(), 590 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_connection_ends_at_a_quiet_moment() {
        let drain = CancellationToken::new();
        let (mut client, mut broker, running) = relay(Duration::from_mins(10), &drain);
        broker.read_exact(&mut [0; 5]).await.unwrap();
        drain.cancel();
        for _ in 0..10 {
            tokio::time::sleep(DRAIN_QUIET / 2).await;
            client.write_all(b"x").await.unwrap();
            broker.read_exact(&mut [0]).await.unwrap();
        }
        assert!(!running.is_finished());
        assert!(matches!(running.await.unwrap().0, End::Drained));
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_closes_ends_it_at_once() {
        let start = Instant::now();
        let (mut client, mut broker, running) = relay(Duration::from_mins(10), &CancellationToken::new());
        broker.write_all(b"bye").await.unwrap();
        drop(broker);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"bye");
        let end = running.await.unwrap().0;
        assert!(matches!(end, End::Broker(_)), "the first request did not get through: {end:?}");
        assert_eq!(start.elapsed().as_secs(), 0);
    }
}

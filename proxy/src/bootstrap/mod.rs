//! Bootstrap mode: bytes both ways, unchanged, until one side ends.
//!
//! A connection that is idle holds no buffer: bytes are read into the worker thread's own and written on at once; only what the other side
//! does not take yet is kept, at most one buffer a direction, and no more is read until it is gone (backpressure).

mod direction;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use self::direction::{Direction, Failed};
use crate::ending::{Cause, Ending, Moved};
use crate::quiet::{Activity, Patience, Quiet};

/// A connection in bootstrap mode, as far as its two sides do not say it.
#[derive(Debug)]
pub(crate) struct ByteRelay {
    /// Sent to the broker first, before anything that is read from the client.
    pub requests: Vec<u8>,
    /// Sent to the client first, before anything that is read from the broker.
    pub responses: Vec<u8>,
    /// `connections_max_idle_ms`
    pub max_idle: Duration,
    /// Cancelled when the proxy stops: the connection ends once it is quiet.
    pub drain: CancellationToken,
    /// Cancelled when `drain_timeout_ms` is over: the connection ends.
    pub cut: CancellationToken,
}

impl ByteRelay {
    /// Runs until one side ends, nothing moves for too long, or the proxy drains.
    pub(crate) async fn run<C, B>(self, client: C, broker: B) -> Ending
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
        // Why no more requests can go out, once that is so; the responses to the earlier ones may still come in.
        let mut no_more_requests = None;
        let mut quiet = Quiet::new(Instant::now());
        let mut timer = pin!(sleep_until(quiet.deadline(Patience::Idle(self.max_idle))));
        let cause = std::future::poll_fn(|cx| {
            if no_more_requests.is_none() {
                match requests.poll(cx, client.as_mut(), broker.as_mut()) {
                    Poll::Ready(Ok(())) => no_more_requests = Some(Cause::ClientClosed),
                    Poll::Ready(Err(Failed::Writing(error))) => no_more_requests = Some(Cause::BrokerError(error)),
                    Poll::Ready(Err(Failed::Reading(error))) => return Poll::Ready(Cause::ClientError(error)),
                    Poll::Pending => {}
                }
            }
            match responses.poll(cx, broker.as_mut(), client.as_mut()) {
                Poll::Ready(Ok(())) => return Poll::Ready(no_more_requests.take().unwrap_or(Cause::BrokerClosed)),
                Poll::Ready(Err(Failed::Reading(error))) => {
                    return Poll::Ready(no_more_requests.take().unwrap_or(Cause::BrokerError(error)));
                }
                Poll::Ready(Err(Failed::Writing(error))) => return Poll::Ready(Cause::ClientError(error)),
                Poll::Pending => {}
            }
            if cut.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Cause::Cut);
            }
            draining = draining || drained.as_mut().poll(cx).is_ready();
            let activity = Activity { bytes: requests.bytes + responses.bytes, in_flight: 0 };
            let patience = match &no_more_requests {
                Some(_) => Patience::LastResponses,
                None => Patience::with(draining, self.max_idle),
            };
            loop {
                if quiet.look(activity, patience, Instant::now()) {
                    return Poll::Ready(no_more_requests.take().unwrap_or_else(|| patience.cause()));
                }
                // Moving the timer costs a lock, so it is only moved forward when it fires, or back when the limit has become shorter.
                let deadline = quiet.deadline(patience);
                if timer.deadline() > deadline {
                    timer.as_mut().reset(deadline);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                timer.as_mut().reset(deadline);
            }
        })
        .await;
        Ending { cause, moved: Moved { requests: requests.bytes, responses: responses.bytes } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn relay(max_idle: Duration, drain: &CancellationToken) -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Ending>) {
        let (client, client_side) = duplex(1000);
        let (broker, broker_side) = duplex(1000);
        let cut = CancellationToken::new();
        let relay = ByteRelay { requests: b"first".to_vec(), responses: Vec::new(), max_idle, drain: drain.clone(), cut };
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
        let Ending { cause, moved } = running.await.unwrap();
        assert!(matches!(cause, Cause::ClientClosed), "{cause:?}");
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
        assert!(matches!(running.await.unwrap().cause, Cause::Idle));
        assert_eq!(start.elapsed().as_secs(), 590 + 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_connection_ends_at_a_quiet_moment() {
        let drain = CancellationToken::new();
        let (mut client, mut broker, running) = relay(Duration::from_mins(10), &drain);
        broker.read_exact(&mut [0; 5]).await.unwrap();
        drain.cancel();
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            client.write_all(b"x").await.unwrap();
            broker.read_exact(&mut [0]).await.unwrap();
        }
        assert!(!running.is_finished());
        assert!(matches!(running.await.unwrap().cause, Cause::Drained));
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
        let cause = running.await.unwrap().cause;
        assert!(matches!(cause, Cause::BrokerError(_)), "the first request did not get through: {cause:?}");
        assert_eq!(start.elapsed().as_secs(), 0);
    }
}

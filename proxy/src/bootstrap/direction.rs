//! One direction of a connection in bootstrap mode: bytes from one side to the other, held only while the other side does not take them.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of a worker thread's buffer, shared by all of its connections. 64 KiB is what one `read` gets from a loopback socket in practice.
const BUFFER: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Direction {
    /// Bytes that were read, of which the first `written` have been written: at most [`BUFFER`], and none where the other side takes all at once.
    pending: Vec<u8>,
    written: usize,
    /// Something was written since the last flush.
    unflushed: bool,
    /// The side that is read has closed.
    ended: bool,
    /// Bytes read so far, those included that the direction began with.
    pub bytes: u64,
}

/// Which end of a direction failed.
pub(super) enum Failed {
    /// The one that is read.
    Reading(io::Error),
    /// The one that is written to.
    Writing(io::Error),
}

impl Direction {
    /// One that begins with bytes which were read already.
    pub(super) fn holding(pending: Vec<u8>) -> Self {
        Self { bytes: pending.len() as u64, pending, ..Self::default() }
    }

    /// Moves bytes until one of the two has to wait. Ready once `from` has ended and `to` has been told so.
    pub(super) fn poll(
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

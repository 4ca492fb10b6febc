//! Reading and writing the two connections of a relayed client, a frame at a time.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use kferry_wire::stream::{Reader, Writer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of one read. Small frames arrive whole in it, of large ones only the beginning is copied.
const BUFFER: usize = 16 * 1024;

/// Bytes that were read and not yet passed on.
pub(super) struct Source<'a> {
    /// The connection that they are read from.
    pub from: Reader,
    /// Bytes that were read, of which the first `start` have been passed on.
    pub buf: Vec<u8>,
    /// At most `buf.len()`.
    pub start: usize,
    /// Bytes of a frame that is being passed on, and that were not read yet; `usize::MAX` where nobody knows how many.
    pub left: usize,
    /// Counts every byte that is read.
    pub count: &'a AtomicU64,
}

impl Source<'_> {
    /// Those that are there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// Reads more; false at the end. Safe to cancel. A connection that waits with nothing half read holds no buffer.
    pub(super) async fn more(&mut self) -> io::Result<bool> {
        if self.bytes().is_empty() {
            (self.buf, self.start) = (Vec::new(), 0);
            self.from.readable().await?;
        }
        self.buf.drain(..self.start);
        self.start = 0;
        self.buf.reserve(BUFFER);
        let read = self.from.read_buf(&mut self.buf).await?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read > 0)
    }

    /// Puts others in the place of bytes that are there, from `at` on.
    pub(super) fn change(&mut self, at: usize, with: &[u8]) {
        self.buf[self.start + at..][..with.len()].copy_from_slice(with);
    }

    /// Takes the whole frame, `len` bytes from here, and reads what is missing of it.
    pub(super) async fn whole(&mut self, len: usize) -> io::Result<Vec<u8>> {
        self.at_least(len).await?;
        if self.start == 0 && self.buf.len() == len {
            return Ok(std::mem::take(&mut self.buf));
        }
        let frame = self.bytes()[..len].to_vec();
        self.start += len;
        Ok(frame)
    }

    /// Reads what is left of a frame that could not be passed on.
    pub(super) async fn rest(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.left) {
            usize::MAX => Err(io::ErrorKind::UnexpectedEof.into()),
            left => self.skip(left).await,
        }
    }

    /// Reads so many bytes, for nobody.
    pub(super) async fn skip(&mut self, mut len: usize) -> io::Result<()> {
        loop {
            let arrived = self.bytes().len().min(len);
            self.start += arrived;
            len -= arrived;
            if len == 0 {
                return Ok(());
            }
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Reads until so many bytes are there.
    pub(super) async fn at_least(&mut self, len: usize) -> io::Result<()> {
        while self.bytes().len() < len {
            if !self.more().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Writes a frame of a header and a body.
pub(super) async fn write_frame(to: &mut Writer, head: &[u8], body: &[u8]) -> io::Result<()> {
    let size = (head.len() + body.len()) as i32;
    send(to, &[&size.to_be_bytes()[..], head, body].concat()).await
}

/// Writes and flushes: TLS keeps what it encrypted until then.
pub(super) async fn send(to: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

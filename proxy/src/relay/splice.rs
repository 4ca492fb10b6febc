//! An exact number of bytes from one connection to another: the body of a large request or answer.
//!
//! Between two plaintext connections [`move_exactly`] lets the kernel pass the pages on (`splice(2)`: socket, pipe, socket), for about
//! two thirds of the CPU that copying them costs. Where there is no pipe to be had it copies; [`copy_exactly`] is for TLS.
//!
//! What waits holds nothing. Bytes are taken from the one side only when the other takes some, so a silent source costs neither pipe nor
//! buffer, and what a slow target does not take stays in the source's socket and makes the source wait too (backpressure); at most one pipe
//! is on its way. Copies go through the worker thread's own buffer: with buffers from a bounded pool, readers that have stopped and hold
//! them all would stop everybody else.
//!
//! `make bench-relay` shows what [`move_exactly`] costs beside the floor, a bare C program that splices with a pipe of the same size. What it cost
//! more was neither the pipes nor their pool (it makes about as many calls of `splice(2)` as the floor) but giving way: a `yield_now` after each
//! 1 MiB made tokio wake the other worker thread, some 500 times for a GB. On 2 cores, 9 rounds in turns, before: 1.31 of the floor's CPU time;
//! paid from the task's budget ([`PER_UNIT`]): 1.13, as with a single worker thread. What is left is a call of `splice(2)` that finds nothing where
//! the floor polls first, `epoll_wait` where a runtime parks, and the polls of all futures of the connection at each wake-up.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, ready};

use kferry_wire::tell;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;

use crate::messages;

/// Of a pipe, and so the most that is on its way between two sockets. `pipe-max-size` allows an ordinary user no more, and with less each
/// byte costs more CPU (per GB 0.25 s, at 256 KiB 0.35, at 64 KiB 0.4).
const PIPE: usize = 1024 * 1024;

/// A pipe smaller than this is not used: at 64 KiB splicing costs what copying does.
const SMALLEST_PIPE: usize = 256 * 1024;

/// How many times copying goes on without asking, after the kernel refused a pipe. Its reason may pass (another process of the user holds
/// pipes, no file descriptor was left just then), and asking costs some 10 µs: nothing beside this many copies.
const ASK_AGAIN_AFTER: usize = 1000;

/// Of a worker thread, for copies, shared by all of its connections. 64 KiB cost half as much CPU again, 1 MiB saves a
/// sixth for four times the memory.
const BUFFER: usize = 256 * 1024;

/// A stalled target is not offered less than this: about what makes a socket writable again.
const SMALLEST_PORTION: usize = 16 * 1024;

/// Bytes that [`move_exactly`] moves for one unit of its task's budget. Two fast sockets are always ready, and would keep the worker thread for a
/// whole body of 100 MiB; tokio gives a task 128 units, and a new budget only once the other tasks had their turn. So these are 8 MiB, some 2 ms of
/// CPU. Not less: a task that gives way without having to wait makes tokio wake an idle worker thread too, which finds nothing to do, or takes the
/// connection over with nothing of it in its caches. After each 1 MiB that cost as much as a fifth of all.
const PER_UNIT: usize = 64 * 1024;

/// Bytes after which [`copy_exactly`] lets other tasks have their turn. A byte costs it several times what it costs [`move_exactly`].
const TURN: usize = 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// Why not all of the bytes were moved. Some of them may have been; both connections are of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MoveError {
    /// The connection that they come from failed.
    #[error("reading failed: {0}")]
    Reading(#[source] io::Error),
    /// The connection that they go to failed.
    #[error("writing failed: {0}")]
    Writing(#[source] io::Error),
    /// The connection that they come from was closed in the middle.
    #[error("closed after {moved} bytes of a body, before its end")]
    Ended {
        /// Bytes that the target has got.
        moved: u64,
    },
}

/// The pipes of the process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Pipes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    open: fn() -> Result<Pipe, Errno>,
    pool: Mutex<Pool>,
    spliced: AtomicU64,
    copied: AtomicU64,
    tls: AtomicU64,
}

#[derive(Debug)]
struct Pool {
    limit: usize,
    /// Those that exist, in use or not.
    open: usize,
    /// All of them empty.
    idle: Vec<Pipe>,
    /// [`ASK_AGAIN_AFTER`], counted down.
    refused: usize,
    warned: bool,
}

/// Bytes that have been moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// By [`move_exactly`], through a pipe.
    pub spliced: u64,
    /// By [`move_exactly`], through a buffer for want of a pipe.
    pub copied: u64,
    /// By [`copy_exactly`], with TLS on a side.
    pub tls: u64,
}

impl Pipes {
    /// At most so many pipes, two file descriptors each; opened when they are needed. More than 64 of [`PIPE`] make no sense: `pipe-user-pages-soft` is
    /// 16,384 pages for all processes of an ordinary user together. Once they are used up any new pipe has 8 KiB: one more reason to run the proxy
    /// as a user of its own.
    pub(crate) fn new(limit: usize) -> Self {
        Self::opened_by(limit, Pipe::open)
    }

    fn opened_by(limit: usize, open: fn() -> Result<Pipe, Errno>) -> Self {
        let pool = Pool { limit, open: 0, idle: Vec::new(), refused: 0, warned: false };
        Self(Arc::new(Shared {
            open,
            pool: Mutex::new(pool),
            spliced: AtomicU64::new(0),
            copied: AtomicU64::new(0),
            tls: AtomicU64::new(0),
        }))
    }

    /// What was moved, and how.
    pub(crate) fn totals(&self) -> Totals {
        let Shared { spliced, copied, tls, .. } = &*self.0;
        let [spliced, copied, tls] = [spliced, copied, tls].map(|bytes| bytes.load(Ordering::Relaxed));
        Totals { spliced, copied, tls }
    }

    /// Somebody has moved a body with TLS on a side, which no pipe can.
    pub(crate) fn add_tls(&self, bytes: u64) {
        self.0.tls.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Pipes that have bytes in them or are just getting some, and how many there may be: 0 where splicing does not work.
    pub(crate) fn in_use(&self) -> (usize, usize) {
        let pool = self.0.pool();
        (pool.open - pool.idle.len(), pool.limit)
    }

    fn take(&self) -> Option<Taken<'_>> {
        let pipe = {
            let mut pool = self.0.pool();
            match pool.idle.pop() {
                Some(pipe) => Some(pipe),
                None if pool.open >= pool.limit => return None,
                None if pool.refused > 0 => {
                    pool.refused -= 1;
                    return None;
                }
                None => {
                    pool.open += 1;
                    None
                }
            }
        };
        match pipe.map_or_else(self.0.open, Ok) {
            Ok(pipe) => Some(Taken { pipe: Some(pipe), pipes: &self.0 }),
            Err(error) => {
                let mut pool = self.0.pool();
                pool.open -= 1;
                pool.refused = ASK_AGAIN_AFTER;
                pool.warn(error);
                None
            }
        }
    }

    /// Splicing does not work here at all.
    fn give_up(&self, error: Errno) {
        let mut pool = self.0.pool();
        pool.limit = 0;
        pool.open -= pool.idle.len();
        pool.idle.clear();
        pool.warn(error);
    }
}

impl Shared {
    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    fn warn(&mut self, error: Errno) {
        if !self.warned {
            self.warned = true;
            let pipes = self.open;
            tell!(messages::NO_MORE_PIPES, %error, pipes);
        }
    }
}

/// A pipe that goes back to the pool when it is dropped, unless bytes are left in it: they would come out into another connection.
struct Taken<'a> {
    /// `None` only while it is dropped.
    pipe: Option<Pipe>,
    pipes: &'a Shared,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut pool = self.pipes.pool();
        match self.pipe.take() {
            Some(pipe) if pipe.holds == 0 && pool.limit > 0 => pool.idle.push(pipe),
            _ => pool.open -= 1,
        }
    }
}

#[derive(Debug)]
struct Pipe {
    #[cfg(target_os = "linux")]
    ends: (rustix::fd::OwnedFd, rustix::fd::OwnedFd),
    size: usize,
    holds: usize,
}

#[cfg(target_os = "linux")]
impl Pipe {
    fn open() -> Result<Self, Errno> {
        use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

        let ends = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let mut wanted = PIPE;
        loop {
            match fcntl_setpipe_size(&ends.1, wanted) {
                Ok(size) => return Ok(Self { ends, size, holds: 0 }),
                // The user's pages are used up (or root has set pipe-max-size lower): there may be enough left for a smaller one.
                Err(Errno::PERM) if wanted > SMALLEST_PIPE => wanted /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes at most `most` bytes from a socket; 0 is its end. Only into an empty pipe: for a full one the error would be the same as for a
    /// socket that has nothing, and it may be full at any number of bytes (each segment takes a slot of its own).
    fn fill(&mut self, from: &TcpStream, most: usize) -> Result<usize, Errno> {
        use rustix::pipe::{SpliceFlags, splice};

        debug_assert_eq!(self.holds, 0);
        let most = most.min(self.size);
        self.holds = retry_on_intr(|| splice(from, None, &self.ends.1, None, most, SpliceFlags::NONBLOCK))?;
        Ok(self.holds)
    }

    /// Gives a socket as much as it takes. Never asks for more than is there: kernels before 6.5 would wait for the rest of it (as with
    /// `MSG_MORE`) and hold a last, partial segment back for 200 ms.
    fn drain(&mut self, to: &TcpStream) -> Result<usize, Errno> {
        use rustix::pipe::{SpliceFlags, splice};

        // A signal (SIGHUP reloads) interrupts a splice, even one that need not wait.
        let taken = retry_on_intr(|| splice(&self.ends.0, None, to, None, self.holds, SpliceFlags::NONBLOCK))?;
        self.holds -= taken;
        Ok(taken)
    }
}

/// `splice(2)` is Linux's.
#[cfg(not(target_os = "linux"))]
impl Pipe {
    fn open() -> Result<Self, Errno> {
        Err(Errno::NOSYS)
    }

    fn fill(&mut self, _from: &TcpStream, _most: usize) -> Result<usize, Errno> {
        Err(Errno::NOSYS)
    }

    fn drain(&mut self, _to: &TcpStream) -> Result<usize, Errno> {
        Err(Errno::NOSYS)
    }
}

/// What became of one portion.
enum Step {
    /// The source had nothing after all.
    Nothing,
    /// The source is closed.
    Ended,
    /// So many bytes have reached the target.
    Moved {
        bytes: usize,
        /// Of them, those that the target took without being waited for.
        at_once: usize,
        /// These were all that it was offered.
        all: bool,
    },
}

/// For bytes that others follow at once: the kernel sends a last, partial segment together with those.
#[cfg(target_os = "linux")]
const AHEAD: SendFlags = SendFlags::MORE;
#[cfg(not(target_os = "linux"))]
const AHEAD: SendFlags = SendFlags::empty();

/// Sends the beginning of a frame whose rest follows by [`move_exactly`]: so the peer is woken once for both.
pub(crate) async fn send_ahead(to: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let sent = to.async_io(Interest::WRITABLE, || Ok(send(to, bytes, AHEAD)?)).await?;
        bytes = &bytes[sent..];
    }
    Ok(())
}

/// Moves exactly `n` bytes and says so, or how far it got. Adds to `count` as they go.
///
/// Both streams are only borrowed, so that the two directions of a connection can run side by side; of each stream, one task reads and one
/// writes. A future that is dropped midway may have taken bytes that the target never gets: close both connections then.
pub(crate) async fn move_exactly(from: &TcpStream, to: &TcpStream, n: u64, pipes: &Pipes, count: &AtomicU64) -> Result<u64, MoveError> {
    let mut moved = 0;
    // Follows what the target takes: how much room a socket has cannot be asked, and what it has none for would sit in a pipe
    // that others could use, or be copied in vain. It starts with all: bodies of 1 MiB are the usual ones (max.partition.fetch.bytes), and
    // to start with 256 KiB made them a quarter dearer.
    let mut portion = PIPE;
    while moved < n {
        // One after the other: waiting for both at once would spin while only one of them is ready.
        from.readable().await.map_err(MoveError::Reading)?;
        to.writable().await.map_err(MoveError::Writing)?;
        let most = usize::try_from(n - moved).unwrap_or(usize::MAX).min(portion);
        let step = match pipes.take() {
            Some(pipe) => splice_some(from, to, most, pipe, pipes).await?,
            None => copy_some(from, to, most, pipes)?,
        };
        match step {
            Step::Nothing => {}
            Step::Ended => return Err(MoveError::Ended { moved }),
            Step::Moved { bytes, at_once, all } => {
                moved += bytes as u64;
                count.fetch_add(bytes as u64, Ordering::Relaxed);
                portion = if all { (2 * portion).min(PIPE) } else { at_once.max(SMALLEST_PORTION) };
                // Whoever is told that all has gone must be told at once: what a connection has sent counts from there.
                if moved < n {
                    pay(bytes).await;
                }
            }
        }
    }
    Ok(moved)
}

/// Pays for bytes that were moved. Who has spent the budget of its task lets others have their turn, and so gets a new one; so does who had to wait.
async fn pay(bytes: usize) {
    for _ in 0..bytes.div_ceil(PER_UNIT) {
        tokio::task::coop::consume_budget().await;
    }
}

/// Fills a pipe and empties it.
async fn splice_some(from: &TcpStream, to: &TcpStream, most: usize, mut taken: Taken<'_>, pipes: &Pipes) -> Result<Step, MoveError> {
    let pipe = taken.pipe.as_mut().expect("taken away only by drop");
    let bytes = match from.try_io(Interest::READABLE, || Ok(pipe.fill(from, most)?)) {
        Ok(0) => return Ok(Step::Ended),
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
        Err(error) => match Errno::from_io_error(&error) {
            // Not this socket's fault: a sandbox or an old kernel. Nothing was taken, so copying can go on from here.
            Some(unsupported @ (Errno::INVAL | Errno::NOSYS | Errno::PERM | Errno::OPNOTSUPP)) => {
                pipes.give_up(unsupported);
                drop(taken);
                return copy_some(from, to, most, pipes);
            }
            _ => return Err(MoveError::Reading(error)),
        },
    };
    let at_once = match to.try_io(Interest::WRITABLE, || Ok(pipe.drain(to)?)) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        result => result.map_err(MoveError::Writing)?,
    };
    while pipe.holds > 0 {
        to.async_io(Interest::WRITABLE, || Ok(pipe.drain(to)?)).await.map_err(MoveError::Writing)?;
    }
    pipes.0.spliced.fetch_add(bytes as u64, Ordering::Relaxed);
    Ok(Step::Moved { bytes, at_once, all: at_once == bytes })
}

/// Looks at what has come in, and takes from it what the target took: so nothing has to be kept.
fn copy_some(from: &TcpStream, to: &TcpStream, most: usize, pipes: &Pipes) -> Result<Step, MoveError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let most = most.min(BUFFER);
        let seen = match from.try_io(Interest::READABLE, || Ok(recv(from, &mut scratch[..most], RecvFlags::PEEK)?.1)) {
            Ok(0) => return Ok(Step::Ended),
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Nothing),
            Err(error) => return Err(MoveError::Reading(error)),
        };
        let sent = match to.try_write(&scratch[..seen]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            result => result.map_err(MoveError::Writing)?,
        };
        let mut taken = 0;
        while taken < sent {
            // On Linux TRUNC is "throw away" and copies nothing (tcp(7)); elsewhere it reads them once more.
            taken += recv(from, &mut scratch[..sent - taken], RecvFlags::TRUNC).map_err(|error| MoveError::Reading(error.into()))?.1;
        }
        pipes.0.copied.fetch_add(sent as u64, Ordering::Relaxed);
        Ok(Step::Moved { bytes: sent, at_once: sent, all: sent == seen })
    })
}

/// Moves exactly `n` bytes and flushes them, or says how far it got. Adds to `count` as they go. For sides of which one is TLS.
///
/// A future that is dropped midway may have taken bytes that the target never gets: close both connections then.
pub(crate) async fn copy_exactly<R, W>(from: &mut R, to: &mut W, n: u64, count: &AtomicU64) -> Result<u64, MoveError>
where
    R: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut moved = 0;
    let mut turn = 0;
    let mut unflushed = false;
    while moved < n {
        let most = usize::try_from(n - moved).unwrap_or(usize::MAX).min(BUFFER);
        let step = poll_fn(|cx| {
            SCRATCH.with_borrow_mut(|scratch| {
                let mut buf = ReadBuf::new(&mut scratch[..most]);
                let Poll::Ready(result) = Pin::new(&mut *from).poll_read(cx, &mut buf) else {
                    // TLS keeps what it encrypted until it is flushed, and the source may have nothing more for a while.
                    if unflushed {
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(MoveError::Writing)?;
                        unflushed = false;
                    }
                    return Poll::Pending;
                };
                result.map_err(MoveError::Reading)?;
                let got = buf.filled();
                let mut sent = 0;
                while sent < got.len() {
                    match Pin::new(&mut *to).poll_write(cx, &got[sent..]) {
                        Poll::Ready(Ok(0)) => return Poll::Ready(Err(MoveError::Writing(io::ErrorKind::WriteZero.into()))),
                        Poll::Ready(result) => sent += result.map_err(MoveError::Writing)?,
                        Poll::Pending => break,
                    }
                }
                unflushed |= sent > 0;
                Poll::Ready(Ok((got.len(), got[sent..].to_vec())))
            })
        });
        let (got, rest) = step.await?;
        if got == 0 {
            return Err(MoveError::Ended { moved });
        }
        // The rest, and no more, waits until there is room: TLS has no way to look at bytes without taking them.
        to.write_all(&rest).await.map_err(MoveError::Writing)?;
        unflushed = true;
        moved += got as u64;
        count.fetch_add(got as u64, Ordering::Relaxed);
        turn += got;
        if turn >= TURN {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    to.flush().await.map_err(MoveError::Writing)?;
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_PIPES: usize = 64;
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, BufWriter, duplex};
    use tokio::net::{TcpListener, TcpSocket};
    use tokio::time::{sleep, timeout};

    const MIB: u64 = 1024 * 1024;

    /// What is sent, over and over. Its length is a prime, so that no page, portion or pipe in the wrong place looks right.
    static PATTERN: LazyLock<Vec<u8>> =
        LazyLock::new(|| (0..1_048_573u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect());

    async fn send(to: &mut (impl AsyncWrite + Unpin), n: u64) -> io::Result<()> {
        let mut left = n as usize;
        while left > 0 {
            let part = left.min(PATTERN.len());
            to.write_all(&PATTERN[..part]).await?;
            left -= part;
        }
        Ok(())
    }

    async fn receive(from: &mut (impl AsyncRead + Unpin), n: u64) {
        let mut got = vec![0; PATTERN.len()];
        let mut left = n as usize;
        while left > 0 {
            let part = left.min(got.len());
            from.read_exact(&mut got[..part]).await.unwrap();
            assert!(got[..part] == PATTERN[..part], "other bytes than were sent, within {part} bytes of which {left} were left");
            left -= part;
        }
    }

    /// A client's end and the proxy's end. `buffers`: of each socket (the kernel doubles it); with `None` they grow with the traffic.
    async fn connection(buffers: Option<u32>) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(size) = buffers {
            socket.set_send_buffer_size(size).unwrap();
            socket.set_recv_buffer_size(size).unwrap();
            rustix::net::sockopt::set_socket_send_buffer_size(&listener, size as usize).unwrap();
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, size as usize).unwrap();
        }
        let client = socket.connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    /// The pipes that exist and those of them that nobody holds.
    fn open_and_idle(pipes: &Pipes) -> (usize, usize) {
        let pool = pipes.0.pool();
        (pool.open, pool.idle.len())
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let wait = async {
            while !condition() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("not in 30 s: {what}"));
    }

    /// Sends `n` bytes and one more through [`move_exactly`]; the one must stay where it is.
    async fn goes_through(n: u64, pipes: &Pipes, buffers: Option<u32>) {
        let (mut source, mut from) = connection(buffers).await;
        let (to, mut target) = connection(buffers).await;
        let sending = tokio::spawn(async move {
            send(&mut source, n).await.unwrap();
            source.write_all(b"!").await.unwrap();
            source
        });
        let receiving = tokio::spawn(async move {
            receive(&mut target, n).await;
            target
        });
        assert_eq!(move_exactly(&from, &to, n, pipes, &AtomicU64::new(0)).await.unwrap(), n);
        let mut next = [0];
        from.read_exact(&mut next).await.unwrap();
        assert_eq!(&next, b"!");
        sending.await.unwrap();
        let mut target = receiving.await.unwrap();
        drop(to);
        assert_eq!(target.read(&mut next).await.unwrap(), 0, "more bytes arrived than were to be moved");
    }

    #[tokio::test]
    async fn every_size_arrives_as_it_was_sent() {
        let (splicing, copying) = (Pipes::new(2), Pipes::new(0));
        let sizes = [0, 1, MIB - 1, MIB, MIB + 1, 7 * MIB + 11];
        for n in sizes {
            goes_through(n, &splicing, None).await;
            goes_through(n, &copying, None).await;
            goes_through(n, &splicing, Some(8192)).await;
            goes_through(n, &copying, Some(8192)).await;
        }
        let all = 2 * sizes.iter().sum::<u64>();
        assert_eq!(splicing.totals(), Totals { spliced: all, copied: 0, tls: 0 });
        assert_eq!(copying.totals(), Totals { spliced: 0, copied: all, tls: 0 });
        assert_eq!(open_and_idle(&splicing), (1, 1), "one after the other needs one pipe");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_body_of_300_mib_arrives_as_it_was_sent() {
        for pipes in [Pipes::new(1), Pipes::new(0)] {
            goes_through(300 * MIB, &pipes, None).await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_stops_the_source_and_costs_nothing_meanwhile() {
        for pipes in [Pipes::new(1), Pipes::new(0)] {
            let n = 16 * MIB;
            let (mut source, from) = connection(Some(65536)).await;
            let (to, mut target) = connection(Some(65536)).await;
            let sent = Arc::new(AtomicU64::new(0));
            let polls = Arc::new(AtomicUsize::new(0));
            let sending = tokio::spawn({
                let sent = sent.clone();
                async move {
                    let mut left = n as usize;
                    while left > 0 {
                        for part in PATTERN[..left.min(PATTERN.len())].chunks(4096) {
                            source.write_all(part).await.unwrap();
                            sent.fetch_add(part.len() as u64, Ordering::Relaxed);
                            left -= part.len();
                        }
                    }
                    source
                }
            });
            let moving = tokio::spawn({
                let (polls, pipes) = (polls.clone(), pipes.clone());
                async move {
                    let count = AtomicU64::new(0);
                    let mut moving = Box::pin(move_exactly(&from, &to, n, &pipes, &count));
                    poll_fn(|cx| {
                        polls.fetch_add(1, Ordering::Relaxed);
                        moving.as_mut().poll(cx)
                    })
                    .await
                }
            });
            let mut before = (0, 0);
            loop {
                sleep(Duration::from_millis(300)).await;
                let now = (sent.load(Ordering::Relaxed), polls.load(Ordering::Relaxed));
                if now == before {
                    break;
                }
                before = now;
            }
            // Four socket buffers of which the kernel makes 128 KiB each, and a pipe.
            assert!((1..3 * MIB / 2).contains(&before.0), "{} bytes taken from the source", before.0);
            receive(&mut target, n).await;
            assert_eq!(moving.await.unwrap().unwrap(), n);
            sending.await.unwrap();
        }
    }

    /// With ends that always have more, and take more: threads of their own.
    #[tokio::test]
    async fn a_fast_body_lets_others_of_its_thread_have_their_turn() {
        let n = 512 * MIB;
        let (source, from) = connection(None).await;
        let (to, target) = connection(None).await;
        let [mut source, mut target] = [source, target].map(|end| end.into_std().unwrap());
        source.set_nonblocking(false).unwrap();
        target.set_nonblocking(false).unwrap();
        let sending = std::thread::spawn(move || {
            for part in std::iter::repeat_n(&PATTERN[..MIB as usize / 2], 2 * n as usize / MIB as usize) {
                io::Write::write_all(&mut source, part).unwrap();
            }
        });
        let receiving = std::thread::spawn(move || {
            let mut got = vec![0; MIB as usize];
            for _ in 0..n / MIB {
                io::Read::read_exact(&mut target, &mut got).unwrap();
            }
        });
        let count = Arc::new(AtomicU64::new(0));
        let other = tokio::spawn({
            let count = count.clone();
            async move {
                let (mut before, mut longest) = (0, 0);
                while before < n {
                    let now = count.load(Ordering::Relaxed);
                    longest = longest.max(now - before);
                    before = now;
                    tokio::task::yield_now().await;
                }
                longest
            }
        });
        assert_eq!(move_exactly(&from, &to, n, &Pipes::new(1), &count).await.unwrap(), n);
        let longest = other.await.unwrap();
        // What the budget pays for, and the portion in which it runs out.
        let most = 128 * PER_UNIT + PIPE;
        assert!(longest <= most as u64, "{longest} bytes moved before another task of the thread had its turn");
        sending.join().unwrap();
        receiving.join().unwrap();
    }

    #[tokio::test]
    async fn a_silent_source_costs_no_pipe() {
        let pipes = Pipes::new(1);
        let (mut source, from) = connection(None).await;
        let (to, mut target) = connection(None).await;
        let moving = tokio::spawn({
            let pipes = pipes.clone();
            async move { move_exactly(&from, &to, 2 * MIB, &pipes, &AtomicU64::new(0)).await }
        });
        sleep(Duration::from_millis(50)).await;
        let (open, idle) = open_and_idle(&pipes);
        assert_eq!(open, idle);
        send(&mut source, MIB).await.unwrap();
        receive(&mut target, MIB).await;
        until("the pipe is back", || open_and_idle(&pipes) == (1, 1)).await;
        // Somebody else can have it while the first waits in the middle of a body.
        goes_through(MIB, &pipes, None).await;
        assert_eq!(pipes.totals(), Totals { spliced: 2 * MIB, copied: 0, tls: 0 });
        moving.abort();
        assert!(moving.await.unwrap_err().is_cancelled());
        assert_eq!(open_and_idle(&pipes), (1, 1));
    }

    #[tokio::test]
    async fn a_source_that_ends_early_says_how_far_it_got() {
        for pipes in [Pipes::new(1), Pipes::new(0)] {
            let (mut source, from) = connection(None).await;
            let (to, mut target) = connection(None).await;
            send(&mut source, 100_000).await.unwrap();
            drop(source);
            let error = move_exactly(&from, &to, 100_001, &pipes, &AtomicU64::new(0)).await.unwrap_err();
            assert!(matches!(error, MoveError::Ended { moved: 100_000 }), "{error:?}");
            assert_eq!(error.to_string(), "closed after 100000 bytes of a body, before its end");
            receive(&mut target, 100_000).await;
        }
    }

    #[tokio::test]
    async fn a_source_that_resets_is_an_error_of_reading() {
        for pipes in [Pipes::new(1), Pipes::new(0)] {
            let (mut source, from) = connection(None).await;
            let (to, _target) = connection(None).await;
            let moving = tokio::spawn(async move { move_exactly(&from, &to, MIB, &pipes, &AtomicU64::new(0)).await });
            source.write_all(b"some").await.unwrap();
            source.set_zero_linger().unwrap();
            drop(source);
            let error = moving.await.unwrap().unwrap_err();
            assert!(matches!(&error, MoveError::Reading(e) if e.kind() == io::ErrorKind::ConnectionReset), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_target_that_closes_is_an_error_of_writing_and_its_pipe_is_not_used_again() {
        for limit in [1, 0] {
            let pipes = Pipes::new(limit);
            let (mut source, from) = connection(Some(8192)).await;
            let (to, target) = connection(Some(8192)).await;
            let sending = tokio::spawn(async move { send(&mut source, 8 * MIB).await });
            let moving = tokio::spawn({
                let pipes = pipes.clone();
                async move { move_exactly(&from, &to, 8 * MIB, &pipes, &AtomicU64::new(0)).await }
            });
            target.readable().await.unwrap();
            if limit > 0 {
                until("the pipe waits for the target", || open_and_idle(&pipes) == (1, 0)).await;
            }
            sleep(Duration::from_millis(50)).await;
            drop(target);
            let error = moving.await.unwrap().unwrap_err();
            let reset = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
            assert!(matches!(&error, MoveError::Writing(e) if reset.contains(&e.kind())), "{error:?}");
            assert_eq!(open_and_idle(&pipes), (0, 0));
            assert!(sending.await.unwrap().is_err());
            goes_through(MIB, &pipes, None).await;
        }
    }

    #[tokio::test]
    async fn a_move_that_is_dropped_midway_takes_its_pipe_with_it() {
        let pipes = Pipes::new(1);
        let (mut source, from) = connection(Some(8192)).await;
        let (to, _target) = connection(Some(8192)).await;
        let sending = tokio::spawn(async move { send(&mut source, 8 * MIB).await });
        let moving = tokio::spawn({
            let pipes = pipes.clone();
            async move { move_exactly(&from, &to, 8 * MIB, &pipes, &AtomicU64::new(0)).await }
        });
        until("the pipe waits for the target", || open_and_idle(&pipes) == (1, 0)).await;
        sleep(Duration::from_millis(50)).await;
        moving.abort();
        assert!(moving.await.unwrap_err().is_cancelled());
        assert_eq!(open_and_idle(&pipes), (0, 0));
        assert!(sending.await.unwrap().is_err());
        let before = pipes.totals();
        goes_through(3 * MIB, &pipes, None).await;
        assert_eq!(pipes.totals(), Totals { spliced: before.spliced + 3 * MIB, ..before });
        assert_eq!(open_and_idle(&pipes), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn readers_that_have_stopped_and_hold_all_pipes_stop_nobody_else() {
        let pipes = Pipes::new(1);
        let (mut source, from) = connection(Some(8192)).await;
        let (to, mut target) = connection(Some(8192)).await;
        let sending = tokio::spawn(async move { send(&mut source, 8 * MIB).await });
        let stopped = tokio::spawn({
            let pipes = pipes.clone();
            async move { move_exactly(&from, &to, 8 * MIB, &pipes, &AtomicU64::new(0)).await }
        });
        until("the pipe waits for the target", || open_and_idle(&pipes) == (1, 0)).await;
        let others: Vec<_> = (0..50)
            .map(|_| {
                let pipes = pipes.clone();
                tokio::spawn(async move { goes_through(MIB + 1, &pipes, None).await })
            })
            .collect();
        for other in others {
            other.await.unwrap();
        }
        assert!(pipes.totals().copied >= 49 * MIB, "{:?}", pipes.totals());
        receive(&mut target, 8 * MIB).await;
        assert_eq!(stopped.await.unwrap().unwrap(), 8 * MIB);
        sending.await.unwrap().unwrap();
        assert_eq!(open_and_idle(&pipes), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_directions_of_100_connections_at_once_share_64_pipes() {
        let pipes = Pipes::new(MAX_PIPES);
        let n = 4 * MIB + 3;
        let all: Vec<_> = (0..100)
            .map(|_| {
                let pipes = pipes.clone();
                tokio::spawn(async move {
                    let (client, client_side) = connection(None).await;
                    let (broker_side, broker) = connection(None).await;
                    let (mut client_in, mut client_out) = client.into_split();
                    let (mut broker_in, mut broker_out) = broker.into_split();
                    let count = AtomicU64::new(0);
                    let (requests, responses, ..) = tokio::join!(
                        move_exactly(&client_side, &broker_side, n, &pipes, &count),
                        move_exactly(&broker_side, &client_side, n, &pipes, &count),
                        async { send(&mut client_out, n).await.unwrap() },
                        async { send(&mut broker_out, n).await.unwrap() },
                        receive(&mut client_in, n),
                        receive(&mut broker_in, n),
                    );
                    assert_eq!((requests.unwrap(), responses.unwrap()), (n, n));
                })
            })
            .collect();
        for one in all {
            one.await.unwrap();
        }
        let totals = pipes.totals();
        assert_eq!(totals.spliced + totals.copied, 200 * n);
        let (open, idle) = open_and_idle(&pipes);
        assert!((1..=MAX_PIPES).contains(&open) && open == idle, "{open} open, {idle} idle");
    }

    #[tokio::test]
    async fn a_refused_pipe_means_copying_and_is_asked_for_again_later() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let pipes =
            Pipes::opened_by(MAX_PIPES, || if ASKED.fetch_add(1, Ordering::Relaxed) == 0 { Err(Errno::MFILE) } else { Pipe::open() });
        goes_through(MIB, &pipes, None).await;
        assert_eq!(pipes.totals(), Totals { spliced: 0, copied: MIB, tls: 0 });
        assert_eq!((ASKED.load(Ordering::Relaxed), open_and_idle(&pipes)), (1, (0, 0)));
        let left = pipes.0.pool().refused;
        assert!((1..ASK_AGAIN_AFTER).contains(&left), "{left}");
        for _ in 0..left {
            assert!(pipes.take().is_none());
        }
        assert_eq!(ASKED.load(Ordering::Relaxed), 1);
        goes_through(MIB, &pipes, None).await;
        assert_eq!((ASKED.load(Ordering::Relaxed), open_and_idle(&pipes)), (2, (1, 1)));
        pipes.add_tls(7);
        assert_eq!(pipes.totals(), Totals { spliced: MIB, copied: MIB, tls: 7 });
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn where_splicing_does_not_work_at_all_it_is_tried_once() {
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        // No end of it is a pipe: EINVAL, as from a kernel that cannot splice sockets.
        let pipes = Pipes::opened_by(MAX_PIPES, || {
            ASKED.fetch_add(1, Ordering::Relaxed);
            let null = || std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into();
            Ok(Pipe { ends: (null(), null()), size: PIPE, holds: 0 })
        });
        goes_through(MIB, &pipes, None).await;
        goes_through(MIB, &pipes, None).await;
        assert_eq!(pipes.totals(), Totals { spliced: 0, copied: 2 * MIB, tls: 0 });
        assert_eq!((ASKED.load(Ordering::Relaxed), open_and_idle(&pipes)), (1, (0, 0)));
    }

    #[tokio::test]
    async fn a_copy_between_any_two_streams_is_exact() {
        for n in [0, 1, MIB - 1, MIB, MIB + 1] {
            let (mut source, mut from) = duplex(100_000);
            let (mut to, mut target) = duplex(3_000);
            let sending = tokio::spawn(async move {
                send(&mut source, n).await.unwrap();
                source.write_all(b"!").await.unwrap();
                source
            });
            let receiving = tokio::spawn(async move {
                receive(&mut target, n).await;
                target
            });
            assert_eq!(copy_exactly(&mut from, &mut to, n, &AtomicU64::new(0)).await.unwrap(), n);
            let mut next = [0];
            from.read_exact(&mut next).await.unwrap();
            assert_eq!(&next, b"!");
            drop((sending.await.unwrap(), to));
            assert_eq!(receiving.await.unwrap().read(&mut next).await.unwrap(), 0, "more bytes arrived than were to be moved");
        }
    }

    #[tokio::test]
    async fn a_copy_is_flushed_when_the_source_falls_silent_and_at_its_end() {
        let (mut source, mut from) = duplex(100);
        let (to, mut target) = duplex(100);
        let mut to = BufWriter::new(to);
        let moving = tokio::spawn(async move { copy_exactly(&mut from, &mut to, 8, &AtomicU64::new(0)).await.map(|moved| (moved, to)) });
        let mut got = [0; 4];
        for part in [b"head", b"tail"] {
            source.write_all(part).await.unwrap();
            timeout(Duration::from_secs(5), target.read_exact(&mut got)).await.expect("kept in the writer's buffer").unwrap();
            assert_eq!(&got, part);
        }
        assert_eq!(moving.await.unwrap().unwrap().0, 8);
    }

    #[tokio::test]
    async fn a_copy_names_the_side_that_failed() {
        let (mut source, mut from) = duplex(100);
        let (mut to, target) = duplex(100);
        source.write_all(b"some").await.unwrap();
        drop(source);
        let error = copy_exactly(&mut from, &mut to, 5, &AtomicU64::new(0)).await.unwrap_err();
        assert!(matches!(error, MoveError::Ended { moved: 4 }), "{error:?}");
        drop(target);
        let error = copy_exactly(&mut PATTERN.as_slice(), &mut to, 200, &AtomicU64::new(0)).await.unwrap_err();
        assert!(matches!(&error, MoveError::Writing(e) if e.kind() == io::ErrorKind::BrokenPipe), "{error:?}");
        let error = copy_exactly(&mut a_reader_that_fails(), &mut Vec::new(), 200, &AtomicU64::new(0)).await.unwrap_err();
        assert!(matches!(&error, MoveError::Reading(e) if e.kind() == io::ErrorKind::TimedOut), "{error:?}");
    }

    /// Fails at once.
    fn a_reader_that_fails() -> impl AsyncRead + Unpin {
        struct Failing;
        impl AsyncRead for Failing {
            fn poll_read(self: Pin<&mut Self>, _: &mut std::task::Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
        Failing
    }
}

//! Files are read on threads of their own, and for a bounded time. A read from a network mount that hangs, or from a pipe that nobody writes to, never
//! comes back: nothing but who asked for it may wait for that, also not the end of the process, which waits for the threads of its runtime.

use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

/// How long a read may take, and how long it is waited for those before it.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The most secrets, tokens and certificates that are read at a time for connections to brokers.
const SECRETS: usize = 16;

/// Reads of secrets, tokens and certificates for connections to brokers.
pub(crate) static FOR_CONNECTIONS: LazyLock<Reads> = LazyLock::new(|| Reads::new(SECRETS));

/// What was to be read has not come in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be read: nothing came within {} s; it is on a network mount that hangs, or is a pipe that nobody writes to", DEADLINE.as_secs())]
pub struct NotRead;

/// Reads, a few at a time.
#[derive(Debug, Clone)]
pub struct Reads {
    room: Arc<Semaphore>,
    deadline: Duration,
}

impl Reads {
    /// So many at a time. Those that hang count, until they come back.
    pub fn new(at_once: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(at_once)), deadline: DEADLINE }
    }

    /// Calls `read`, which may block, on a thread of its own.
    ///
    /// # Errors
    /// [`NotRead`] after [`DEADLINE`]. `read` goes on then, and its thread ends with it.
    pub async fn run<T: Send + 'static>(&self, read: impl FnOnce() -> T + Send + 'static) -> Result<T, NotRead> {
        let read = async {
            let permit = self.room.clone().acquire_owned().await.map_err(|_| NotRead)?;
            let (tell, told) = oneshot::channel();
            let on_thread = move || {
                // Nobody may be waiting any more.
                let _ = tell.send(read());
                drop(permit);
            };
            thread::Builder::new().name("files".to_owned()).spawn(on_thread).map_err(|_| NotRead)?;
            told.await.map_err(|_| NotRead)
        };
        timeout(self.deadline, read).await.unwrap_or(Err(NotRead))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_read_that_hangs_is_given_up_and_takes_its_place_until_it_comes_back() {
        assert_eq!(Reads::new(1).run(|| 1).await, Ok(1));
        let reads = Reads { deadline: Duration::from_millis(200), ..Reads::new(1) };
        let (release, hangs) = mpsc::channel::<()>();
        assert_eq!(reads.run(move || hangs.recv().is_ok()).await, Err(NotRead));
        assert_eq!(reads.run(|| 2).await, Err(NotRead), "one at a time");
        release.send(()).unwrap();
        assert_eq!(Reads { deadline: DEADLINE, ..reads }.run(|| 3).await, Ok(3));
    }
}

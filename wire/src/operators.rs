//! The address that operators and probes ask: few connections at a time, each for one request and a short time.
//!
//! It has no login, so whoever reaches it can open connections and say nothing. That must cost the program neither its open files nor a liveness probe's
//! answer: where there are too many connections, the one that has been open longest gives way to the one that has just come.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_process::Collector;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// A metric of a program: its name, its labels, and what it means.
pub type Metric = (&'static str, &'static [&'static str], &'static str);

/// What [`Process`] tells, in the names that Prometheus' own libraries have for it. None has a label.
pub const PROCESS: [&str; 8] = [
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
];

/// The metrics of the process itself: its open files, CPU time and memory.
#[derive(Debug, Clone)]
pub struct Process(Collector);

impl Process {
    /// Says what they mean. Behind the program's recorder.
    pub fn described() -> Self {
        let collector = Collector::default();
        collector.describe();
        Self(collector)
    }

    /// Takes them, as they are now.
    pub fn take(&self) {
        self.0.collect();
    }
}

/// How long a client may take to send the head of its request.
const HEAD: Duration = Duration::from_secs(5);

/// How long a connection lives: its request, what is done for it (a pass over all groups), and the client's reading of the answer.
const CONNECTION: Duration = Duration::from_mins(1);

/// How long answers that are under way may take at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long to wait after a connection could not be accepted; twice as long each time, up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// See [`FIRST_WAIT`].
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// Bytes of the largest head of a request. It has no body that anybody reads.
const LARGEST_HEAD: usize = 16 * 1024;

/// The connections that are open.
struct Open {
    tasks: JoinSet<()>,
    /// The one that has been open longest first; some may have ended.
    by_age: VecDeque<AbortHandle>,
    most: usize,
}

/// Serves until `stop`; what is being answered then may take a second more. At most `most` connections are open. `failed` is told the first error of
/// `accept` after each success.
pub async fn serve(listener: TcpListener, router: Router, most: usize, failed: impl Fn(&io::Error), stop: impl Future<Output = ()>) {
    let mut open = Open { tasks: JoinSet::new(), by_age: VecDeque::new(), most };
    let mut stop = std::pin::pin!(stop);
    let mut wait = FIRST_WAIT;
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            // Frees what is kept of a connection that has ended.
            Some(_) = open.tasks.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => {
                wait = FIRST_WAIT;
                open.add(socket, router.clone());
            }
            Err(error) => {
                if wait == FIRST_WAIT {
                    failed(&error);
                }
                sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
    }
    drop(listener);
    // Who is still silent after that is cut off.
    let _ = timeout(LAST_ANSWERS, async { while open.tasks.join_next().await.is_some() {} }).await;
}

impl Open {
    fn add(&mut self, socket: TcpStream, router: Router) {
        self.by_age.retain(|connection| !connection.is_finished());
        while self.by_age.len() >= self.most {
            if let Some(oldest) = self.by_age.pop_front() {
                oldest.abort();
            }
        }
        let answering = async move {
            let service = TowerToHyperService::new(router);
            let mut http = http1::Builder::new();
            // With one request to a connection there are none that wait for a next one.
            http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD).keep_alive(false);
            // Errors are the client's: it is gone, was too slow, or speaks no HTTP.
            let _ = timeout(CONNECTION, http.serve_connection(TokioIo::new(socket), service)).await;
        };
        self.by_age.push_back(self.tasks.spawn(answering));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::{Ipv4Addr, SocketAddr};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::oneshot;
    use tokio::time::Instant;

    async fn begin(most: usize) -> (SocketAddr, oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let router = Router::new().route("/healthz", get(|| async { "ok\n" }));
        let serving = serve(listener, router, most, |error| panic!("{error}"), async {
            let _ = stopped.await;
        });
        (address, stop, tokio::spawn(serving))
    }

    async fn connect(address: SocketAddr, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut text = String::new();
        // A connection that was cut off may end with a reset.
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn the_oldest_connection_gives_way() {
        let (address, _stop, _serving) = begin(4).await;
        let mut silent = Vec::new();
        for _ in 0..50 {
            silent.push(connect(address, b"GET /heal").await);
        }
        let asked = Instant::now();
        let told = answer(connect(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await).await;
        assert!(told.starts_with("HTTP/1.1 200") && told.ends_with("ok\n"), "{told}");
        assert_eq!(answer(silent.remove(0)).await, "");
        assert!(asked.elapsed() < HEAD / 2, "nobody was waited for: {:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn a_connection_is_for_one_request_and_not_for_silence() {
        let (address, stop, serving) = begin(4).await;
        let began = Instant::now();
        let two = connect(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(answer(two).await.matches("200 OK").count(), 1);
        let (half, silent) = (connect(address, b"GET /heal").await, connect(address, b"").await);
        assert_eq!(answer(half).await.matches("200 OK").count(), 0);
        answer(silent).await;
        assert!((HEAD..HEAD * 2).contains(&began.elapsed()), "{:?}", began.elapsed());

        let _half = connect(address, b"GET /heal").await;
        let told = Instant::now();
        stop.send(()).unwrap();
        serving.await.unwrap();
        assert!(told.elapsed() < LAST_ANSWERS * 3, "{:?}", told.elapsed());
    }
}

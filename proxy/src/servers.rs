//! A cluster's bootstrap servers: which of them answers.
//!
//! A server counts as good when it has *answered*, not when it accepts: the kernel of a frozen broker still does. So the client's first request
//! goes along with the attempt (it is a pure question, and may be asked twice), and a server that is slow is overtaken by the next one.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kferry_config::{Cluster, HostPort, Security};
use kferry_wire::connection::{Bare, ConnectError, ConnectOptions, Connection};
use kferry_wire::security::tls::{SecurityError, client_config, explain, server_name};
use kferry_wire::stream::Stream;
use kferry_wire::versions::Versions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::metrics;

/// One server's time to connect and answer.
const ATTEMPT: Duration = Duration::from_secs(10);

/// After this long without an answer the next server is asked as well.
const OVERTAKE: Duration = Duration::from_millis(500);

/// So long a server that failed is asked last.
const PENALTY: Duration = Duration::from_secs(10);

/// What a TLS port sends back to a plaintext request. As the size of an answer it would be 336 MiB.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// The bootstrap servers of one cluster, and what is known of them.
#[derive(Debug)]
pub struct BootstrapServers {
    cluster: Arc<Cluster>,
    tls: Option<Arc<ClientConfig>>,
    servers: Vec<Server>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Server {
    address: HostPort,
    failed: Mutex<Option<Instant>>,
}

/// A connection to a broker that has answered.
#[derive(Debug)]
pub struct Opened {
    /// The connection; with what the broker knows only if it was asked to let somebody in.
    pub broker: Bare,
    /// Which server it is.
    pub server: HostPort,
    /// The beginning of its answer to the question, if there was one.
    pub answer: Vec<u8>,
}

/// How a server shows that it answers.
#[derive(Debug, Clone)]
pub enum Knock {
    /// It accepts.
    Connect,
    /// It answers this: one whole request with its size that may be asked of several servers.
    Ask(Arc<[u8]>),
    /// It lets the client in: ApiVersions, and the login if there is one.
    Enter(Arc<Entrance>),
}

/// As whom to come.
#[derive(Debug)]
pub struct Entrance {
    /// TLS as the cluster's; SASL only where the proxy logs in for the client.
    pub security: Security,
    /// The client's own.
    pub options: ConnectOptions,
}

/// No bootstrap server of a cluster answered.
#[derive(Debug)]
pub struct Unreachable {
    /// Its name.
    pub cluster: Arc<str>,
    /// Each server that was tried, and why not.
    pub tried: Vec<(HostPort, String)>,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no bootstrap server of cluster {} answers:", self.cluster)?;
        for (n, (server, error)) in self.tried.iter().enumerate() {
            write!(f, "{} {server}: {error}", if n == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl BootstrapServers {
    /// For a cluster of the file. Reads its certificates; connects to nothing.
    ///
    /// # Errors
    /// [`SecurityError`] names the file that is not right.
    pub fn new(cluster: Arc<Cluster>) -> Result<Self, SecurityError> {
        let tls = cluster.security.tls.as_ref().map(client_config).transpose()?;
        let servers =
            cluster.bootstrap_servers.iter().map(|address| Server { address: address.clone(), failed: Mutex::new(None) }).collect();
        Ok(Self { cluster, tls, servers, next: AtomicUsize::new(0) })
    }

    /// Which cluster it is.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Connects to whichever server answers first.
    ///
    /// # Errors
    /// [`Unreachable`] when all have failed, at the latest after 10 s and half a second for each server.
    pub async fn open(self: &Arc<Self>, knock: &Knock) -> Result<Opened, Unreachable> {
        let mut waiting = self.order().into_iter();
        let mut attempts = JoinSet::new();
        let mut tried = Vec::new();
        let mut asked = Vec::new();
        loop {
            if let Some(index) = waiting.next() {
                let (servers, knock) = (self.clone(), knock.clone());
                attempts.spawn(async move { (index, servers.attempt(index, &knock).await) });
                asked.push(index);
            } else if attempts.is_empty() {
                return Err(Unreachable { cluster: self.cluster.name.clone(), tried });
            }
            let overtake = async {
                if waiting.len() == 0 {
                    std::future::pending::<()>().await;
                }
                sleep(OVERTAKE).await;
            };
            tokio::select! {
                Some(joined) = attempts.join_next() => {
                    let Ok((index, result)) = joined else { continue };
                    let address = self.servers[index].address.clone();
                    asked.retain(|asked| *asked != index);
                    match result {
                        Ok((broker, answer)) => {
                            self.told(index, None);
                            for slow in asked {
                                self.told(slow, Some("another bootstrap server answered sooner"));
                            }
                            return Ok(Opened { broker, server: address, answer });
                        }
                        Err(error) => {
                            self.told(index, Some(&error));
                            tried.push((address, error));
                        }
                    }
                }
                () = overtake => {}
            }
        }
    }

    /// Round robin over the servers; those that failed lately come last.
    fn order(&self) -> Vec<usize> {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let mut order: Vec<usize> = (0..self.servers.len()).map(|n| (start + n) % self.servers.len()).collect();
        order.sort_by_key(|index| {
            let failed = self.servers[*index].failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.is_some_and(|failed| failed.elapsed() < PENALTY)
        });
        order
    }

    fn told(&self, index: usize, error: Option<&str>) {
        let server = &self.servers[index];
        *server.failed.lock().unwrap_or_else(PoisonError::into_inner) = error.map(|_| Instant::now());
        metrics::server_tried(&self.cluster.name, &server.address, error);
    }

    async fn attempt(&self, index: usize, knock: &Knock) -> Result<(Bare, Vec<u8>), String> {
        let address @ HostPort { host, port } = &self.servers[index].address;
        if let Knock::Enter(entrance) = knock {
            let entered = self.enter(address, entrance).await.map_err(|error| error.refusal.to_string())?;
            return Ok((entered, Vec::new()));
        }
        let attempt = async {
            let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            let mut stream = match &self.tls {
                None => Stream::Tcp(tcp),
                Some(tls) => {
                    let name = server_name(host).map_err(|error| error.to_string())?;
                    let tls = TlsConnector::from(tls.clone()).connect(name, tcp).await;
                    Stream::Tls(Box::new(tls.map_err(|error| self.tls_failed(&error, host))?.into()))
                }
            };
            let mut answer = Vec::new();
            if let Knock::Ask(question) = knock {
                let protocol = self.cluster.security.protocol();
                ask(&mut stream, question, &mut answer).await.map_err(|error| {
                    format!("closed at the first request ({error}): is its security.protocol {protocol}, as the file says?")
                })?;
                if answer.starts_with(&TLS_ALERT) {
                    return Err(format!("answers with TLS: set security_protocol to SSL or SASL_SSL instead of {protocol}"));
                }
            }
            Ok((Bare { stream, versions: Versions::default(), session: None }, answer))
        };
        timeout(ATTEMPT, attempt).await.unwrap_or_else(|_| Err(format!("no answer within {} s", ATTEMPT.as_secs())))
    }

    /// Connects to one broker, wherever it is, and is let in.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub async fn enter(&self, broker: &HostPort, entrance: &Entrance) -> Result<Bare, ConnectError> {
        Connection::open(broker, &entrance.security, self.tls.clone(), &entrance.options).await
    }

    fn tls_failed(&self, error: &io::Error, host: &str) -> String {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref());
        match of_tls.zip(self.cluster.security.tls.as_ref()) {
            Some((error, settings)) => format!("TLS failed: {}", explain(error, host, settings)),
            None => format!(
                "closed the connection during the TLS handshake ({error}), as plaintext ports do: \
                 compare security_protocol with the broker's listener"
            ),
        }
    }
}

async fn ask(stream: &mut Stream, question: &[u8], answer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(question).await?;
    stream.flush().await?;
    match stream.read_buf(answer).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

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
use kferry_wire::connection::{Bare, ConnectError, ConnectOptions, Connection, TOO_MANY, tcp};
use kferry_wire::identity::WrongCluster;
use kferry_wire::security::tls::{SecurityError, client_config, explain, server_name};
use kferry_wire::stream::Stream;
use kferry_wire::versions::Versions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use crate::identity::ClusterIdentity;
use crate::metrics;

/// How long one server may take to connect and to answer.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How long a server may go without answering until the next one is asked as well.
const OVERTAKE: Duration = Duration::from_millis(500);

/// How long a server that failed is asked last.
const PENALTY: Duration = Duration::from_secs(10);

/// The first bytes of what a TLS port sends back to a plaintext request. As the size of a response they would be 336 MiB.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// The bootstrap servers of one cluster, and what is known of them.
#[derive(Debug)]
pub(crate) struct BootstrapServers {
    cluster: Arc<Cluster>,
    /// For clusters whose `security_protocol` has TLS.
    tls: Option<Arc<ClientConfig>>,
    /// Which cluster they are of.
    identity: Arc<ClusterIdentity>,
    /// In the order of the file.
    servers: Vec<Server>,
    /// How many times they were asked: the server at this number, modulo how many there are, comes first.
    next: AtomicUsize,
}

#[derive(Debug)]
struct Server {
    address: HostPort,
    /// When it failed last, unless it has answered since.
    failed: Mutex<Option<Instant>>,
}

/// A connection to a broker that has answered.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The connection. With the versions that the broker knows only for [`Probe::LogIn`].
    pub broker: Bare,
    /// Which server it is.
    pub server: HostPort,
    /// The beginning of its response to the request of [`Probe::Ask`], size included.
    pub response: Vec<u8>,
}

/// What a server has to do to count as good.
#[derive(Debug, Clone)]
pub(crate) enum Probe {
    /// Accept the connection.
    Connect,
    /// Answer this: one whole request, size included, that may be asked of several servers.
    Ask(Arc<[u8]>),
    /// Answer ApiVersions, and take the login if there is one.
    LogIn(Arc<BrokerLogin>),
}

/// As whom the proxy comes to a broker for a relayed client.
#[derive(Debug)]
pub(crate) struct BrokerLogin {
    /// TLS as the cluster's; SASL only where the proxy logs in for the client.
    pub security: Security,
    /// With the client's own `client.id`.
    pub options: ConnectOptions,
}

/// A server that has done what was asked of it, with the beginning of its response if it was a request.
struct Answered {
    broker: Bare,
    response: Vec<u8>,
}

/// Why a server has not answered.
enum Failed {
    /// It closed the connection on which the client's first request came.
    Closed(String),
    /// It is not there, or not what it should be.
    Down(String),
}

impl From<String> for Failed {
    fn from(error: String) -> Self {
        Self::Down(error)
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// No server answered.
    Unreachable(Unreachable),
    /// A server that answers the proxy has closed the connection at the client's first request. The others would too.
    Closed {
        /// Which.
        server: HostPort,
    },
    /// The one broker that was meant cannot be reached.
    Broker(ConnectError),
    /// At the address of that broker is one of another cluster.
    WrongCluster(WrongCluster),
}

/// No bootstrap server of a cluster answered.
#[derive(Debug)]
pub(crate) struct Unreachable {
    /// Its name.
    pub cluster: Arc<str>,
    /// Every server, in the order in which they failed.
    pub failed: Vec<FailedServer>,
}

/// A bootstrap server that does not answer.
#[derive(Debug)]
pub(crate) struct FailedServer {
    /// Which.
    pub server: HostPort,
    /// What went wrong, and what to do where that is known.
    pub error: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no bootstrap server of cluster {} can be used:", self.cluster)?;
        for (n, FailedServer { server, error }) in self.failed.iter().enumerate() {
            write!(f, "{} {server}: {error}", if n == 0 { "" } else { ";" })?;
        }
        Ok(())
    }
}

impl BootstrapServers {
    /// For a cluster of the file, which may have been in the file `before` this one. Reads its certificates; connects to nothing.
    ///
    /// # Errors
    /// [`SecurityError`] names the file that is not right.
    pub(crate) fn new(cluster: Arc<Cluster>, before: Option<&Self>) -> Result<Self, SecurityError> {
        let known = before.map(|before| &before.identity).filter(|identity| identity.is_of(&cluster)).cloned();
        let identity = known.unwrap_or_else(|| Arc::new(ClusterIdentity::new(cluster.clone())));
        let tls = cluster.security.tls.as_ref().map(client_config).transpose()?;
        let servers =
            cluster.bootstrap_servers.iter().map(|address| Server { address: address.clone(), failed: Mutex::new(None) }).collect();
        Ok(Self { cluster, tls, identity, servers, next: AtomicUsize::new(0) })
    }

    /// Which Kafka cluster answers at its addresses.
    pub(crate) fn identity(&self) -> &Arc<ClusterIdentity> {
        &self.identity
    }

    /// Connects to whichever server answers first. A further one is tried beside a slow one only while there is a permit of `overtaking` for it: each is a
    /// file that is open, and a cluster that is silent would use up all of them otherwise.
    ///
    /// # Errors
    /// [`NotOpened::Unreachable`] when all have failed: with enough permits at the latest after 10 s and half a second for each server.
    /// [`NotOpened::Closed`] when one closes at what the client asks, and not at what the proxy does.
    pub(crate) async fn open(self: &Arc<Self>, probe: &Probe, overtaking: &Semaphore) -> Result<Opened, NotOpened> {
        let mut waiting = self.order().into_iter();
        let mut attempts = JoinSet::new();
        let mut failed = Vec::new();
        let mut asked = Vec::new();
        // Attempts are at most one more than these. All are kept to the end, since a failed attempt is followed by the next.
        let mut permits = Vec::new();
        loop {
            if let Some(index) = waiting.next() {
                let (servers, probe) = (self.clone(), probe.clone());
                attempts.spawn(async move { (index, servers.attempt(index, &probe).await) });
                asked.push(index);
            } else if attempts.is_empty() {
                return Err(NotOpened::Unreachable(Unreachable { cluster: self.cluster.name.clone(), failed }));
            }
            let overtake = async {
                if waiting.len() == 0 {
                    std::future::pending::<()>().await;
                }
                sleep(OVERTAKE).await;
                overtaking.acquire().await.expect("it is never closed")
            };
            tokio::select! {
                Some(joined) = attempts.join_next() => {
                    let Ok((index, result)) = joined else { continue };
                    let address = self.servers[index].address.clone();
                    asked.retain(|asked| *asked != index);
                    match result {
                        Ok(Answered { broker, response }) => {
                            self.tried(index, None);
                            for slow in asked {
                                self.tried(slow, Some("another bootstrap server answered sooner"));
                            }
                            return Ok(Opened { broker, server: address, response });
                        }
                        Err(Failed::Closed(_)) if Box::pin(self.identity.answers(&address)).await => {
                            self.tried(index, None);
                            return Err(NotOpened::Closed { server: address });
                        }
                        Err(Failed::Closed(error) | Failed::Down(error)) => {
                            self.tried(index, Some(&error));
                            failed.push(FailedServer { server: address, error });
                        }
                    }
                }
                permit = overtake => permits.push(permit),
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

    fn tried(&self, index: usize, error: Option<&str>) {
        let server = &self.servers[index];
        *server.failed.lock().unwrap_or_else(PoisonError::into_inner) = error.map(|_| Instant::now());
        metrics::server_tried(&self.cluster.name, &server.address, error);
    }

    /// Asks a server what the client asks, and beside that which cluster it is of.
    async fn attempt(&self, index: usize, probe: &Probe) -> Result<Answered, Failed> {
        let address = &self.servers[index].address;
        let (answered, is_right) = tokio::join!(self.asked(address, probe), self.identity.check(address));
        is_right.map_err(|wrong| Failed::Down(wrong.to_string()))?;
        answered
    }

    async fn asked(&self, address: &HostPort, probe: &Probe) -> Result<Answered, Failed> {
        let HostPort { host, port } = address;
        if let Probe::LogIn(login) = probe {
            let broker = self.connect(address, login).await.map_err(|error| Failed::Down(error.refusal.to_string()))?;
            return Ok(Answered { broker, response: Vec::new() });
        }
        let deadline = Instant::now() + ATTEMPT;
        let attempt = async {
            let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await.map_err(|error| error.to_string())?.collect();
            let tcp = tcp::connect(&addresses, deadline).await.map_err(|error| error.to_string())?;
            tcp.set_nodelay(true).map_err(|error| error.to_string())?;
            let mut stream = match &self.tls {
                None => Stream::Tcp(tcp),
                Some(tls) => {
                    let name = server_name(host).map_err(|error| error.to_string())?;
                    let tls = TlsConnector::from(tls.clone()).connect(name, tcp).await;
                    Stream::Tls(Box::new(tls.map_err(|error| self.tls_failed(&error, host))?.into()))
                }
            };
            let mut response = Vec::new();
            if let Probe::Ask(request) = probe {
                let protocol = self.cluster.security.protocol();
                ask(&mut stream, request, &mut response).await.map_err(|error| {
                    let told =
                        format!("closed at the first request ({error}): is its security.protocol {protocol}, as the file says? {TOO_MANY}");
                    Failed::Closed(told)
                })?;
                if response.starts_with(&TLS_ALERT) {
                    return Err(Failed::Down(format!("answers with TLS: set security_protocol to SSL or SASL_SSL instead of {protocol}")));
                }
            }
            Ok(Answered { broker: Bare { stream, versions: Versions::default(), session: None }, response })
        };
        timeout(ATTEMPT, attempt).await.unwrap_or_else(|_| Err(Failed::Down(format!("no answer within {} s", ATTEMPT.as_secs()))))
    }

    /// Connects to one broker of the cluster, wherever it is, and logs in there.
    ///
    /// # Errors
    /// [`NotOpened::Broker`], [`NotOpened::WrongCluster`]
    pub(crate) async fn log_in(&self, broker: &HostPort, login: &BrokerLogin) -> Result<Bare, NotOpened> {
        let (connected, is_right) = tokio::join!(self.connect(broker, login), self.identity.check(broker));
        is_right.map_err(NotOpened::WrongCluster)?;
        connected.map_err(NotOpened::Broker)
    }

    async fn connect(&self, broker: &HostPort, login: &BrokerLogin) -> Result<Bare, ConnectError> {
        Connection::open(broker, &login.security, self.tls.clone(), &login.options).await
    }

    fn tls_failed(&self, error: &io::Error, host: &str) -> String {
        let of_tls = error.get_ref().and_then(|error| error.downcast_ref());
        match of_tls.zip(self.cluster.security.tls.as_ref()) {
            Some((error, settings)) => format!("TLS failed: {}", explain(error, host, settings)),
            None => format!(
                "closed the connection during the TLS handshake ({error}), as plaintext ports do: \
                 compare security_protocol with the broker's listener; {TOO_MANY}"
            ),
        }
    }
}

async fn ask(stream: &mut Stream, request: &[u8], response: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    match stream.read_buf(response).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

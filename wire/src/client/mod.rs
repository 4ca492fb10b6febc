//! A client of one cluster: it knows which broker to ask, keeps a connection to each, and asks again when the answer is "not me".
//!
//! What can be asked is in [`admin`](crate::admin). What is here is the way to the broker: any, one by its node id, a partition's leader, a
//! group's coordinator, the controller. A question to many of them is sorted by broker, one request each, and what a broker refuses because
//! it is not, or not yet, the right one is asked again elsewhere, with a backoff, until the deadline.
//!
//! The answers come from configured brokers that we logged in to, so kafka-protocol decodes them: see [`Connection::request`].
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | connections, and who is known to be what |
//! | `route` | one question to many brokers |
//! | `leader` | who leads a partition |
//! | `retry` | how long, and how often |
//! | `metadata` | brokers, topics, partitions |
//! | `error` | what went wrong, and which ACL is missing |
//!
//! # References
//! - `org.apache.kafka.clients.admin.internals.AdminApiDriver`: lookup, then fulfillment, and back
//! - `KafkaAdminClient`: which API goes to which broker

mod error;
mod leader;
mod metadata;
mod retry;
mod route;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use kafka_protocol::messages::{ApiKey, FindCoordinatorRequest};
use kafka_protocol::protocol::{Request, StrBytes, VersionRange};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::cluster::cluster_id;
use crate::connection::{ConnectOptions, Connection};
use crate::identity::{Identity, WrongCluster};
pub use error::ClientError;
pub(crate) use error::{Asked, Subject};
use kferry_config::{Cluster, HostPort};
pub use metadata::{Metadata, Partition, Topic, TopicId, TopicPartition, Topics};
pub(crate) use retry::Resend;
pub use retry::random;
pub(crate) use route::{Controller, Coordinators, Leaders, Node, Nodes};

/// An answer for each of the things asked about.
pub type Answers<K, T> = BTreeMap<K, Result<T, ClientError>>;

/// For one operation, with all that is tried again for it.
const DEADLINE: Duration = Duration::from_mins(1);
/// When the next broker is tried while the one before has neither answered nor refused.
const STAGGER: Duration = Duration::from_secs(1);
/// How long the bootstrap servers have, all at once, to tell which cluster they are of. One that is slower is compared when it is used.
const IDENTIFY: Duration = Duration::from_secs(2);
/// Version 3 is the last with one key a request, 4 the first with many (KIP-699). Newer ones add nothing that is read here.
const FIND_COORDINATOR: VersionRange = VersionRange { min: 1, max: 4 };
/// Keys in one FindCoordinator: a broker answers a thousand in milliseconds.
const KEYS_PER_REQUEST: usize = 1_000;

/// What a coordinator coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CoordinatorKind {
    /// Consumer groups; the key is the `group.id`.
    Group,
    /// Transactions; the key is the `transactional.id`.
    Transaction,
}

impl CoordinatorKind {
    fn subject(self, key: &str) -> Subject<'_> {
        match self {
            Self::Group => Subject::group(key),
            Self::Transaction => Subject::transactional_id(key),
        }
    }
}

/// A client of one cluster. Clones share its connections and what it knows.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    deadline: Duration,
}

struct Shared {
    cluster: Arc<Cluster>,
    options: ConnectOptions,
    known: Mutex<Known>,
    /// Which Kafka cluster it is.
    identity: Arc<Identity>,
    /// A cluster that it must not be.
    other: Option<Arc<Identity>>,
    /// Whether the bootstrap servers have been asked, all at once, which cluster they are of; and what came of it.
    identified: OnceCell<()>,
    /// Servers of another cluster, until they are told of.
    strangers: Mutex<Vec<WrongCluster>>,
    /// To whichever broker answered, before brokers have names.
    bootstrap: Slot,
    brokers: Mutex<HashMap<i32, Arc<Slot>>>,
    /// Whose turn it is where any broker will do.
    turn: AtomicUsize,
    /// Which one of the addresses is tried first: not the one that knew no brokers.
    first: AtomicUsize,
}

/// One shared connection. The lock is held while it is made: whoever comes meanwhile waits for the same one.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Option<Arc<Connection>>>);

/// What the cluster said last. It may be wrong by now; the broker that is asked because of it says so.
#[derive(Default)]
struct Known {
    brokers: BTreeMap<i32, HostPort>,
    controller: Option<i32>,
    leaders: HashMap<Arc<str>, BTreeMap<i32, Leader>>,
    coordinators: HashMap<(CoordinatorKind, String), i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leader {
    pub(crate) node_id: i32,
    pub(crate) epoch: i32,
}

impl Client {
    /// A client of `cluster`. Nothing is connected yet.
    pub fn new(cluster: Arc<Cluster>, options: ConnectOptions) -> Self {
        let identity = Arc::new(Identity::new(cluster.name.clone()));
        Self::identified_by(cluster, options, identity, None)
    }

    /// Clients of two clusters of the file, which must be two: once both are known to be the same one, neither connects any more.
    pub fn pair(one: Arc<Cluster>, other: Arc<Cluster>, options: &ConnectOptions) -> (Self, Self) {
        let (ours, theirs) = (Arc::new(Identity::new(one.name.clone())), Arc::new(Identity::new(other.name.clone())));
        let one = Self::identified_by(one, options.clone(), ours.clone(), Some(theirs.clone()));
        (one, Self::identified_by(other, options.clone(), theirs, Some(ours)))
    }

    fn identified_by(cluster: Arc<Cluster>, options: ConnectOptions, identity: Arc<Identity>, other: Option<Arc<Identity>>) -> Self {
        let shared = Shared {
            cluster,
            options,
            identity,
            other,
            identified: OnceCell::new(),
            strangers: Mutex::default(),
            known: Mutex::default(),
            bootstrap: Slot::default(),
            brokers: Mutex::default(),
            turn: AtomicUsize::new(0),
            first: AtomicUsize::new(0),
        };
        Self { shared: Arc::new(shared), deadline: DEADLINE }
    }

    /// The same client, with another deadline for each operation, retries included. Without this it is a minute.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Self {
        Self { shared: self.shared.clone(), deadline }
    }

    /// The cluster.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.shared.cluster
    }

    /// A shared connection to any broker: one that is open, or the first that answers of the bootstrap servers and the known brokers.
    ///
    /// # Errors
    /// [`ClientError::NoBroker`] has the errors of all of them.
    pub async fn any(&self) -> Result<Arc<Connection>, ClientError> {
        if let Some(open) = self.any_open() {
            return Ok(open);
        }
        self.shared.bootstrap.leave_hanging().await;
        self.shared.bootstrap.connected(|| self.first_that_answers()).await
    }

    /// The shared connection to a broker. A broken one is made anew; a node id that is not known makes it look again.
    ///
    /// # Errors
    /// [`ClientError`]; the connection itself is tried once.
    pub async fn broker(&self, node_id: i32) -> Result<Arc<Connection>, ClientError> {
        let slot = self.slots().entry(node_id).or_default().clone();
        slot.connected(|| self.connect(node_id)).await
    }

    /// A connection of one's own to a broker: for requests that wait there, and make all behind them wait.
    ///
    /// # Errors
    /// [`ClientError`]; it is tried once.
    pub async fn connect(&self, node_id: i32) -> Result<Connection, ClientError> {
        self.connect_with(node_id, &self.shared.options).await
    }

    /// The same with other options: for whoever speaks in another's name.
    ///
    /// # Errors
    /// [`ClientError`]; it is tried once.
    pub async fn connect_with(&self, node_id: i32, options: &ConnectOptions) -> Result<Connection, ClientError> {
        let address = match self.address(node_id) {
            Some(address) => address,
            None => {
                self.refresh(Topics::Named(&[])).await?;
                self.address(node_id).ok_or_else(|| ClientError::UnknownNode { cluster: self.name().clone(), node_id })?
            }
        };
        match self.open(&address, options).await {
            Ok(connection) => Ok(connection),
            Err(error) => {
                // It may have come back elsewhere: the next attempt looks again.
                self.known().brokers.remove(&node_id);
                Err(error)
            }
        }
    }

    /// The shared connection to the controller, which with `KRaft` is any broker: they forward what is the controller's to do.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn controller(&self) -> Result<Arc<Connection>, ClientError> {
        self.ask_controller(Resend::Always, |connection| async { Ok(connection) }).await
    }

    /// The shared connection to the coordinator of a group or a transactional id.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn coordinator(&self, kind: CoordinatorKind, key: &str) -> Result<Arc<Connection>, ClientError> {
        self.ask_coordinator(kind, key, Resend::Always, |connection| async { Ok(connection) }).await
    }

    /// Brokers, topics and partitions. Topics are never created by asking. What is wrong with a topic or a partition is in its `error`.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn metadata(&self, topics: Topics<'_>) -> Result<Metadata, ClientError> {
        self.retry(Resend::Always, || self.refresh(topics)).await
    }

    /// What one broker knows, which may be behind what others of its cluster know. It is asked once, and nothing is remembered of what it says.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn metadata_at(&self, node_id: i32, topics: Topics<'_>) -> Result<Metadata, ClientError> {
        metadata::ask(self, &*self.broker(node_id).await?, topics).await
    }

    fn any_open(&self) -> Option<Arc<Connection>> {
        let slots = self.slots();
        // One after the other: the one before may be open and hang.
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed) % slots.len().max(1);
        let open = slots.values().cycle().skip(turn).take(slots.len()).filter_map(|slot| {
            // Whoever holds the lock is connecting: not open yet.
            let connection = slot.0.try_lock().ok()?;
            connection.as_ref().filter(|connection| connection.is_broken().is_none()).cloned()
        });
        // One that may hang is asked only if there is no other.
        let mut hanging = None;
        for connection in open {
            if !hangs(&connection) {
                return Some(connection);
            }
            hanging.get_or_insert(connection);
        }
        hanging
    }

    /// Asks for metadata once, and remembers brokers and leaders.
    async fn refresh(&self, topics: Topics<'_>) -> Result<Metadata, ClientError> {
        let connection = self.any().await?;
        let metadata = match metadata::ask(self, &connection, topics).await {
            Err(error @ ClientError::KnowsNoBrokers { .. }) => {
                self.shared.bootstrap.0.lock().await.take();
                self.shared.first.fetch_add(1, Ordering::Relaxed);
                return Err(error);
            }
            metadata => metadata?,
        };
        let mut known = self.known();
        known.brokers = metadata.brokers.iter().map(|broker| (broker.node_id, broker.advertised.clone())).collect();
        known.controller = metadata.controller;
        if topics == Topics::All {
            known.leaders.clear();
        }
        for topic in &metadata.topics {
            let leaders = topic
                .partitions
                .iter()
                .filter_map(|partition| Some((partition.index, Leader { node_id: partition.leader?, epoch: partition.leader_epoch })));
            known.leaders.insert(topic.name.clone(), leaders.collect());
        }
        Ok(metadata)
    }

    /// The coordinators' node ids; those that are not known are asked for, once.
    async fn coordinators(&self, kind: CoordinatorKind, keys: &[String]) -> Answers<String, i32> {
        let (mut found, mut missing) = (Answers::new(), Vec::new());
        {
            let known = self.known();
            for key in keys {
                match known.coordinators.get(&(kind, key.clone())) {
                    Some(node_id) => drop(found.insert(key.clone(), Ok(*node_id))),
                    None => missing.push(key.clone()),
                }
            }
        }
        if missing.is_empty() {
            return found;
        }
        let connection = match self.any().await {
            Ok(connection) => connection,
            Err(error) => {
                found.extend(missing.into_iter().map(|key| (key, Err(error.clone()))));
                return found;
            }
        };
        let many = connection.version_for::<FindCoordinatorRequest>(FIND_COORDINATOR).is_ok_and(|version| version >= 4);
        let chunks = missing.chunks(if many { KEYS_PER_REQUEST } else { 1 });
        let asked = chunks.map(|chunk| async {
            match self.find_coordinators(&connection, kind, chunk).await {
                Ok(answers) => answers,
                Err(error) => chunk.iter().map(|key| (key.clone(), Err(error.clone()))).collect(),
            }
        });
        for (key, answer) in join_all(asked).await.into_iter().flatten() {
            if let Ok(node_id) = &answer {
                self.known().coordinators.insert((kind, key.clone()), *node_id);
            }
            found.insert(key, answer);
        }
        found
    }

    async fn find_coordinators(
        &self,
        connection: &Connection,
        kind: CoordinatorKind,
        keys: &[String],
    ) -> Result<Answers<String, i32>, ClientError> {
        let key_type = match kind {
            CoordinatorKind::Group => 0,
            CoordinatorKind::Transaction => 1,
        };
        let names = keys.iter().map(|key| StrBytes::from_string(key.clone()));
        let (asked, answer) = self
            .send(connection, FIND_COORDINATOR, |version| {
                let request = FindCoordinatorRequest::default().with_key_type(key_type);
                if version >= 4 {
                    request.with_coordinator_keys(names.collect())
                } else {
                    request.with_key(names.into_iter().next().unwrap_or_default())
                }
            })
            .await?;
        if asked.version < 4 {
            let checked = keys.iter().map(|key| {
                let checked = asked.check(&kind.subject(key), answer.error_code, answer.error_message.as_ref());
                (key.clone(), checked.map(|()| answer.node_id.0))
            });
            return Ok(checked.collect());
        }
        let checked = answer.coordinators.iter().map(|coordinator| {
            let checked = asked.check(&kind.subject(&coordinator.key), coordinator.error_code, coordinator.error_message.as_ref());
            (coordinator.key.to_string(), checked.map(|()| coordinator.node_id.0))
        });
        Ok(checked.collect())
    }

    async fn controller_id(&self) -> Result<i32, ClientError> {
        if let Some(node_id) = self.known().controller {
            return Ok(node_id);
        }
        self.refresh(Topics::Named(&[])).await?;
        self.known().controller.ok_or_else(|| ClientError::NoController { cluster: self.name().clone() })
    }

    /// Servers of another cluster that were met, and not used, since this was asked last.
    pub fn strangers(&self) -> Vec<WrongCluster> {
        std::mem::take(&mut *self.shared.strangers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks all bootstrap servers at once which cluster they are of. As long as none has told, nobody can say which of two was meant.
    async fn identify(&self) -> Result<(), ClientError> {
        let ask = |address: HostPort| async move {
            let told = timeout(IDENTIFY, async { cluster_id(&self.open_any(&address, &self.shared.options).await.ok()?).await.ok()? })
                .await
                .ok()??;
            Some((address, told.0))
        };
        let told = join_all(self.shared.cluster.bootstrap_servers.iter().cloned().map(ask)).await;
        Ok(self.shared.identity.agree(&told.into_iter().flatten().collect::<Vec<_>>())?)
    }

    /// All bootstrap servers and known brokers, one after the other, without waiting long for one that says nothing.
    async fn first_that_answers(&self) -> Result<Connection, ClientError> {
        self.shared.identified.get_or_try_init(|| self.identify()).await?;
        let mut addresses = self.shared.cluster.bootstrap_servers.clone();
        for known in self.known().brokers.values() {
            if !addresses.contains(known) {
                addresses.push(known.clone());
            }
        }
        let first = self.shared.first.load(Ordering::Relaxed) % addresses.len().max(1);
        addresses.rotate_left(first);
        let mut untried = addresses.iter();
        let mut attempts = FuturesUnordered::new();
        let mut errors = Vec::new();
        loop {
            let next = untried.next();
            attempts.extend(next.map(|address| self.open(address, &self.shared.options)));
            let finished = match next {
                Some(_) => timeout(STAGGER, attempts.next()).await,
                None => Ok(attempts.next().await),
            };
            match finished {
                Ok(Some(Ok(connection))) => return Ok(connection),
                Ok(Some(Err(ClientError::WrongCluster(wrong)))) if !wrong.is_one_server => return Err(wrong.into()),
                Ok(Some(Err(error))) => errors.push(error),
                Ok(None) if next.is_none() => return Err(ClientError::no_broker(self.name(), errors)),
                Ok(None) | Err(_) => {}
            }
        }
    }

    /// Connects to a broker, which must be one of this cluster.
    async fn open(&self, address: &HostPort, options: &ConnectOptions) -> Result<Connection, ClientError> {
        let connection = self.open_any(address, options).await?;
        let failed = |source| ClientError::Request { cluster: self.name().clone(), source };
        if let Some((cluster_id, brokers)) = cluster_id(&connection).await.map_err(failed)? {
            let Shared { identity, other, strangers, .. } = &*self.shared;
            let checked = identity.compare(address, &cluster_id).and_then(|()| {
                identity.has_brokers(brokers);
                other.iter().try_for_each(|other| identity.differs_from(other))
            });
            if let Err(wrong) = checked {
                let mut strangers = strangers.lock().unwrap_or_else(PoisonError::into_inner);
                if wrong.is_one_server && !strangers.contains(&wrong) {
                    strangers.push(wrong.clone());
                }
                return Err(wrong.into());
            }
        }
        Ok(connection)
    }

    async fn open_any(&self, address: &HostPort, options: &ConnectOptions) -> Result<Connection, ClientError> {
        Connection::connect(address, &self.shared.cluster.security, options)
            .await
            .map_err(|error| ClientError::Connect { cluster: self.name().clone(), source: Arc::new(error) })
    }

    /// Sends what `make` makes for the highest version that the broker and we know.
    pub(crate) async fn send<'c, R: Request>(
        &'c self,
        connection: &'c Connection,
        ours: VersionRange,
        make: impl FnOnce(i16) -> R,
    ) -> Result<(Asked<'c>, R::Response), ClientError> {
        let failed = |source| ClientError::Request { cluster: self.name().clone(), source };
        let version = connection.version_for::<R>(ours).map_err(failed)?;
        let response = connection.request(&make(version), version).await.map_err(failed)?;
        let api = ApiKey::try_from(R::KEY).expect("each request is of an API that the crate knows");
        Ok((Asked { cluster: self.name(), principal: connection.principal(), api, version }, response))
    }

    pub(crate) fn incomplete(&self, api: ApiKey, about: &impl ToString) -> ClientError {
        ClientError::Incomplete { cluster: self.name().clone(), what: format!("{api:?} of {}", about.to_string()) }
    }

    /// The leader that was last heard of.
    pub(crate) fn leader(&self, partition: &TopicPartition) -> Option<Leader> {
        self.known().leaders.get(&partition.topic)?.get(&partition.partition).copied()
    }

    fn forget_coordinator(&self, kind: CoordinatorKind, key: &str) {
        self.known().coordinators.remove(&(kind, key.to_owned()));
    }

    fn name(&self) -> &Arc<str> {
        &self.shared.cluster.name
    }

    fn address(&self, node_id: i32) -> Option<HostPort> {
        self.known().brokers.get(&node_id).cloned()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<i32, Arc<Slot>>> {
        self.shared.brokers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("cluster", &self.name()).finish_non_exhaustive()
    }
}

/// Whether a broker owes an answer for so long that another one is asked rather.
fn hangs(connection: &Connection) -> bool {
    connection.waits_since().is_some_and(|since| since.elapsed() >= STAGGER)
}

impl Slot {
    /// Whoever waits for an answer goes on waiting, the next one gets another connection: to any broker that answers.
    async fn leave_hanging(&self) {
        self.0.lock().await.take_if(|connection| hangs(connection));
    }

    async fn connected<F>(&self, connect: impl FnOnce() -> F) -> Result<Arc<Connection>, ClientError>
    where
        F: Future<Output = Result<Connection, ClientError>>,
    {
        let mut slot = self.0.lock().await;
        if let Some(open) = slot.as_ref().filter(|connection| connection.is_broken().is_none()) {
            return Ok(open.clone());
        }
        *slot = None;
        Ok(slot.insert(Arc::new(connect().await?)).clone())
    }
}

#[cfg(test)]
mod tests;

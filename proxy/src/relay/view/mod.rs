//! One view: the virtual cluster that a relayed client sees, made of its home and of the clusters that a mirror connects with it.
//!
//! A client's connection leads to one real broker, for as long as it lives. What is about the view as a whole, or about home, the proxy asks for on
//! connections of its own, and answers itself: each cluster for its part, with the login of the client's route.
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | which clusters a view is made of, and the way to each; who answers what |
//! | `leaders` | on which cluster each topic leads |
//! | `doubts` | whether a topic that only a mirror's target names is its own, or a copy |
//! | `directory` | what one cluster has: brokers, topics, partitions, groups |
//! | `metadata` | the brokers, topics and partitions of the view |
//! | `coordinators` | where groups and transactional ids are coordinated |
//! | `changes` | topics that are created, deleted, moved, altered or described, each where it leads |
//! | `reassignments` | partitions that are on their way to other brokers, each of the cluster that leads its topic |
//! | `groups` | groups that live on another cluster than the one that was asked |
//! | `transactions` | transactional ids, described where they are known |
//! | `fixed`, `fuzzed` | a view of fixed clusters, for tests; requests to it that may be anything |
//!
//! # References
//! - `org.apache.kafka.clients.NetworkClient.leastLoadedNode`: Metadata is asked of any broker; `KafkaAdminClient`: which call goes to which

mod changes;
mod coordinators;
mod directory;
mod doubts;
#[cfg(any(test, feature = "fuzzing"))]
mod fixed;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzed;
mod groups;
pub(super) mod leaders;
mod metadata;
mod reassignments;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::Request;
use kferry_config::{Cluster, Mirror, Security};
use kferry_wire::api::{Api, By};
use kferry_wire::client::{Client, ClientError};
use kferry_wire::connection::ConnectOptions;
use kferry_wire::places::Decisions;
use tokio::time::timeout;

pub(crate) use self::directory::Directory;
use self::directory::PATIENCE;
pub(super) use self::groups::{groups_of, keep_living, refusal, refused_commit};
pub(crate) use self::leaders::{Leaders, WorkedOut};

use self::doubts::Asked;
use self::leaders::{Beyond, Settled};
use super::brokers::{Brokers, ToBroker, ToClient, World};
use super::first::Term;
use super::holds::Holds;
use super::request::RequestHead;
use crate::ending::Cause;
use crate::identity::{ClusterIdentity, own_options};

/// How long a change may take: creating a topic takes a broker up to the client's own `timeout_ms`, 30 s by default.
const CHANGE: Duration = Duration::from_mins(1);

/// A view.
#[derive(Debug)]
pub(crate) struct View {
    parts: ArcSwap<Parts>,
    leaders: Arc<ArcSwap<Leaders>>,
    /// Which doubts were looked into last. Locked while they are: one question at a time.
    looked_into: tokio::sync::Mutex<Asked>,
}

/// What a view is made of by the table in force.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// Home first. The others in the order of the file.
    pub clusters: Vec<Part>,
    /// Sources of mirrors to these that are not among them, by what they have as kferry's own login sees it. Clients are not shown them.
    pub beyond: Vec<(Arc<Cluster>, Arc<Directory>)>,
    /// All of the file.
    pub mirrors: Vec<Arc<Mirror>>,
    pub decisions: Arc<Decisions>,
    /// Shared with all other views.
    pub worked_out: Arc<WorkedOut>,
}

/// One cluster of a view.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub cluster: Arc<Cluster>,
    pub identity: Arc<ClusterIdentity>,
    pub brokers: Arc<Brokers>,
    /// What it has as kferry's own login sees it: by this it is decided where topics lead.
    pub own: Arc<Directory>,
    /// What it has as the route's login sees it: this is what the route's clients are shown.
    pub shown: Arc<Directory>,
    /// For changes, with the route's login.
    pub changes: Client,
}

/// Where clients find virtual brokers, and whether the view answers with them.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    /// The host of every virtual broker.
    pub advertised_host: String,
    /// What is added to the `broker_ports` of a cluster in what the client is told.
    pub advertised_port_offset: u16,
}

/// Whom a question to a cluster is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Broker {
    /// Anybody.
    Any,
    /// The controller, where only that one will do.
    Controller,
    /// The one with this real node id.
    Node(i32),
}

/// A client for the changes that the clients of a route make to a cluster.
pub(crate) fn changes_of(cluster: &Cluster, security: Security) -> Client {
    let options = ConnectOptions { request_timeout: CHANGE, ..own_options() };
    Client::new(Arc::new(Cluster { security, ..cluster.clone() }), options)
}

impl Parts {
    /// That of a cluster.
    pub(crate) fn part(&self, cluster: &str) -> Option<&Part> {
        self.clusters.iter().find(|part| *part.cluster.name == *cluster)
    }

    /// What a cluster has, also one beyond the view.
    fn own(&self, cluster: &str) -> Option<&Arc<Directory>> {
        let beyond = || self.beyond.iter().find(|(beyond, _)| *beyond.name == *cluster).map(|(_, own)| own);
        self.part(cluster).map(|part| &part.own).or_else(beyond)
    }

    fn leaders(&self, settled: Settled) -> Arc<Leaders> {
        self.worked_out.leaders(self.named(), self.mirrors.clone(), self.names(), self.beyond(), self.decisions.clone(), settled)
    }

    fn named(&self) -> Vec<Arc<Cluster>> {
        self.clusters.iter().map(|part| part.cluster.clone()).collect()
    }

    fn names(&self) -> Vec<leaders::Names> {
        self.clusters.iter().map(|part| part.own.last().map(|listing| listing.names.clone())).collect()
    }

    fn beyond(&self) -> Vec<Beyond> {
        let beyond = self.beyond.iter();
        beyond.map(|(cluster, own)| Beyond { cluster: cluster.clone(), names: own.last().map(|listing| listing.names.clone()) }).collect()
    }

    fn home(&self) -> &Part {
        &self.clusters[0]
    }
}

impl View {
    /// Nothing is asked yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let leaders = Arc::new(ArcSwap::new(parts.leaders(Settled::default())));
        Self { parts: ArcSwap::from_pointee(parts), leaders, looked_into: tokio::sync::Mutex::default() }
    }

    /// What the table in force makes of it from now on.
    pub(crate) fn change(&self, parts: Parts) {
        // Between other clusters, what was born where is another question; a copy stays one.
        let is_same = self.leaders.load().is_between(&parts.named(), &parts.mirrors);
        self.parts.store(Arc::new(parts));
        self.work_out(|now| if is_same { now.clone() } else { Settled { copied: now.copied.clone(), ..Settled::default() } });
    }

    /// What is decided from now on.
    pub(crate) fn decided(&self, decisions: &Arc<Decisions>) {
        self.parts.store(Arc::new(Parts { decisions: decisions.clone(), ..Parts::clone(&self.parts()) }));
        self.work_out(Settled::clone);
    }

    /// The term of a topic that another cluster led before, and who can be asked about it.
    pub(super) fn term(&self, topic: &str) -> Option<Term> {
        let led = self.leaders.load().decided(topic).filter(|led| led.term > 1)?.clone();
        let parts = self.parts.load();
        let client = |own: &Arc<Directory>| own.client().clone();
        let new_leader = parts.own(&led.cluster).map(client);
        // One that does not answer is not waited for again and again.
        let old_leader = parts.own(&led.before).filter(|own| !own.is_away()).map(client);
        Some(Term { led, new_leader, old_leader })
    }

    /// Whether a cluster is home.
    pub(crate) fn is_home(&self, cluster: &str) -> bool {
        *self.parts.load().home().cluster.name == *cluster
    }

    /// Where topics lead, now and later.
    pub(crate) fn leaders(&self) -> &Arc<ArcSwap<Leaders>> {
        &self.leaders
    }

    /// The clusters, home first.
    pub(crate) fn parts(&self) -> Arc<Parts> {
        self.parts.load_full()
    }

    /// The clusters themselves, home first.
    pub(crate) fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.parts().named()
    }

    /// The clusters themselves: home first, and those last that do not answer just now.
    pub(crate) fn answering_first(&self) -> Vec<Arc<Cluster>> {
        let parts = self.parts();
        let mut clusters: Vec<_> = parts.clusters.iter().collect();
        clusters.sort_by_key(|part| part.own.is_away());
        clusters.into_iter().map(|part| part.cluster.clone()).collect()
    }

    /// The clusters, each as fresh as it can be had, and where topics lead by that.
    pub(crate) async fn fresh(&self) -> (Arc<Parts>, Arc<Leaders>) {
        let parts = self.parts();
        join_all(parts.directories().map(Directory::freshen)).await;
        self.update().await;
        (parts, self.leaders.load_full())
    }

    /// Returns once each cluster has said what it knows and has, or has been asked in vain.
    pub(crate) async fn known(&self) {
        for part in &self.parts().clusters {
            if (part.brokers.versions().is_none() || part.own.last().is_none()) && !part.own.is_away() {
                tokio::join!(part.brokers.ask(&part.cluster, &part.identity), part.own.freshen());
                self.update().await;
            }
        }
        let parts = self.parts();
        let unsaid: Vec<_> = parts.beyond.iter().map(|(_, own)| own).filter(|own| own.last().is_none() && !own.is_away()).collect();
        if !unsaid.is_empty() {
            join_all(unsaid.into_iter().map(|own| own.freshen())).await;
            self.update().await;
        }
    }

    /// Asks those clusters again that it is time to ask.
    pub(crate) async fn follow(&self) {
        let parts = self.parts();
        let beyond = parts.beyond.iter().map(|(_, own)| &**own);
        join_all(parts.directories().chain(beyond).map(Directory::follow)).await;
        self.update().await;
    }

    /// Works out anew where topics lead, if something has changed. That is rare, and this is called with each Metadata: nothing is gone through before.
    async fn update(&self) {
        let parts = self.parts();
        if !self.leaders.load().is_of(&parts.named(), &parts.mirrors, &parts.names(), &parts.beyond()) {
            self.work_out(Settled::clone);
        }
        if !self.leaders.load().doubts().is_empty() {
            self.look_into_doubts(&parts).await;
        }
    }

    /// Works out where topics lead by what the clusters said last, by what was decided, and by what `certain` makes of what is certain. Whoever has changed
    /// one of these comes here after that, and whoever is last has seen all.
    fn work_out(&self, certain: impl Fn(&Settled) -> Settled) {
        self.leaders.rcu(|now| self.parts().leaders(certain(now.settled())));
    }

    /// Answers a request that is for the view, or for home. `body`: of the request, as it came from the client. `holds`: topics
    /// that nobody changes now. Returns the body of the answer.
    ///
    /// # Errors
    /// [`Cause`]: there is no answer, and the connection ends.
    pub(super) async fn answer(&self, head: RequestHead, body: &[u8], door: &Door, holds: &Holds) -> Result<Vec<u8>, Cause> {
        match (head.api.key, head.api.by) {
            (ApiKey::Metadata, _) => metadata::metadata(self, head, body, door).await,
            (ApiKey::DescribeCluster, _) => metadata::describe_cluster(self, head, body, door).await,
            (ApiKey::FindCoordinator, _) => coordinators::find_coordinator(self, head, body, door).await,
            (ApiKey::DescribeTransactions, _) => transactions::describe(self, head, body).await,
            (ApiKey::ListPartitionReassignments, _) => reassignments::list(self, head, body, door).await,
            (_, By::View) if head.is_for_view() => changes::answer(self, head, body, door, holds).await,
            _ => {
                let parts = self.parts();
                parts.home().pass(&parts.home().changes, Broker::Controller, head, body, door).await
            }
        }
    }
}

impl Parts {
    /// Each once.
    fn directories(&self) -> impl Iterator<Item = &Directory> {
        self.clusters.iter().flat_map(|part| {
            let shown = (!Arc::ptr_eq(&part.own, &part.shown)).then_some(&*part.shown);
            [Some(&*part.own), shown].into_iter().flatten()
        })
    }
}

impl Part {
    /// What is told where the cluster would have to be asked and is away.
    pub(crate) fn does_not_answer(&self) -> String {
        format!("cluster {} does not answer kferry: see that it runs, and what the log of this proxy says of it", self.cluster.name)
    }

    /// A client's world on this cluster, for what the proxy asks for it.
    fn world(&self, door: &Door) -> World {
        World {
            cluster: self.cluster.clone(),
            identity: self.identity.clone(),
            brokers: self.brokers.clone(),
            advertised_host: door.advertised_host.clone(),
            advertised_port_offset: door.advertised_port_offset,
            place: None,
        }
    }

    /// Asks the cluster: a request with the ids that the client knows, and so is the answer.
    async fn ask<R: Request>(&self, client: &Client, to: Broker, version: i16, request: &R, door: &Door) -> Result<R::Response, Cause> {
        let api = Api::of(R::KEY).expect("the table has it");
        let head = RequestHead { api, version, correlation_id: 0 };
        let mut body = Vec::new();
        request.encode(&mut body, version).map_err(|error| self.not_asked(api.key, &error))?;
        let answer = self.pass(client, to, head, &body, door).await?;
        kafka_protocol::protocol::Decodable::decode(&mut answer.as_slice(), version).map_err(|error| self.not_asked(api.key, &error))
    }

    /// Asks the cluster what changes nothing. `None`: it does not answer.
    async fn ask_in_time<R: Request>(&self, to: Broker, version: i16, request: &R, door: &Door) -> Option<R::Response> {
        if self.shown.is_away() {
            return None;
        }
        let asking = self.ask(self.shown.client(), to, version, request, door);
        timeout(PATIENCE, asking).await.ok()?.ok()
    }

    /// Asks the cluster, with bodies as the client knows them.
    async fn pass(&self, client: &Client, to: Broker, head: RequestHead, body: &[u8], door: &Door) -> Result<Vec<u8>, Cause> {
        let world = self.world(door);
        let api = head.api;
        let request = head.rewrite(api.request, body, &mut ToBroker::new(&world, api.key))?.unwrap_or_else(|| body.to_vec());
        let connection = match to {
            Broker::Any => client.any().await,
            Broker::Controller => client.controller().await,
            Broker::Node(node_id) => client.broker(node_id).await,
        };
        let connection = connection.map_err(|error| self.not_asked(api.key, &error))?;
        let asked = connection.relay(api.key, head.version, request).await;
        let answer =
            asked.map_err(|source| self.not_asked(api.key, &ClientError::Request { cluster: self.cluster.name.clone(), source }))?;
        let rewritten = head.rewrite(api.response, &answer, &mut ToClient::new(&world, api.key))?;
        Ok(rewritten.unwrap_or_else(|| answer.to_vec()))
    }

    fn not_asked(&self, api_key: ApiKey, error: &dyn std::fmt::Display) -> Cause {
        Cause::NotAsked { cluster: self.cluster.name.clone(), api_key, error: error.to_string() }
    }
}

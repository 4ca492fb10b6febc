//! One question to many brokers: sorted by who has to answer, asked all at once, and again for what the wrong one was asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::future::join_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;

use super::{Answers, Client, ClientError, CoordinatorKind, Resend, Topic, TopicPartition, Topics};
use crate::connection::Connection;

/// Who has to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    /// Whichever broker.
    Any,
    /// This one.
    Id(i32),
}

/// What a broker made of its part of the question.
pub(crate) type Part<K, T> = Result<Vec<(K, Result<T, ClientError>)>, ClientError>;

/// How to find who has to answer.
pub(crate) trait Destination<K>: Sync {
    /// Looks once.
    fn find(&self, client: &Client, keys: Vec<K>) -> impl Future<Output = Answers<K, Node>> + Send;
    /// It was the wrong one: the next look must not rely on what is known.
    fn forget(&self, client: &Client, key: &K);
}

/// The leaders of partitions.
pub(crate) struct Leaders;

/// The coordinators of groups or transactional ids.
pub(crate) struct Coordinators(pub(crate) CoordinatorKind);

/// The controller.
pub(crate) struct Controller;

/// The brokers that a function names.
pub(crate) struct Nodes<F>(pub(crate) F);

impl Destination<TopicPartition> for Leaders {
    async fn find(&self, client: &Client, partitions: Vec<TopicPartition>) -> Answers<TopicPartition, Node> {
        client.leaders(partitions).await
    }

    fn forget(&self, client: &Client, partition: &TopicPartition) {
        client.known().leaders.remove(&partition.topic);
    }
}

impl Destination<String> for Coordinators {
    async fn find(&self, client: &Client, keys: Vec<String>) -> Answers<String, Node> {
        let found = client.coordinators(self.0, &keys).await;
        found.into_iter().map(|(key, found)| (key, found.map(Node::Id))).collect()
    }

    fn forget(&self, client: &Client, key: &String) {
        client.forget_coordinator(self.0, key);
    }
}

impl<K: Ord + Send> Destination<K> for Controller {
    async fn find(&self, client: &Client, keys: Vec<K>) -> Answers<K, Node> {
        let found = client.controller_id().await.map(Node::Id);
        keys.into_iter().map(|key| (key, found.clone())).collect()
    }

    fn forget(&self, client: &Client, _: &K) {
        client.known().controller = None;
    }
}

impl<K: Ord + Send, F: Fn(&K) -> Node + Sync> Destination<K> for Nodes<F> {
    async fn find(&self, _: &Client, keys: Vec<K>) -> Answers<K, Node> {
        let node = |key| {
            let node = (self.0)(&key);
            (key, Ok(node))
        };
        keys.into_iter().map(node).collect()
    }

    fn forget(&self, _: &Client, _: &K) {}
}

impl Client {
    /// Asks the controller one thing.
    pub(crate) async fn ask_controller<T, F>(&self, resend: Resend, ask: impl Fn(Arc<Connection>) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.retry(resend, || async {
            let node_id = self.controller_id().await?;
            let answered = async { ask(self.broker(node_id).await?).await }.await;
            if answered.as_ref().is_err_and(ClientError::is_retriable) {
                self.known().controller = None;
            }
            answered
        })
        .await
    }

    /// Asks a coordinator one thing.
    pub(crate) async fn ask_coordinator<T, F>(
        &self,
        kind: CoordinatorKind,
        key: &str,
        resend: Resend,
        ask: impl Fn(Arc<Connection>) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let ask = &ask;
        self.at_coordinator(kind, key, resend, |node_id| async move { ask(self.broker(node_id).await?).await }).await
    }

    /// The same, for whoever makes the connection: `ask` gets the coordinator's node id.
    pub(crate) async fn at_coordinator<T, F>(
        &self,
        kind: CoordinatorKind,
        key: &str,
        resend: Resend,
        ask: impl Fn(i32) -> F,
    ) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        self.retry(resend, || async {
            let found = self.coordinators(kind, &[key.to_owned()]).await;
            let node_id = self.only(ApiKey::FindCoordinator, &key.to_owned(), found)?;
            let answered = ask(node_id).await;
            if answered.as_ref().is_err_and(ClientError::is_retriable) {
                self.forget_coordinator(kind, key);
            }
            answered
        })
        .await
    }

    /// The result of the one thing that was asked about.
    pub(crate) fn only<K: Ord + std::fmt::Display, T>(&self, api: ApiKey, key: &K, mut answers: Answers<K, T>) -> Result<T, ClientError> {
        answers.remove(key).unwrap_or_else(|| Err(self.incomplete(api, key)))
    }

    /// Asks for many things. `ask` gets what is for one broker, and says what that one made of each.
    pub(crate) async fn spread<K, Q, T, F>(
        &self,
        api: ApiKey,
        destination: impl Destination<K>,
        resend: Resend,
        asked: BTreeMap<K, Q>,
        ask: impl Fn(Arc<Connection>, Vec<(K, Q)>) -> F,
    ) -> Answers<K, T>
    where
        K: Ord + Clone + std::fmt::Display,
        Q: Clone,
        F: Future<Output = Part<K, T>>,
    {
        let mut retry = self.attempts();
        let (mut pending, mut answers) = (asked, Answers::new());
        let mut failed: BTreeMap<K, ClientError> = BTreeMap::new();
        while !pending.is_empty() {
            let mut batches: BTreeMap<Node, Vec<(K, Q)>> = BTreeMap::new();
            let mut results = Vec::new();
            let deadline = retry.deadline;
            let keys: Vec<K> = pending.keys().cloned().collect();
            let found = self.until(deadline, async { Ok(destination.find(self, keys.clone()).await) }).await;
            let found = found.unwrap_or_else(|error| keys.into_iter().map(|key| (key, Err(error.clone()))).collect());
            for (key, node) in found {
                match (node, pending.get(&key)) {
                    (Ok(node), Some(question)) => batches.entry(node).or_default().push((key, question.clone())),
                    // Nothing was sent for it.
                    (Err(error), Some(_)) => results.push((key, Err(error), Resend::Always)),
                    (_, None) => {}
                }
            }
            let parts = batches.into_iter().map(|(node, batch)| {
                let ask = &ask;
                async move {
                    let keys: BTreeSet<K> = batch.iter().map(|(key, _)| key.clone()).collect();
                    let (part, resend) = match self.until(deadline, self.node(node)).await {
                        Ok(connection) => (self.until(deadline, ask(connection, batch)).await, resend),
                        Err(error) => (Err(error), Resend::Always),
                    };
                    self.whole(api, keys, part).into_iter().map(move |(key, result)| (key, result, resend))
                }
            });
            results.extend(join_all(parts).await.into_iter().flatten());
            for (key, result, resend) in results {
                if result.as_ref().is_err_and(ClientError::is_retriable) {
                    destination.forget(self, &key);
                }
                let last = failed.remove(&key);
                match result.map_err(|error| error.after(last.as_ref())) {
                    Err(error) if retry.may_pass(&error, resend) => drop(failed.insert(key, error)),
                    result => {
                        pending.remove(&key);
                        answers.insert(key, result);
                    }
                }
            }
            if !pending.is_empty() && !retry.pause().await {
                answers.extend(failed.into_iter().map(|(key, error)| (key, Err(error))));
                break;
            }
        }
        answers
    }

    /// A result for each key: the broker's, or why there is none.
    fn whole<K: Ord + std::fmt::Display, T>(
        &self,
        api: ApiKey,
        mut keys: BTreeSet<K>,
        part: Part<K, T>,
    ) -> Vec<(K, Result<T, ClientError>)> {
        match part {
            Err(error) => keys.into_iter().map(|key| (key, Err(error.clone()))).collect(),
            Ok(mut results) => {
                results.retain(|(key, _)| keys.remove(key));
                for key in keys {
                    let error = self.incomplete(api, &key);
                    results.push((key, Err(error)));
                }
                results
            }
        }
    }

    async fn node(&self, node: Node) -> Result<Arc<Connection>, ClientError> {
        match node {
            Node::Any => self.any().await,
            Node::Id(node_id) => self.broker(node_id).await,
        }
    }

    /// The leaders of partitions; topics of which one is not known are asked for, once.
    async fn leaders(&self, partitions: Vec<TopicPartition>) -> Answers<TopicPartition, Node> {
        let unknown: BTreeSet<Arc<str>> =
            partitions.iter().filter(|partition| self.leader(partition).is_none()).map(|partition| partition.topic.clone()).collect();
        let mut topics = BTreeMap::new();
        let mut failed = None;
        if !unknown.is_empty() {
            let names: Vec<&str> = unknown.iter().map(|name| &**name).collect();
            match self.refresh(Topics::Named(&names)).await {
                Err(error) => failed = Some(error),
                Ok(metadata) => topics.extend(metadata.topics.into_iter().map(|topic| (topic.name.clone(), topic))),
            }
        }
        let found = partitions.into_iter().map(|partition| {
            let node = match self.leader(&partition) {
                Some(leader) => Ok(Node::Id(leader.node_id)),
                None => Err(failed.clone().unwrap_or_else(|| self.why_no_leader(&partition, topics.get(&partition.topic)))),
            };
            (partition, node)
        });
        found.collect()
    }

    /// The leader's node id; asked for once if it is not known.
    pub(super) async fn find_leader(&self, partition: &TopicPartition) -> Result<i32, ClientError> {
        match self.leaders(vec![partition.clone()]).await.remove(partition) {
            Some(Ok(Node::Id(node_id))) => Ok(node_id),
            Some(Err(error)) => Err(error),
            Some(Ok(Node::Any)) | None => Err(self.incomplete(ApiKey::Metadata, partition)),
        }
    }

    fn why_no_leader(&self, partition: &TopicPartition, topic: Option<&Topic>) -> ClientError {
        let error = |code| ClientError::leader(self.name(), partition, code);
        let Some(topic) = topic else { return self.incomplete(ApiKey::Metadata, partition) };
        match topic.partitions.iter().find(|known| known.index == partition.partition) {
            Some(known) => known.error.clone().unwrap_or_else(|| error(ResponseError::LeaderNotAvailable)),
            None => topic.error.clone().unwrap_or_else(|| error(ResponseError::UnknownTopicOrPartition)),
        }
    }
}

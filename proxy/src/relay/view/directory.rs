//! What one cluster of a view has: brokers, topics and partitions, asked with one login and shared by all who see the view.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use kferry_config::{Cluster, Security};
use kferry_wire::admin::groups::GroupFilter;
use kferry_wire::client::{Client, ClientError, Metadata, Topics};
use kferry_wire::tell;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::identity::own_options;
use crate::messages;
use crate::metrics;
use crate::relay::topic_ids::virtual_topic_id;

/// How old an answer may be that somebody gets who asks now: questions of many clients at once become one, and no cluster is asked for all of its
/// topics more than ten times a second.
const FRESH: Duration = Duration::from_millis(100);

/// How long somebody waits for an answer. Who has waited in vain is the last: until the cluster answers again, the last answer is what there is.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// How long, since its last answer, clients are shown the leaders that a cluster named: one that was slow once, or is cut off for a moment, goes on as
/// it was, and clients find out at its brokers, as they do without a proxy.
const LAST_LEADERS: Duration = Duration::from_secs(30);

/// How old a list of groups may be: each of the cluster's brokers is asked for its own.
const GROUPS_FRESH: Duration = Duration::from_secs(1);

/// How long the cluster has for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How old the answer gets when nobody asks.
const AGE: Duration = Duration::from_secs(5);

/// What a cluster said, and when.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Brokers, topics and partitions, with real ids.
    pub metadata: Metadata,
    /// The names of the topics. The same set as before if nothing has changed.
    pub names: Arc<HashSet<Arc<str>>>,
    /// The names by the ids under which clients know these topics, from when one is first asked for by its id. The same as before if nothing has changed.
    by_id: Arc<OnceLock<HashMap<Uuid, Arc<str>>>>,
}

impl Listing {
    fn of(metadata: Metadata, before: Option<&Self>) -> Self {
        let exists = metadata.topics.iter().filter(|topic| !topic.error.as_ref().is_some_and(ClientError::is_unknown_topic));
        let names: HashSet<_> = exists.map(|topic| topic.name.clone()).collect();
        match before {
            Some(before) if *before.names == names => Self { metadata, names: before.names.clone(), by_id: before.by_id.clone() },
            _ => Self { metadata, names: Arc::new(names), by_id: Arc::default() },
        }
    }

    /// The name of the topic that clients know by this id.
    pub(super) fn name_of(&self, topic_id: Uuid) -> Option<&Arc<str>> {
        let by_id = self.by_id.get_or_init(|| self.names.iter().map(|name| (virtual_topic_id(name), name.clone())).collect());
        by_id.get(&topic_id)
    }
}

/// The groups of a cluster.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups {
    /// As it said last.
    pub groups: Arc<HashSet<String>>,
    /// It said so just now.
    pub is_fresh: bool,
}

/// Whether the cluster answers.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    /// When it did last.
    answered: Option<Instant>,
    /// The last question had no answer.
    is_away: bool,
}

impl Standing {
    /// Whether the leaders that it named last are taken to lead.
    fn has_leaders(self, now: Instant) -> bool {
        !self.is_away || self.answered.is_some_and(|answered| now.duration_since(answered) < LAST_LEADERS)
    }
}

/// One cluster, asked with one login.
pub(crate) struct Directory {
    /// With the login as its security.
    cluster: Arc<Cluster>,
    /// Its own connections, for questions only: a quota on somebody's changes must not make others wait for theirs.
    client: Client,
    listing: ArcSwapOption<Listing>,
    /// When the last answer was asked for. Locked while it is: one question at a time.
    asked: tokio::sync::Mutex<Option<Instant>>,
    /// The groups that it had, and when that was asked for. One question at a time.
    groups: tokio::sync::Mutex<Option<(Instant, Groups)>>,
    /// When it was tried last.
    tried: Mutex<Option<Instant>>,
    standing: Mutex<Standing>,
}

impl Directory {
    /// Nothing is asked yet. `security`: with the login to ask with.
    pub(crate) fn new(cluster: &Cluster, security: Security) -> Self {
        let cluster = Arc::new(Cluster { security, ..cluster.clone() });
        let client = Client::new(cluster.clone(), own_options()).within(DEADLINE);
        Self {
            cluster,
            client,
            listing: ArcSwapOption::empty(),
            asked: tokio::sync::Mutex::default(),
            groups: tokio::sync::Mutex::default(),
            tried: Mutex::default(),
            standing: Mutex::default(),
        }
    }

    /// Whether it is still good for `cluster`, which a new file has under the same name.
    pub(crate) fn is_of(&self, cluster: &Cluster, security: &Security) -> bool {
        self.cluster.bootstrap_servers == cluster.bootstrap_servers && self.cluster.security == *security
    }

    /// Its connections.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// What the cluster said last.
    pub(crate) fn last(&self) -> Option<Arc<Listing>> {
        self.listing.load_full()
    }

    /// Whether the last question had no answer.
    pub(crate) fn is_away(&self) -> bool {
        self.standing().is_away
    }

    /// Whether clients are shown the leaders that the cluster named last.
    pub(super) fn has_leaders(&self) -> bool {
        self.standing().has_leaders(Instant::now())
    }

    /// Returns once what the cluster says is fresh, or cannot be had.
    pub(crate) async fn freshen(&self) {
        self.ask_in_time(Instant::now().checked_sub(FRESH)).await;
    }

    /// Returns once the cluster has said what it has by a question that begins after this call, or cannot be asked.
    pub(super) async fn ask_again(&self) {
        self.ask_in_time(Some(Instant::now())).await;
    }

    async fn ask_in_time(&self, since: Option<Instant>) {
        if !self.is_away() {
            // A cluster that says nothing is away, as one that cannot be reached.
            if timeout(PATIENCE, self.ask(since)).await.is_err() {
                self.told(Err(format!("no answer within {} s", PATIENCE.as_secs())));
            }
        }
    }

    /// Asks again if it is time to.
    pub(crate) async fn follow(&self) {
        let tried = *self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_away() || tried.is_none_or(|tried| tried.elapsed() >= AGE) {
            self.ask(None).await;
        }
    }

    /// The groups that the cluster has, a second old at the most; or those that it had, if it does not say.
    pub(super) async fn groups(&self) -> Groups {
        let asking = async {
            let mut known = self.groups.lock().await;
            let is_due = known.as_ref().is_none_or(|(at, _)| at.elapsed() >= GROUPS_FRESH);
            if is_due && !self.is_away() {
                let began = Instant::now();
                let listed = self.client.list_groups(GroupFilter::default()).await;
                let before = known.take().map(|(_, before)| before.groups).unwrap_or_default();
                let is_fresh = listed.is_ok();
                let groups = listed.map_or(before, |groups| Arc::new(groups.into_iter().map(|group| group.group_id).collect()));
                *known = Some((began, Groups { groups, is_fresh }));
            }
            known
                .as_ref()
                .map(|(at, groups)| Groups { is_fresh: groups.is_fresh && at.elapsed() < GROUPS_FRESH + PATIENCE, ..groups.clone() })
        };
        let known = timeout(PATIENCE, asking).await.ok().flatten().unwrap_or_default();
        Groups { is_fresh: known.is_fresh && !self.is_away(), ..known }
    }

    /// Asks, unless somebody has since then.
    async fn ask(&self, since: Option<Instant>) {
        let mut asked = self.asked.lock().await;
        if since.is_some_and(|since| asked.is_some_and(|asked| asked >= since)) {
            return;
        }
        let began = Instant::now();
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        match self.client.metadata(Topics::All).await {
            Ok(metadata) => {
                let before = self.listing.load_full();
                self.listing.store(Some(Arc::new(Listing::of(metadata, before.as_deref()))));
                *asked = Some(began);
                self.told(Ok(()));
            }
            Err(error) => self.told(Err(error.to_string())),
        }
    }

    /// As if the cluster had said so.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn listed(&self, metadata: Metadata) {
        self.listing.store(Some(Arc::new(Listing::of(metadata, None))));
    }

    /// As if the cluster had answered last so long ago.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn silent_for(&self, time: Duration) {
        *self.standing() = Standing { answered: Instant::now().checked_sub(time), is_away: true };
    }

    /// As if the cluster had never said anything.
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.listing.store(None);
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self, outcome: Result<(), String>) {
        let cluster = &*self.cluster.name;
        let was_away = {
            let mut standing = self.standing();
            if outcome.is_ok() {
                standing.answered = Some(Instant::now());
            }
            std::mem::replace(&mut standing.is_away, outcome.is_err())
        };
        metrics::seen(cluster, outcome.is_ok());
        match outcome {
            Ok(()) if was_away => tell!(messages::SEEN_AGAIN, cluster),
            Err(error) if !was_away => tell!(messages::NOT_SEEN: ": {error}", cluster),
            _ => {}
        }
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("cluster", &self.cluster.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_leaders_are_shown_for_a_while_after_the_last_answer() {
        let now = Instant::now();
        let has = |answered, is_away, seconds| Standing { answered, is_away }.has_leaders(now + Duration::from_secs(seconds));
        for (seconds, expected) in [(0, true), (29, true), (31, false), (10_000, false)] {
            assert_eq!(has(Some(now), true, seconds), expected, "{seconds} s after its last answer");
        }
        // Nobody has asked since.
        assert!(has(Some(now), false, 10_000));
        // It never said which it has.
        assert!(!has(None, true, 0));
    }
}

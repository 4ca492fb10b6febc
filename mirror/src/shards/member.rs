//! A process as a member of its mirror's consumer group: see [`crate::shards`] for what that is for.
//!
//! # References
//! - KIP-429 (cooperative rebalancing): a shard that moves is given up by the old owner before anybody else gets it
//! - `OffsetMetadataManager.validateOffsetCommit`, before 4.0 `GroupCoordinator.doCommitOffsets`: a commit of a classic group's member is refused
//!   from another generation and while members await their assignment; else it prolongs the session as a heartbeat does
//! - librdkafka's `rdkafka_cgrp.c`: `rd_kafka_cgrp_group_is_rebalancing` does not rejoin before the application has answered a revocation

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kferry_config::{Cluster, Mirror, Sasl, SecretError};
use kferry_wire::security::sasl::{SaslError, token};
use kferry_wire::tell;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::events;
use super::membership::{Change, Handover, Member};
use crate::messages;
use crate::partition::{Lease, Shard};

/// `session.timeout.ms`: a member that is not heard of for so long is put out of the group. A coordinator that fails is replaced after a broker's session (9 s) and a
/// moment; with less than this its members' leases would end before.
const SESSION: Duration = Duration::from_secs(15);
/// `heartbeat.interval.ms`.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two commits, each of which renews the lease.
const RENEWAL: Duration = Duration::from_secs(1);
/// How long the group waits in a rebalance for a member that heartbeats and does not rejoin. Ours rejoin within [`HANDING_OVER`] and a heartbeat.
const REBALANCE: Duration = Duration::from_mins(1);
/// How long the group waits for a shard that is to be given up, and how long its partitions may take to come to rest: what is kept of them after
/// that would come too late.
const HANDING_OVER: Duration = Duration::from_secs(5);
/// `socket.timeout.ms`: how long a broker may take to answer, where Kafka's protocol has no other bound. A coordinator that hangs is looked for elsewhere
/// after it.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a poll of librdkafka waits for something to happen.
const POLL: Duration = Duration::from_millis(100);
/// How long a call into librdkafka may take until it counts as hung: a commit that waits for another coordinator takes a session, a revocation
/// [`HANDING_OVER`].
const HUNG: Duration = Duration::from_secs(30);
/// How long it may take to become a member: a rebalance, and a session for a coordinator that is about to be elected.
const JOINING: Duration = REBALANCE.saturating_add(SESSION);
/// Between two attempts to become a member.
const PAUSE: Duration = Duration::from_secs(2);
/// How long librdkafka takes a token for valid: it asks for the next one when four fifths of this are over.
const TOKEN: Duration = Duration::from_mins(1);

impl Member {
    /// Joins the group of a mirror's processes on its target, and stays a member whatever the cluster does. `topic` is the state's.
    pub fn join(mirror: &Arc<str>, cluster: Arc<Cluster>, topic: String) -> Self {
        let (sender, changes) = mpsc::unbounded_channel();
        let (lease, joined, stop) = (Lease::new(0), Arc::new(AtomicBool::new(false)), CancellationToken::new());
        let membership = Membership {
            mirror: mirror.clone(),
            cluster,
            topic,
            lease: lease.clone(),
            joined: joined.clone(),
            held: Mutex::default(),
            changes: sender,
            stop: stop.clone(),
        };
        let membership = Arc::new(membership);
        let thread = thread::Builder::new().name("shards".to_owned()).spawn(move || stay(&membership)).expect("a thread can be started");
        Self { changes, lease, joined, thread, stop: stop.drop_guard() }
    }
}

/// Is a member again and again, with a new consumer each time, until `stop`: passwords and certificates may have changed since the last time, and
/// librdkafka does not always come back by itself. It forgets all brokers at an answer of Metadata that lists none, which a broker that has just
/// started may give (confluentinc/librdkafka issue 5301), and a commit was seen that did not end in two minutes.
fn stay(membership: &Arc<Membership>) {
    while !membership.stop.is_cancelled() {
        let consumer = Arc::new(GroupConsumer::new(membership.clone()));
        // A thread of its own: librdkafka calls back from its poll, and a revocation waits there.
        let thread = thread::Builder::new().name("group".to_owned()).spawn({
            let consumer = consumer.clone();
            move || be_member(&consumer)
        });
        let thread = thread.expect("a thread can be started");
        while !thread.is_finished() && !consumer.hangs() {
            thread::sleep(POLL);
        }
        consumer.give_up();
        if !thread.is_finished() && membership.stop.is_cancelled() {
            tell!(messages::NOT_LEFT, mirror = &*membership.mirror);
        } else if !thread.is_finished() {
            // If it goes on one day it leaves the group; until then librdkafka does, which is not polled any more.
            tell!(messages::LIBRDKAFKA_HANGS, mirror = &*membership.mirror);
        } else if let Err(error) = thread.join().expect("a member does not panic") {
            tell!(messages::NO_MEMBER, mirror = &*membership.mirror, %error);
        }
        let until = Instant::now() + PAUSE;
        while Instant::now() < until && !membership.stop.is_cancelled() {
            thread::sleep(POLL);
        }
    }
}

/// Is a member with one consumer, until it is to leave or the group went on without it.
fn be_member(this: &Arc<GroupConsumer>) -> Result<(), MemberError> {
    let Membership { mirror, cluster, topic, joined, .. } = &*this.membership;
    let consumer: BaseConsumer<Held> =
        client_config(cluster, mirror)?.create_with_context(Held(this.clone())).map_err(MemberError::from)?;
    consumer.subscribe(&[topic]).map_err(MemberError::from)?;
    let mut next = Instant::now();
    while this.goes_on() {
        if let Some(Err(error)) = consumer.poll(POLL) {
            match error.rdkafka_error_code() {
                Some(RDKafkaErrorCode::GroupAuthorizationFailed) => return Err(MemberError::NoRight(Mirror::group(mirror))),
                _ => debug!(mirror = &**mirror, %error, "the mirror's group"),
            }
        }
        if joined.load(Ordering::Acquire) && Instant::now() >= next {
            this.renew_lease(&consumer);
            next = Instant::now() + RENEWAL;
        }
        if !this.proven.load(Ordering::Acquire) && this.began.elapsed() >= JOINING {
            return Err(MemberError::NotJoined(JOINING.as_secs()));
        }
    }
    Ok(())
}

/// Why a process is no member of its mirror's group.
#[derive(Debug, thiserror::Error)]
enum MemberError {
    /// The password cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// librdkafka does not take a setting of kferry's. The value is not shown: it may be a password.
    #[error("librdkafka does not take {key}: {reason}")]
    Setting {
        /// The setting's name.
        key: String,
        /// What librdkafka says about it.
        reason: String,
    },
    /// The right to read the group, which this names, is missing.
    #[error("may not be a member of the group {0}; grant READ on it to the mirror's principal on the target")]
    NoRight(String),
    /// For so many seconds no assignment came, or no commit was taken after it.
    #[error("no answer of the group's coordinator for {0} s; check that the target's brokers run and that __consumer_offsets has leaders")]
    NotJoined(u64),
    /// librdkafka reports an error.
    #[error(transparent)]
    Kafka(KafkaError),
}

impl From<KafkaError> for MemberError {
    fn from(error: KafkaError) -> Self {
        match error {
            KafkaError::ClientConfig(_, reason, key, _) => Self::Setting { key, reason },
            error => Self::Kafka(error),
        }
    }
}

/// librdkafka's settings for how kferry connects to a cluster.
fn client_config(cluster: &Cluster, mirror: &str) -> Result<ClientConfig, MemberError> {
    let servers: Vec<_> = cluster.bootstrap_servers.iter().map(ToString::to_string).collect();
    let ms = |time: Duration| time.as_millis().to_string();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers.join(","))
        .set("client.id", Mirror::group(mirror))
        .set("group.id", Mirror::group(mirror))
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", ms(SESSION))
        .set("heartbeat.interval.ms", ms(HEARTBEAT))
        .set("max.poll.interval.ms", ms(REBALANCE))
        .set("socket.timeout.ms", ms(ANSWER))
        .set("reconnect.backoff.max.ms", "1000")
        // The topic may have been created a moment ago, and be unknown to the broker that is asked first.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("security.protocol", cluster.security.protocol());
    if let Some(tls) = &cluster.security.tls {
        // The system's authorities are where OpenSSL was told when it was built, which is not where every system has them.
        let ca = tls.ca.as_ref().map_or_else(|| "probe".into(), |ca| ca.to_string_lossy());
        config.set("ssl.ca.location", ca);
        if let Some(identity) = &tls.identity {
            config.set("ssl.certificate.location", identity.certificate.to_string_lossy());
            config.set("ssl.key.location", identity.key.to_string_lossy());
        }
        if tls.skip_host_name_check {
            config.set("ssl.endpoint.identification.algorithm", "none");
        }
    }
    if let Some(Some(sasl)) = &cluster.security.sasl {
        config.set("sasl.mechanism", sasl.mechanism());
        if let Sasl::Password { username, password, .. } = sasl {
            config.set("sasl.username", username).set("sasl.password", password.read()?);
        }
    }
    Ok(config)
}

/// What a process keeps as a member of its mirror's group, from one consumer to the next.
struct Membership {
    mirror: Arc<str>,
    cluster: Arc<Cluster>,
    /// The state's topic, whose partitions are the shards.
    topic: String,
    lease: Arc<Lease>,
    joined: Arc<AtomicBool>,
    /// The shards of this process, by number.
    held: Mutex<HashMap<i32, Arc<Shard>>>,
    changes: mpsc::UnboundedSender<Change>,
    stop: CancellationToken,
}

/// What one consumer, its callbacks and who watches it share.
struct GroupConsumer {
    membership: Arc<Membership>,
    /// When the consumer was made.
    began: Instant,
    /// When its thread was last seen between two calls into librdkafka, in ms since `began`.
    seen: AtomicU64,
    /// Whether a commit of this consumer has renewed the lease.
    proven: AtomicBool,
    /// Whether it is to leave in an orderly way, and another consumer is to be made.
    renew: AtomicBool,
    /// Whether its shards are lost. Changed with `held` locked, and read with it wherever it says something of them: a consumer that hung may go on
    /// late, when there is another one.
    over: AtomicBool,
}

impl GroupConsumer {
    fn new(membership: Arc<Membership>) -> Self {
        let [proven, renew, over] = [false; 3].map(AtomicBool::new);
        Self { membership, began: Instant::now(), seen: AtomicU64::new(0), proven, renew, over }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Whether the consumer is to be polled again. Says also that its thread does not hang.
    fn goes_on(&self) -> bool {
        self.seen.store(self.began.elapsed().as_millis() as u64, Ordering::Release);
        !self.is_over() && !self.renew.load(Ordering::Acquire) && !self.membership.stop.is_cancelled()
    }

    /// Whether a call into librdkafka takes longer than any should.
    fn hangs(&self) -> bool {
        let patience = if self.membership.stop.is_cancelled() { HANDING_OVER } else { HUNG };
        self.began.elapsed() > Duration::from_millis(self.seen.load(Ordering::Acquire)) + patience
    }

    /// Renews the lease by a commit, also without a shard. What is committed means nothing; that the coordinator takes it is what counts.
    fn renew_lease(&self, consumer: &BaseConsumer<Held>) {
        let Membership { mirror, topic, lease, .. } = &*self.membership;
        // Of a group that has become empty meanwhile the coordinator would take a commit that proves nothing.
        if self.proven.load(Ordering::Acquire) && lease.left() == Duration::ZERO {
            tell!(messages::LEASE_OVER, mirror = &**mirror);
            self.give_up();
            return;
        }
        let mut offsets = TopicPartitionList::new();
        let sent = lease.now();
        // rdkafka tells nobody how an asynchronous commit ended. This one ends after `socket.timeout.ms`, or after a session without a coordinator.
        let committed =
            offsets.add_partition_offset(topic, 0, Offset::Offset(0)).and_then(|()| consumer.commit(&offsets, CommitMode::Sync));
        match committed {
            Ok(()) if !consumer.assignment_lost() && !self.is_over() => {
                lease.renew(sent);
                self.proven.store(true, Ordering::Release);
            }
            Ok(()) => {}
            Err(error) => debug!(mirror = &**mirror, %error, "the lease is not renewed"),
        }
    }

    /// The process has these shards from now on.
    fn gained(&self, numbers: &[i32]) {
        let membership = &*self.membership;
        let mut held = membership.held();
        if self.is_over() {
            return;
        }
        membership.joined.store(true, Ordering::Release);
        // Each rebalance tells what is new, which is often nothing; and there may be more processes than shards.
        if numbers.is_empty() {
            return;
        }
        let gained: Vec<_> = numbers.iter().map(|number| Shard::new(*number, membership.lease.clone())).collect();
        held.extend(gained.iter().map(|shard| (shard.number(), shard.clone())));
        events::gained(&membership.mirror, numbers, held.len());
        drop(held);
        let _ = membership.changes.send(Change::Gained(gained));
    }

    /// These shards are to be given up: waits until their partitions have come to rest, at most [`HANDING_OVER`].
    fn revoked(&self, numbers: &[i32]) {
        let membership = &*self.membership;
        let mut held = membership.held();
        if self.is_over() {
            return;
        }
        end(&mut held, numbers);
        events::revoked(&membership.mirror, numbers, held.len());
        drop(held);
        let (handover, done) = sync_channel(1);
        if membership.changes.send(Change::Revoked(Handover(handover))).is_ok()
            && done.recv_timeout(HANDING_OVER) == Err(RecvTimeoutError::Timeout)
        {
            tell!(messages::NOT_AT_REST, mirror = &*membership.mirror, shards = ?numbers);
        }
    }

    /// Ends all shards of this consumer, which may be another process's by now.
    fn give_up(&self) {
        let membership = &*self.membership;
        let mut held = membership.held();
        if self.over.swap(true, Ordering::AcqRel) {
            return;
        }
        membership.joined.store(false, Ordering::Release);
        let numbers: Vec<_> = held.keys().copied().collect();
        if !numbers.is_empty() {
            end(&mut held, &numbers);
            events::lost(&membership.mirror, &numbers, held.len());
            let _ = membership.changes.send(Change::Lost);
        }
    }
}

/// Ends shards for this process: from here on nothing is sent for them.
fn end(held: &mut HashMap<i32, Arc<Shard>>, numbers: &[i32]) {
    for shard in numbers.iter().filter_map(|number| held.remove(number)) {
        shard.end();
    }
}

impl Membership {
    fn held(&self) -> MutexGuard<'_, HashMap<i32, Arc<Shard>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// librdkafka's callbacks.
struct Held(Arc<GroupConsumer>);

impl ConsumerContext for Held {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Self(this) = self;
        match rebalance {
            Rebalance::Revoke(_) if consumer.assignment_lost() => this.give_up(),
            Rebalance::Revoke(list) => this.revoked(&numbers(list)),
            Rebalance::Assign(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let Self(this) = self;
        if let Rebalance::Assign(list) = rebalance {
            // Nothing is to be read: the state has its own reader.
            if let Err(error) = consumer.pause(list) {
                debug!(mirror = &*this.membership.mirror, %error, "cannot pause");
            }
            this.gained(&numbers(list));
        }
    }
}

/// The numbers of the partitions in a list.
fn numbers(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(TopicPartitionListElem::partition).collect()
}

impl ClientContext for Held {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        let mirror = &*self.0.membership.mirror;
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tell!(messages::LIBRDKAFKA_WARNS, mirror, facility, text);
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tell!(messages::LIBRDKAFKA, mirror, facility, text),
            RDKafkaLogLevel::Debug => debug!(mirror, facility, text, "librdkafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::Fatal)) {
            tell!(messages::NO_MEMBER, mirror = &*self.0.membership.mirror, ?code, reason);
            self.0.renew.store(true, Ordering::Release);
        } else {
            debug!(mirror = &*self.0.membership.mirror, ?code, reason, "librdkafka");
        }
    }

    /// Reads the token as it is now. When it really ends the broker knows: kferry does not look into it.
    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let Some(Some(Sasl::OAuthBearer { token_file })) = &self.0.membership.cluster.security.sasl else {
            return Err(Box::new(SaslError::Message { mechanism: "OAUTHBEARER", reason: "it is not what the file says".to_owned() }));
        };
        let until = Timestamp::now() + TOKEN;
        Ok(OAuthToken { token: token(token_file)?, principal_name: "kferry".to_owned(), lifetime_ms: until.as_millisecond() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::partition::LEASE;
    use kferry_config::{ClientTls, HostPort, SaslMechanism, Secret, Security};

    fn cluster(security: Security) -> Cluster {
        let bootstrap_servers = vec![HostPort { host: "::1".to_owned(), port: 9092 }, HostPort { host: "kafka".to_owned(), port: 9093 }];
        Cluster { name: "target".into(), id: 1, bootstrap_servers, brokers: None, security }
    }

    fn consumer() -> (Arc<GroupConsumer>, mpsc::UnboundedReceiver<Change>) {
        let (changes, received) = mpsc::unbounded_channel();
        let membership = Membership {
            mirror: "m".into(),
            cluster: Arc::new(cluster(Security::default())),
            topic: "t".to_owned(),
            lease: Lease::new(0),
            joined: Arc::default(),
            held: Mutex::default(),
            changes,
            stop: CancellationToken::new(),
        };
        (Arc::new(GroupConsumer::new(Arc::new(membership))), received)
    }

    fn gained(changes: &mut mpsc::UnboundedReceiver<Change>) -> Vec<Arc<Shard>> {
        let Ok(Change::Gained(shards)) = changes.try_recv() else { panic!("nothing was gained") };
        shards
    }

    #[test]
    fn a_shard_is_written_to_from_the_first_commit_on_until_the_lease_is_out_or_the_shard_is_over() {
        let (consumer, mut changes) = consumer();
        consumer.gained(&[3, 5]);
        let membership = &consumer.membership;
        let shards = gained(&mut changes);
        assert!(shards.iter().all(|shard| !shard.may_write()), "nothing is proven yet");
        membership.lease.renew(membership.lease.now());
        assert!(shards.iter().all(|shard| shard.may_write()));
        let left = membership.lease.left();
        assert!(left <= LEASE && left > LEASE / 2, "{left:?}");
        membership.lease.renew(0);
        assert!(membership.lease.left() + Duration::from_secs(1) > left, "an older commit takes nothing away");

        consumer.give_up();
        assert!(shards.iter().all(|shard| shard.is_over() && !shard.may_write()));
        assert!(matches!(changes.try_recv(), Ok(Change::Lost)));
        consumer.gained(&[3]);
        consumer.revoked(&[3]);
        assert!(changes.try_recv().is_err() && !membership.joined.load(Ordering::Acquire), "what it says now is of no account");
        // What is gained again is another shard: who still has the old one may not write.
        GroupConsumer::new(membership.clone()).gained(&[3]);
        assert!(gained(&mut changes)[0].may_write() && !shards[0].may_write());
    }

    #[test]
    fn a_lease_that_nobody_renews_runs_out() {
        let lease = Lease::new(30);
        assert!(lease.left() > Duration::ZERO);
        thread::sleep(Duration::from_millis(40));
        assert_eq!(lease.left(), Duration::ZERO);
    }

    #[test]
    fn the_group_waits_for_a_shard_that_is_given_up() {
        let (consumer, mut changes) = consumer();
        consumer.gained(&[1, 2]);
        let shards = gained(&mut changes);
        let lease = &consumer.membership.lease;
        lease.renew(lease.now());
        let revoked = thread::spawn({
            let consumer = consumer.clone();
            move || consumer.revoked(&[1])
        });
        let Some(Change::Revoked(handover)) = changes.blocking_recv() else { panic!("nothing was revoked") };
        assert!(shards[0].may_be_left() && !shards[0].may_write() && shards[1].may_write() && !shards[1].may_be_left());
        thread::sleep(Duration::from_millis(100));
        assert!(!revoked.is_finished(), "it waits");
        drop(handover);
        revoked.join().unwrap();
        // Nobody listens any more: nothing is waited for.
        drop(changes);
        let began = Instant::now();
        consumer.revoked(&[2]);
        assert!(began.elapsed() < HANDING_OVER);
    }

    #[test]
    fn a_consumer_that_is_not_polled_any_more_hangs() {
        let mut consumer = GroupConsumer::new(consumer().0.membership.clone());
        assert!(consumer.goes_on() && !consumer.hangs());
        consumer.began -= HANDING_OVER + Duration::from_secs(1);
        assert!(!consumer.hangs());
        consumer.began -= HUNG;
        assert!(consumer.hangs());
        assert!(consumer.goes_on() && !consumer.hangs());
        consumer.give_up();
        assert!(!consumer.goes_on());
    }

    #[test]
    fn librdkafka_connects_as_the_file_says() {
        let config = client_config(&cluster(Security::default()), "m").unwrap();
        let get = |key: &str| config.get(key).map(str::to_owned);
        assert_eq!(get("bootstrap.servers").unwrap(), "[::1]:9092,kafka:9093");
        assert_eq!((get("group.id").unwrap(), get("security.protocol").unwrap()), ("kferry-mirror-m".to_owned(), "PLAINTEXT".to_owned()));
        assert_eq!((get("ssl.ca.location"), get("sasl.mechanism")), (None, None));

        let tls = Some(ClientTls { ca: Some("/ca.pem".into()), identity: None, skip_host_name_check: true });
        let password = Secret::Literal("hush".to_owned());
        let login = Sasl::Password { mechanism: SaslMechanism::ScramSha512, username: "alice".to_owned(), password };
        let config = client_config(&cluster(Security { tls, sasl: Some(Some(login)) }), "m").unwrap();
        let get = |key: &str| config.get(key).unwrap();
        assert_eq!((get("security.protocol"), get("sasl.mechanism")), ("SASL_SSL", "SCRAM-SHA-512"));
        assert_eq!((get("ssl.ca.location"), get("ssl.endpoint.identification.algorithm")), ("/ca.pem", "none"));
        assert_eq!((get("sasl.username"), get("sasl.password")), ("alice", "hush"));
        assert!(!format!("{config:?}").contains("hush"));

        let tls = Some(ClientTls::default());
        let config = client_config(&cluster(Security { tls, sasl: None }), "m").unwrap();
        assert_eq!((config.get("security.protocol"), config.get("ssl.ca.location")), (Some("SSL"), Some("probe")));
        config.create_native_config().unwrap();
    }

    #[test]
    fn a_setting_that_is_refused_is_named_and_its_value_is_not() {
        let mut config = ClientConfig::new();
        let refused = config.set("sasl.password.or.so", "hush").create_native_config().err().unwrap();
        let error = MemberError::from(refused).to_string();
        assert!(error.contains("sasl.password.or.so") && !error.contains("hush"), "{error}");
    }
}

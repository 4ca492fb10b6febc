//! Looks at both logs of partitions ([`settle`]), of which only some run at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use kferry_wire::client::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::lanes::LaneKey;
use crate::copy::job::PartitionJob;
use crate::copy::replicate::ReadyPartition;
use crate::copy::settle::{SettleContext, settle};
use crate::partition::Handback;

/// The most looks at a time at partitions of one pair of brokers: those of a broker that hangs do not take the others' permits.
const OF_A_PAIR: usize = 8;
/// The most looks at a time.
const OF_ALL: usize = 64;

/// What a look ends with: the partition, ready for the lane of its two brokers, or handed back.
pub(super) type Looked = Result<(ReadyPartition, LaneKey), (PartitionJob, Handback)>;

/// What the beginning of a term right after this process has closed the partition ends with: the partition, ready for the lane of its two brokers, or to be
/// looked at.
pub(super) type Turned = Result<(ReadyPartition, LaneKey), PartitionJob>;

pub(super) struct Looks {
    permits: Arc<Permits>,
    running: JoinSet<Looked>,
}

struct Permits {
    all: Semaphore,
    by_pair: Mutex<HashMap<LaneKey, Arc<Semaphore>>>,
}

impl Permits {
    fn of(&self, pair: &LaneKey) -> Arc<Semaphore> {
        let mut by_pair = self.by_pair.lock().unwrap_or_else(PoisonError::into_inner);
        by_pair.entry(pair.clone()).or_insert_with(|| Arc::new(Semaphore::new(OF_A_PAIR))).clone()
    }
}

impl Looks {
    pub(super) fn new() -> Self {
        Self { permits: Arc::new(Permits { all: Semaphore::new(OF_ALL), by_pair: Mutex::default() }), running: JoinSet::new() }
    }

    pub(super) fn begin(&mut self, job: PartitionJob, context: SettleContext) {
        let permits = self.permits.clone();
        self.running.spawn(async move {
            let pair = match lane_of(&job).await {
                Ok(pair) => permits.of(&pair),
                Err(handback) => return Err((job, handback)),
            };
            let _permits = tokio::select! {
                permits = async { (pair.acquire().await, permits.all.acquire().await) } => permits,
                () = job.stop.cancelled() => return Err((job, Handback::Cancelled)),
            };
            let ready = settle(job, context).await?;
            match lane_of(&ready.job).await {
                Ok(lane) => Ok((ready, lane)),
                Err(handback) => Err((ready.job, handback)),
            }
        });
    }

    /// The next look that has ended; `None` while there is none.
    pub(super) async fn next(&mut self) -> Option<Looked> {
        Some(self.running.join_next().await?.expect("a look does not panic"))
    }

    pub(super) async fn end(&mut self) {
        self.running.shutdown().await;
    }
}

/// Begins the term of partitions that this process has closed just where it begins: both logs are equal up to there, so that nothing has to be compared. The
/// followers are asked once more where they end, all at once: a broker takes any first sequence of a producer id, and so would not refuse what is copied
/// behind something that came late.
pub(super) async fn begin_term(jobs: Vec<PartitionJob>, follower: Client, coalesce: bool) -> Vec<Turned> {
    let partitions: Vec<_> = jobs.iter().map(|job| job.follower.partition(job.partition)).collect();
    let ends = follower.log_ends(&partitions).await;
    let turned = jobs.into_iter().zip(&partitions).map(|(job, partition)| {
        let end = ends.get(partition).and_then(|end| end.as_ref().ok()).copied();
        async move {
            // Somebody else may have written, or lost, records.
            let begins = job.begins.filter(|begins| end == Some(*begins) && job.shard.may_write() && !job.stop.is_cancelled());
            let Some((begins, lane)) = begins.zip(lane_of(&job).await.ok()) else { return Err(job) };
            Ok((ReadyPartition::begins_term(job, begins, coalesce), lane))
        }
    });
    join_all(turned).await
}

/// Which brokers lead a partition on both sides just now.
async fn lane_of(job: &PartitionJob) -> Result<LaneKey, Handback> {
    let (leader, follower) = (&job.leader, &job.follower);
    let partitions = (leader.partition(job.partition), follower.partition(job.partition));
    let ids = async { tokio::try_join!(leader.client.leader_id(&partitions.0), follower.client.leader_id(&partitions.1)) };
    tokio::select! {
        ids = ids => match ids {
            Ok((source, target)) => Ok(LaneKey { leader: leader.cluster().clone(), source, target }),
            Err(error) => Err(Handback::Again(error.to_string())),
        },
        () = job.stop.cancelled() => Err(Handback::Cancelled),
    }
}

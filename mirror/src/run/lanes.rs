//! The lanes that run: one for each pair of brokers that has a partition to copy.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kferry_wire::client::Client;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::copy::job::PartitionJob;
use crate::copy::limits::Limits;
use crate::copy::replicate::{Lane, ReadyPartition};
use crate::partition::Handback;

/// The brokers that lead a partition on both clusters.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    /// The leading cluster, by its name.
    pub(super) leader: Arc<str>,
    /// The partition leader there.
    pub(super) source: i32,
    /// The partition leader on the following cluster.
    pub(super) target: i32,
}

/// A lane that runs, or has just ended.
struct RunningLane {
    /// Takes partitions for the lane; closed when it has ended.
    incoming: mpsc::UnboundedSender<ReadyPartition>,
    /// Notified when a partition of the lane may have been stopped.
    wake: Arc<Notify>,
}

pub(super) struct Lanes {
    limits: Arc<Limits>,
    by_key: HashMap<LaneKey, RunningLane>,
    running: JoinSet<()>,
    /// Cancelled when all lanes are to end.
    stop: CancellationToken,
    /// Where each lane hands partitions back.
    to_run: mpsc::UnboundedSender<(PartitionJob, Handback)>,
    /// The partitions that lanes hand back: at most as many as there are partitions.
    handed_back: mpsc::UnboundedReceiver<(PartitionJob, Handback)>,
}

impl Lanes {
    pub(super) fn new(limits: Limits) -> Self {
        let (to_run, handed_back) = mpsc::unbounded_channel();
        let (by_key, running, stop) = (HashMap::new(), JoinSet::new(), CancellationToken::new());
        Self { limits: Arc::new(limits), by_key, running, stop, to_run, handed_back }
    }

    /// Gives a partition to the lane of its two brokers, which is begun where there is none. A lane that ends just then hands it back.
    pub(super) fn give(&mut self, ready: ReadyPartition, key: &LaneKey) {
        if self.by_key.get(key).is_none_or(|lane| lane.incoming.is_closed()) {
            let lane = self.begin((ready.job.leader.client.clone(), ready.job.follower.client.clone()), key);
            self.by_key.insert(key.clone(), lane);
        }
        if let Err(mpsc::error::SendError(ready)) = self.by_key[key].incoming.send(ready) {
            let _ = self.to_run.send((ready.job, Handback::Again("its lane has just ended".to_owned())));
        }
    }

    fn begin(&mut self, clients: (Client, Client), key: &LaneKey) -> RunningLane {
        let (incoming, partitions) = mpsc::unbounded_channel();
        let wake = Arc::new(Notify::new());
        let (back, stop) = (self.to_run.clone(), self.stop.clone());
        self.running.spawn(Lane::run(clients, (key.source, key.target), self.limits.clone(), partitions, wake.clone(), back, stop));
        self.count();
        RunningLane { incoming, wake }
    }

    /// The next partition that a lane hands back. Notices meanwhile which lanes have ended.
    pub(super) async fn next(&mut self) -> (PartitionJob, Handback) {
        loop {
            tokio::select! {
                Some(back) = self.handed_back.recv() => return back,
                Some(_) = self.running.join_next() => {
                    self.by_key.retain(|_, lane| !lane.incoming.is_closed());
                    self.count();
                }
            }
        }
    }

    /// Has each lane look which of its partitions were stopped.
    pub(super) fn wake(&self) {
        for lane in self.by_key.values() {
            lane.wake.notify_one();
        }
    }

    /// Ends all of them, and waits until what they had in flight is answered.
    pub(super) async fn end(&mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }

    fn count(&self) {
        self.limits.lanes.store(self.running.len(), Ordering::Relaxed);
    }
}

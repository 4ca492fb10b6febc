//! A follower's log by its leader's offsets.

use std::ops::Range;

use kferry_wire::batch::Record;
use kferry_wire::log::{Isolation, LogReader, ReadError};

use crate::partition::{Direction, OffsetMap, Side};

/// How the leader's records are found in the follower's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// At which offset of the follower a record of the leader is.
    pub map: OffsetMap,
    /// From which cluster to which the partition is copied.
    pub direction: Direction,
    /// The term of its leader, from 1 on.
    pub term: i32,
}

impl View {
    /// What others write to a follower may be in a transaction that stays open for long. What the mirror writes never is; but what was written there
    /// in an earlier term, when it led, may have been aborted.
    fn isolation(&self) -> Isolation {
        if self.map.translates() && self.term == 1 { Isolation::ReadUncommitted } else { Isolation::ReadCommitted }
    }
}

/// Reads a follower's log by its leader's offsets: what the mirror did not write there is left out.
pub struct FollowerReader {
    reader: LogReader,
    view: View,
    /// The records to give, by their offsets on the leader.
    offsets: Range<i64>,
}

impl FollowerReader {
    /// Reads a range of the leader's offsets, in responses of about `max_bytes`.
    pub fn new(side: &Side, partition: i32, offsets: Range<i64>, max_bytes: i32, view: View) -> Self {
        let on_follower = |offset| view.map.follower(view.direction, offset).unwrap_or(0);
        let from = on_follower(offsets.start);
        // Not where the offset behind the last one is: that may be behind what others have written since.
        let to = if offsets.is_empty() { from } else { on_follower(offsets.end - 1) + 1 };
        let reader = LogReader::new(side.client.clone(), side.partition(partition), from..to, max_bytes).isolated(view.isolation());
        Self { reader, view, offsets }
    }

    /// This reader, of a log that may be `compacted`, as [`LogReader::compacted`].
    #[must_use]
    pub fn compacted(mut self, compacted: bool) -> Self {
        self.reader = self.reader.compacted(compacted);
        self
    }

    /// The next record of the leader's that the follower has, at its offset on the leader; `None` at the end of the range.
    ///
    /// # Errors
    /// [`ReadError`] of the follower's log; it may be asked again.
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        while let Some(record) = self.reader.next().await? {
            if let Some(record) = self.by_leader(record) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The next record, if it was fetched already: without waiting.
    pub fn ready(&mut self) -> Option<Record> {
        loop {
            let record = self.reader.ready()?;
            if let Some(record) = self.by_leader(record) {
                return Some(record);
            }
        }
    }

    /// A record of the follower's log at its offset on the leader; `None` if it is none of the leader's, or outside of the range.
    fn by_leader(&self, record: Record) -> Option<Record> {
        let offset = self.view.map.record(self.view.direction, record.offset).filter(|offset| self.offsets.contains(offset))?;
        Some(Record { offset, ..record })
    }
}

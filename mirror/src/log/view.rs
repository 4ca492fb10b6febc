//! A follower's log by its leader's offsets.

use std::ops::Range;

use kferry_wire::batch::Record;
use kferry_wire::log::{Isolation, LogReader, ReadError};

use crate::partition::{Direction, OffsetMap, Side};

/// What a follower's log has of its leader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Where the leader's records are.
    pub map: OffsetMap,
    /// Which of the two is the leader.
    pub direction: Direction,
    /// The leader's term.
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
    /// What is wanted, by the leader's offsets.
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

    /// The next record, `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`]
    pub async fn next(&mut self) -> Result<Option<Record>, ReadError> {
        while let Some(record) = self.reader.next().await? {
            if let Some(record) = self.by_leader(record) {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The next record if it was fetched already.
    pub fn ready(&mut self) -> Option<Record> {
        loop {
            let record = self.reader.ready()?;
            if let Some(record) = self.by_leader(record) {
                return Some(record);
            }
        }
    }

    fn by_leader(&self, record: Record) -> Option<Record> {
        let offset = self.view.map.record(self.view.direction, record.offset).filter(|offset| self.offsets.contains(offset))?;
        Some(Record { offset, ..record })
    }
}

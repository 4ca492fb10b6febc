//! A partition that is followed: its records as they come, a few milliseconds after they were appended.

use std::time::Duration;

use super::reader::{Isolation, ReadError, fetch_within};
use crate::batch::{self, DECODED_LIMIT, Record};
use crate::client::{Client, TopicPartition};

/// Follows a partition from an offset on.
pub struct Follower {
    client: Client,
    partition: TopicPartition,
    at: i64,
    max_bytes: i32,
}

/// What has come, and where the log ends.
#[derive(Debug)]
pub struct Followed {
    /// In the order of their offsets, from where the follower was. Empty if none came in time.
    pub records: Vec<Record>,
    /// `log_start_offset`
    pub log_start_offset: i64,
    /// The offset behind the last record that consumers may read.
    pub high_watermark: i64,
}

impl Follower {
    /// Begins at the offset `at`, with Fetch responses of about `max_bytes`.
    pub fn new(client: Client, partition: TopicPartition, at: i64, max_bytes: i32) -> Self {
        Self { client, partition, at, max_bytes }
    }

    /// The offset that is read next.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// Waits for records, at the most for as long as `wait`. Safe to cancel: what was not returned comes again.
    ///
    /// # Errors
    /// [`ReadError`]: the follower stays where it is, and may be asked again.
    pub async fn next(&mut self, wait: Duration) -> Result<Followed, ReadError> {
        let fetched = fetch_within(&self.client, &self.partition, self.at, self.max_bytes, wait, Isolation::ReadUncommitted).await?;
        let mut records = Vec::new();
        let mut at = self.at;
        for entry in batch::split(fetched.records) {
            let broken = |error| ReadError::broken(&self.client, &self.partition, at, error);
            let entry = entry.map_err(broken)?;
            let end = entry.last_offset() + 1;
            if end <= at {
                continue;
            }
            let of_batch = entry.check().and_then(|()| entry.records(DECODED_LIMIT)).map_err(broken)?;
            records.extend(of_batch.into_iter().filter(|record| record.offset >= at));
            at = end;
        }
        self.at = at;
        Ok(Followed { records, log_start_offset: fetched.log_start_offset, high_watermark: fetched.high_watermark })
    }
}

//! What a consumer with isolation level `read_committed` does not see.
//!
//! # References
//! - `org.apache.kafka.clients.consumer.internals.CompletedFetch`: how a consumer leaves out aborted transactions and markers

use std::collections::HashSet;

use crate::batch::{Batch, BatchError, Marker};

/// Which batches of a Fetch answer no consumer with isolation level `read_committed` sees.
#[derive(Debug, Default)]
pub struct Transactions {
    /// Producer id and first offset of each aborted one that has not begun yet, the next one last.
    aborted: Vec<(i64, i64)>,
    open: HashSet<i64>,
}

impl Transactions {
    /// `aborted`: producer id and first offset of each aborted transaction in the answer, in any order.
    pub fn new(aborted: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let mut aborted: Vec<_> = aborted.into_iter().collect();
        aborted.sort_by_key(|(_, first_offset)| std::cmp::Reverse(*first_offset));
        Self { aborted, open: HashSet::new() }
    }

    /// Whether a batch is a marker or was aborted. The batches of an answer are asked for in their order.
    pub fn hide(&mut self, batch: &Batch) -> Result<bool, BatchError> {
        while self.aborted.last().is_some_and(|(_, first_offset)| *first_offset <= batch.last_offset()) {
            self.open.extend(self.aborted.pop().map(|(producer_id, _)| producer_id));
        }
        if batch.is_control() {
            if batch.marker()? == Some(Marker::Abort) {
                self.open.remove(&batch.producer_id());
            }
            return Ok(true);
        }
        Ok(batch.is_transactional() && self.open.contains(&batch.producer_id()))
    }
}

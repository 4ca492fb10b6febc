//! What a consumer with isolation level `read_committed` does not see.
//!
//! # References
//! - `org.apache.kafka.clients.consumer.internals.CompletedFetch`: how a consumer leaves out aborted transactions and markers

use std::collections::HashSet;

use crate::batch::{Batch, BatchError, Marker};

/// Which batches of a Fetch response no consumer with isolation level `read_committed` sees.
#[derive(Debug, Default)]
pub struct Transactions {
    /// The aborted transactions that begin behind the batches that were asked for so far, in falling order of their first offsets.
    aborted: Vec<AbortedTransaction>,
    /// The producer ids of the aborted transactions that have begun and whose marker has not come yet.
    open: HashSet<i64>,
}

/// A transaction that was aborted, as a Fetch response tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer id of its batches.
    pub producer_id: i64,
    /// The offset of its first record.
    pub first_offset: i64,
}

impl Transactions {
    /// `aborted` are the aborted transactions of the response, in any order.
    pub fn new(aborted: impl IntoIterator<Item = AbortedTransaction>) -> Self {
        let mut aborted: Vec<_> = aborted.into_iter().collect();
        aborted.sort_by_key(|aborted| std::cmp::Reverse(aborted.first_offset));
        Self { aborted, open: HashSet::new() }
    }

    /// Whether a batch is a marker or belongs to an aborted transaction. All batches of the response are to be asked for, in their order.
    ///
    /// # Errors
    /// [`BatchError`] if it is a control batch whose record cannot be read; nothing can be said of the batches behind it then.
    pub fn hide(&mut self, batch: &Batch) -> Result<bool, BatchError> {
        while self.aborted.last().is_some_and(|aborted| aborted.first_offset <= batch.last_offset()) {
            self.open.extend(self.aborted.pop().map(|aborted| aborted.producer_id));
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

//! From what the leader's log holds to what the follower's must hold: batches to append, and offsets to fill.
//!
//! A batch passes as it is, but for its header, wherever a header can say it. Otherwise its records are decoded and put together again
//! (the *deep path*, counted by its [`Reason`]). An offset without a record, for whatever reason, becomes part of a [`Piece::Hole`].
//!
//! Nothing here waits or asks anybody: bytes in, pieces out.
//!
//! # References
//! - `org.apache.kafka.clients.consumer.internals.CompletedFetch`: how a consumer leaves out aborted transactions and markers
//! - `org.apache.kafka.storage.internals.log.LogValidator`: what a broker takes from a producer

use std::collections::HashSet;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use kferry_wire::batch::{self, Batch, BatchError, Codec, Entry, Marker, Record, Stamp, TimestampType};

/// Below this a batch costs the target more for being a batch than for its bytes.
const SMALL_BATCH: usize = 8 * 1024;
/// So many bytes of small batches are put into one.
const COALESCED: usize = 64 * 1024;
/// Records of one fetched batch, decompressed. Brokers take no batch whose records are larger than they can hold themselves.
const DECODED: usize = 1 << 30;

/// What the follower's log gets next.
#[derive(Debug, PartialEq)]
pub enum Piece {
    /// A batch to append.
    Data(Data),
    /// Offsets that hold no record: markers on the follower.
    Hole(Hole),
}

/// A batch, ready to be produced.
#[derive(Debug, PartialEq)]
pub struct Data {
    /// The offset of its first record.
    pub offset: i64,
    /// How many records, one each offset.
    pub count: i32,
    /// The latest timestamp in it, in ms since the epoch.
    pub max_timestamp: i64,
    /// The batch with the mirror's stamp.
    pub bytes: Bytes,
    /// How it came to be.
    pub path: Path,
}

/// Offsets without records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hole {
    /// The offsets.
    pub offsets: Range<i64>,
}

/// How a batch came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Path {
    /// Only the header was rewritten.
    Raw,
    /// Its records were decoded and put together again.
    Deep(Reason),
}

/// Why the header alone would not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Offsets are missing inside of the batch: it was compacted.
    Holes,
    /// The copy begins in its middle.
    Entered,
    /// Magic 0 or 1.
    OldMagic,
    /// The broker's clock is the timestamp of its records.
    LogAppendTime,
    /// Several small batches became one.
    Coalesced,
    /// One of its records was refused, so each goes alone.
    Single,
}

impl Path {
    /// The metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Deep(Reason::Holes) => "holes",
            Self::Deep(Reason::Entered) => "entered",
            Self::Deep(Reason::OldMagic) => "old_magic",
            Self::Deep(Reason::LogAppendTime) => "log_append_time",
            Self::Deep(Reason::Coalesced) => "coalesced",
            Self::Deep(Reason::Single) => "single",
        }
    }
}

/// A batch of the leader that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Unreadable {
    /// Its offsets, as far as its header can be believed; empty if it cannot.
    pub offsets: Range<i64>,
    /// Why.
    pub error: BatchError,
    /// The bytes from it on.
    pub bytes: Bytes,
}

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

/// Cuts one partition's log into pieces, from an offset on.
#[derive(Debug)]
pub struct Cutter {
    at: i64,
    producer_id: i64,
    sequence: i32,
    coalesce: bool,
    /// The most bytes that a batch put together from several may have.
    coalesced: usize,
    /// Records up to here go one by one.
    single_until: i64,
    /// Offsets whose records are left out.
    skip: HashSet<i64>,
}

impl Cutter {
    /// From offset `at` on. `sequence` is the one that the follower expects next of this producer id.
    pub fn new(at: i64, producer_id: i64, sequence: i32) -> Self {
        Self { at, producer_id, sequence, coalesce: true, coalesced: COALESCED, single_until: 0, skip: HashSet::new() }
    }

    /// Whether small batches are put together (they are by default), and how large a batch may become at the most: the follower's
    /// `max.message.bytes`.
    pub fn coalesce(mut self, coalesce: bool, max_message_bytes: usize) -> Self {
        self.coalesce = coalesce;
        self.coalesced = COALESCED.min(max_message_bytes / 2);
        self
    }

    /// Each record below `until` goes alone, those in `skip` not at all: after a batch was refused, to find the record that is the reason.
    pub fn careful(mut self, until: i64, skip: HashSet<i64>) -> Self {
        (self.single_until, self.skip) = (until, skip);
        self
    }

    /// The first offset that has not been cut.
    pub fn at(&self) -> i64 {
        self.at
    }

    /// Goes on behind offsets that cannot be read, as a hole.
    pub fn leap(&mut self, to: i64) -> Piece {
        let hole = Hole { offsets: self.at..to };
        self.at = to;
        Piece::Hole(hole)
    }

    /// Cuts what a Fetch answer with isolation level `read_committed` brought of the partition. A record or batch that lies before the offset
    /// at which this one is, is left out: a broker answers with whole batches.
    ///
    /// # Errors
    /// [`Unreadable`] names the first batch that cannot be read. `pieces` has what comes before it, and a later call may go on from there.
    pub fn cut(&mut self, records: Bytes, transactions: &mut Transactions, pieces: &mut Vec<Piece>) -> Result<(), Unreadable> {
        let mut small = Vec::new();
        let mut left = records.clone();
        let mut result = Ok(());
        for entry in batch::split(records) {
            let end = match &entry {
                Ok(entry) => entry.last_offset() + 1,
                Err(_) => self.at,
            };
            let cut = match &entry {
                Ok(entry) if end > self.at => self.entry(entry, transactions, &mut small, pieces),
                Ok(_) => Ok(()),
                Err(error) => Err(error.clone()),
            };
            if let Err(error) = cut {
                // A broken header may lie about its last offset; the batch behind it does not about its first.
                let length = entry.as_ref().map_or(0, |entry| entry.bytes().len());
                let next = batch::split(left.slice(length..)).next().and_then(Result::ok).filter(|_| length > 0);
                let end = next.map_or(end, |next| if let Entry::Batch(next) = next { next.base_offset() } else { end });
                result = Err(Unreadable { offsets: self.at..end.max(self.at), error, bytes: left });
                break;
            }
            left = left.slice(entry.map_or(0, |entry| entry.bytes().len())..);
        }
        // What was gathered before a failure is good.
        self.flush(&mut small, pieces).map_err(|error| Unreadable { offsets: self.at..self.at, error, bytes: Bytes::new() })?;
        result
    }

    fn entry(
        &mut self,
        entry: &Entry,
        transactions: &mut Transactions,
        small: &mut Vec<Batch>,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), BatchError> {
        let batch = match entry {
            Entry::Batch(batch) => batch,
            Entry::Old(_) => {
                self.flush(small, pieces)?;
                return self.deep(entry, Reason::OldMagic, Codec::None, pieces);
            }
        };
        batch.check()?;
        let end = batch.last_offset() + 1;
        if transactions.hide(batch)? || batch.count() == 0 {
            self.flush(small, pieces)?;
            self.hole(end, pieces);
            return Ok(());
        }
        if let Some(reason) = self.reason(batch) {
            self.flush(small, pieces)?;
            return self.deep(entry, reason, batch.codec()?, pieces);
        }
        let next = small.last().map_or(self.at, |last| last.last_offset() + 1);
        if batch.base_offset() > next {
            self.flush(small, pieces)?;
            self.hole(batch.base_offset(), pieces);
        }
        if self.coalesce && batch.len() < SMALL_BATCH.min(self.coalesced) {
            let codec = small.first().map_or(Ok(batch.codec()?), Batch::codec)?;
            if codec != batch.codec()? || small.iter().map(Batch::len).sum::<usize>() + batch.len() > self.coalesced {
                self.flush(small, pieces)?;
            }
            small.push(batch.clone());
            return Ok(());
        }
        self.flush(small, pieces)?;
        self.raw(batch, pieces);
        Ok(())
    }

    /// Why a batch must be decoded.
    fn reason(&self, batch: &Batch) -> Option<Reason> {
        if batch.base_offset() < self.single_until {
            Some(Reason::Single)
        } else if batch.base_offset() < self.at {
            Some(Reason::Entered)
        } else if !batch.is_dense() {
            Some(Reason::Holes)
        } else if batch.timestamp_type() == TimestampType::LogAppendTime {
            Some(Reason::LogAppendTime)
        } else {
            None
        }
    }

    fn raw(&mut self, batch: &Batch, pieces: &mut Vec<Piece>) {
        let mut bytes = BytesMut::with_capacity(batch.len());
        let count = batch.count();
        batch.rewrite(self.stamp(), &mut bytes);
        self.data(count, batch.max_timestamp(), bytes.freeze(), Path::Raw, pieces);
    }

    fn deep(&mut self, entry: &Entry, reason: Reason, codec: Codec, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        let end = entry.last_offset() + 1;
        let mut records = entry.records(DECODED)?;
        records.retain(|record| record.offset >= self.at && !self.skip.contains(&record.offset));
        let single = reason == Reason::Single;
        for run in records.chunk_by(|one, next| next.offset == one.offset + 1 && !single) {
            self.hole(run[0].offset, pieces);
            self.encode(run, codec, reason, pieces)?;
        }
        self.hole(end, pieces);
        Ok(())
    }

    /// What was gathered of small batches: one alone passes as it is.
    fn flush(&mut self, small: &mut Vec<Batch>, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        match &small[..] {
            [] => return Ok(()),
            [one] => self.raw(one, pieces),
            several => {
                let mut records = Vec::new();
                for batch in several {
                    records.append(&mut batch.records(DECODED)?);
                }
                self.encode(&records, several[0].codec()?, Reason::Coalesced, pieces)?;
            }
        }
        small.clear();
        Ok(())
    }

    fn encode(&mut self, records: &[Record], codec: Codec, reason: Reason, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        let bytes = batch::encode(records, codec, self.stamp())?;
        let max_timestamp = records.iter().map(|record| record.timestamp).max().unwrap_or(-1);
        self.data(records.len() as i32, max_timestamp, bytes, Path::Deep(reason), pieces);
        Ok(())
    }

    fn data(&mut self, count: i32, max_timestamp: i64, bytes: Bytes, path: Path, pieces: &mut Vec<Piece>) {
        pieces.push(Piece::Data(Data { offset: self.at, count, max_timestamp, bytes, path }));
        self.at += i64::from(count);
        self.sequence = next_sequence(self.sequence, i64::from(count));
    }

    /// Up to an offset, if that is not where we are. Holes in a row are one.
    fn hole(&mut self, to: i64, pieces: &mut Vec<Piece>) {
        if to <= self.at {
            return;
        }
        match pieces.last_mut() {
            Some(Piece::Hole(hole)) => hole.offsets.end = to,
            _ => pieces.push(Piece::Hole(Hole { offsets: self.at..to })),
        }
        self.at = to;
    }

    fn stamp(&self) -> Stamp {
        Stamp { producer_id: self.producer_id, producer_epoch: 0, base_sequence: self.sequence }
    }
}

/// Sequences are 31 bits and start again at 0 (`DefaultRecordBatch.incrementSequence`).
pub fn next_sequence(sequence: i32, count: i64) -> i32 {
    ((i64::from(sequence) + count) & i64::from(i32::MAX)) as i32
}

/// The id under which the mirror writes to a partition of the follower in a term: far above any that a broker gives out, the same in every
/// process and after every restart.
pub fn producer_id(mirror: &str, topic: &str, partition: i32, term: i32) -> i64 {
    let text = format!("{mirror}/{topic}/{partition}/{term}");
    // FNV-1a: it has to stay what it is for ever, and no more than that.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (1 << 62) | (hash >> 3) as i64
}

//! From what the leader's log holds to what the follower's must hold: batches to append, and offsets to fill.
//!
//! A batch passes as it is, but for its header, wherever a header can say it. Otherwise its records are decoded and put together again
//! (the *deep path*, counted by its [`Reason`]). An offset without a record, for whatever reason, becomes part of a [`Piece::Hole`].
//!
//! Nothing here waits or asks anybody: bytes in, pieces out.
//!
//! # References
//! - `org.apache.kafka.storage.internals.log.LogValidator`: what a broker takes from a producer

use std::collections::HashSet;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use kferry_wire::batch::{self, Batch, BatchError, Codec, DECODED_LIMIT, Entry, Record, Sequence, TimestampType};
use kferry_wire::log::Transactions;

/// Batches of fewer bytes are put together: one costs the target more for being a batch than for its bytes.
const SMALL_BATCH: usize = 8 * 1024;
/// The most bytes of records in a small batch.
const SMALL_DECODED: usize = 1024 * 1024;
/// The most bytes of small batches that are put into one.
pub(super) const COALESCED: usize = 64 * 1024;
/// The most bytes of a batch that is put together here, whatever the follower's `max.message.bytes` allows: a request with it must fit into
/// `socket.request.max.bytes`, which is 100 MiB if nobody has lowered it.
const LARGEST: usize = 16 * 1024 * 1024;

/// What the follower's log gets next.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    /// A batch to append.
    Data(Data),
    /// Offsets of the leader without a record, to be filled on the follower.
    Hole(Hole),
}

/// A batch, ready to be produced.
#[derive(Debug, PartialEq)]
pub(crate) struct Data {
    /// The offset of its first record on the leader.
    pub(crate) offset: i64,
    /// How many records it has, one at each offset from there on.
    pub(crate) count: i32,
    /// The batch as it is sent, with the mirror's producer id and sequence.
    pub(crate) bytes: Bytes,
    /// How the batch came to be.
    pub(crate) path: Path,
}

/// Offsets of the leader without a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The offsets; at least one.
    pub(crate) offsets: Range<i64>,
}

/// How a batch came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Path {
    /// Only the header was rewritten.
    Raw,
    /// Its records were decoded and put together again.
    Deep(Reason),
}

/// Why it was not enough to rewrite a batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    /// Offsets are missing inside of the batch: it was compacted.
    Holes,
    /// The copy begins in the middle of the batch.
    Entered,
    /// The batch is of magic 0 or 1.
    OldMagic,
    /// The broker's clock is the timestamp of its records.
    LogAppendTime,
    /// Several small batches became one.
    Coalesced,
    /// One of its records was refused, so each goes alone.
    Single,
}

impl Path {
    kferry_wire::labels! {
        Self::Raw => "raw",
        Self::Deep(Reason::Holes) => "holes",
        Self::Deep(Reason::Entered) => "entered",
        Self::Deep(Reason::OldMagic) => "old_magic",
        Self::Deep(Reason::LogAppendTime) => "log_append_time",
        Self::Deep(Reason::Coalesced) => "coalesced",
        Self::Deep(Reason::Single) => "single",
    }
}

/// A batch of the leader that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Unreadable {
    /// Its offsets on the leader, as far as its header can be believed; empty if it cannot.
    pub(crate) offsets: Range<i64>,
    /// Why it cannot be read.
    pub(crate) error: BatchError,
    /// Its bytes; all bytes from its first on if its length cannot be believed.
    pub(crate) bytes: Bytes,
}

/// Cuts one partition's log into pieces, from an offset on.
#[derive(Debug)]
pub(crate) struct Cutter {
    /// The first offset of the leader that was not cut yet.
    at: i64,
    producer_id: i64,
    /// The sequence of the next record under that producer id.
    sequence: i32,
    /// Whether small batches are put together.
    coalesce: bool,
    /// The most bytes that a batch put together from several may have.
    coalesced: usize,
    /// The most bytes that a batch of decoded records may have, if it has more than one.
    largest: usize,
    /// Records below this offset get a batch each.
    single_until: i64,
    /// Offsets whose records are left out, below `single_until`.
    skip: HashSet<i64>,
}

impl Cutter {
    /// From offset `at` on. `sequence` is the one that the follower expects next of this producer id.
    pub(crate) fn new(at: i64, producer_id: i64, sequence: i32) -> Self {
        Self { at, producer_id, sequence, coalesce: true, coalesced: COALESCED, largest: LARGEST, single_until: 0, skip: HashSet::new() }
    }

    /// Whether small batches are put together (they are by default), and how large a batch may become at the most: the follower's
    /// `max.message.bytes`.
    #[must_use]
    pub(crate) fn coalesce(mut self, coalesce: bool, max_message_bytes: usize) -> Self {
        self.coalesce = coalesce;
        self.coalesced = COALESCED.min(max_message_bytes / 2);
        self.largest = LARGEST.min(max_message_bytes);
        self
    }

    /// Each record below `until` goes alone, those in `skip` not at all: after a batch was refused, to find the record that is the reason.
    #[must_use]
    pub(crate) fn careful(mut self, until: i64, skip: HashSet<i64>) -> Self {
        (self.single_until, self.skip) = (until, skip);
        self
    }

    /// The first offset of the leader that was not cut yet.
    pub(crate) fn at(&self) -> i64 {
        self.at
    }

    /// Makes a hole of the offsets up to `to`, which cannot be read, and goes on there.
    pub(crate) fn leap(&mut self, to: i64) -> Piece {
        let hole = Hole { offsets: self.at..to };
        self.at = to;
        Piece::Hole(hole)
    }

    /// Cuts what a Fetch response with isolation level `read_committed` brought of the partition. A record or batch that lies before the offset
    /// at which this one is, is left out: a broker answers with whole batches.
    ///
    /// # Errors
    /// [`Unreadable`] names the first batch that cannot be read. `pieces` has what comes before it, and a later call may go on from there.
    pub(crate) fn cut(&mut self, records: Bytes, transactions: &mut Transactions, pieces: &mut Vec<Piece>) -> Result<(), Unreadable> {
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
                let bytes = if length > 0 { left.slice(..length) } else { left };
                result = Err(Unreadable { offsets: self.at..end, error, bytes });
                break;
            }
            left = left.slice(entry.map_or(0, |entry| entry.bytes().len())..);
        }
        // What was gathered before a failure is good.
        self.flush(&mut small, pieces).map_err(|error| Unreadable { offsets: self.at..self.at, error, bytes: Bytes::new() })?;
        result.map_err(|unreadable| Unreadable { offsets: self.at..unreadable.offsets.end.max(self.at), ..unreadable })
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
            Entry::Old(old) => {
                self.flush(small, pieces)?;
                let reason = if self.at < self.single_until { Reason::Single } else { Reason::OldMagic };
                return self.deep(entry, reason, old.codec()?, pieces);
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

    /// Why a batch must be decoded; `None` if it need not be.
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
        batch.rewrite(self.numbered(), &mut bytes);
        self.data(count, bytes.freeze(), Path::Raw, pieces);
    }

    fn deep(&mut self, entry: &Entry, reason: Reason, codec: Codec, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        let end = entry.last_offset() + 1;
        let mut records = entry.records(DECODED_LIMIT)?;
        records.retain(|record| record.offset >= self.at && !self.skip.contains(&record.offset));
        let single = reason == Reason::Single;
        for run in records.chunk_by(|one, next| next.offset == one.offset + 1 && !single) {
            self.hole(run[0].offset, pieces);
            self.encode(run, codec, reason, pieces)?;
        }
        self.hole(end, pieces);
        Ok(())
    }

    /// Makes one batch of the small batches that were gathered. One alone passes as it is.
    fn flush(&mut self, small: &mut Vec<Batch>, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        match &small[..] {
            [] => return Ok(()),
            [one] => self.raw(one, pieces),
            several => {
                let mut records = Vec::new();
                let decoded = several.iter().try_for_each(|batch| batch.records(SMALL_DECODED).map(|mut more| records.append(&mut more)));
                if decoded.is_ok() {
                    self.encode(&records, several[0].codec()?, Reason::Coalesced, pieces)?;
                } else {
                    // One of them is broken inside, and as they are the follower's broker refuses that one alone. Or it is small only as long as it is
                    // compressed: consumers should not get many such at once.
                    for batch in several {
                        self.raw(batch, pieces);
                    }
                }
            }
        }
        small.clear();
        Ok(())
    }

    /// Puts records together, in one batch or in as many as it takes for each to be one that the follower takes: what was decoded may come out
    /// larger than it was.
    fn encode(&mut self, records: &[Record], codec: Codec, reason: Reason, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
        let encoded = batch::encode(records, codec, self.numbered());
        let fits = match &encoded {
            Ok(bytes) => bytes.len() <= self.largest,
            Err(error) => !matches!(error, BatchError::DoNotFit(_)),
        };
        if !fits && records.len() > 1 {
            let (first, second) = records.split_at(records.len() / 2);
            self.encode(first, codec, reason, pieces)?;
            return self.encode(second, codec, reason, pieces);
        }
        let bytes = encoded?;
        self.data(records.len() as i32, bytes, Path::Deep(reason), pieces);
        Ok(())
    }

    fn data(&mut self, count: i32, bytes: Bytes, path: Path, pieces: &mut Vec<Piece>) {
        pieces.push(Piece::Data(Data { offset: self.at, count, bytes, path }));
        self.at += i64::from(count);
        self.sequence = next_sequence(self.sequence, i64::from(count));
    }

    /// Makes a hole of the offsets up to `to`, if there are any. Holes in a row are one.
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

    fn numbered(&self) -> Sequence {
        Sequence { producer_id: self.producer_id, producer_epoch: 0, base_sequence: self.sequence }
    }
}

/// The sequence that is `count` records behind this one. Sequences are 31 bits and start again at 0 (`DefaultRecordBatch.incrementSequence`).
pub(crate) fn next_sequence(sequence: i32, count: i64) -> i32 {
    ((i64::from(sequence) + count) & i64::from(i32::MAX)) as i32
}

#[cfg(test)]
mod tests {
    use kferry_wire::log::AbortedTransaction;
    use proptest::prelude::*;

    use super::*;

    const TRANSACTIONAL: u8 = 1 << 4;
    const CONTROL: u8 = 1 << 5;
    const APPEND_TIME: u8 = 1 << 3;

    /// What a leader's log holds.
    #[derive(Debug, Clone)]
    enum Part {
        /// So many records, of a transaction of this producer if there is one.
        Records { count: usize, size: usize, codec: Codec, append_time: bool, transaction: Option<i64> },
        /// The records with these places, of so many: the others were compacted away.
        Compacted { of: usize, left: Vec<usize> },
        /// A marker of this producer.
        Marker { producer_id: i64, commit: bool },
        /// Offsets of which nothing is left.
        Gone(i64),
    }

    fn part() -> impl Strategy<Value = Part> {
        let codec = prop::sample::select(vec![Codec::None, Codec::Lz4, Codec::Zstd]);
        prop_oneof![
            6 => (1..20_usize, 0..3_000_usize, codec, any::<bool>(), prop::option::of(0..3_i64)).prop_map(
                |(count, size, codec, append_time, transaction)| Part::Records { count, size: size / count, codec, append_time: append_time && size % 5 == 0, transaction }
            ),
            2 => (2..12_usize).prop_flat_map(|of| prop::sample::subsequence((0..of).collect::<Vec<_>>(), 0..of).prop_map(move |left| Part::Compacted { of, left })),
            2 => (0..3_i64, any::<bool>()).prop_map(|(producer_id, commit)| Part::Marker { producer_id, commit }),
            1 => (1..50_i64).prop_map(Part::Gone),
        ]
    }

    fn record(offset: i64, size: usize) -> Record {
        Record {
            offset,
            timestamp: 1_700_000_000_000 + (offset * 7919) % 1_000,
            key: (offset % 3 != 0).then(|| Bytes::from(format!("key {offset}"))),
            value: (offset % 5 != 0).then(|| Bytes::from(vec![offset as u8; size])),
            headers: (0..offset % 3).map(|n| (Bytes::from_static(b"h"), Some(Bytes::from(n.to_string())))).collect(),
        }
    }

    /// A batch as a log has it: at its offset, of that producer, with those attributes, and with a right CRC.
    fn batch(base_offset: i64, records: &[Record], codec: Codec, attributes: u8, producer_id: i64, last_offset_delta: i32) -> Vec<u8> {
        let dense: Vec<_> = records.iter().enumerate().map(|(n, record)| Record { offset: n as i64, ..record.clone() }).collect();
        let mut bytes = batch::encode(&dense, codec, Sequence { producer_id, producer_epoch: 0, base_sequence: 0 }).unwrap().to_vec();
        if records.len() as i32 != last_offset_delta + 1 {
            assert_eq!(codec, Codec::None);
            // Each record's offset delta is a varint of one byte behind its length, attributes and timestamp delta.
            let mut at = 61;
            for record in records {
                let (length, behind) = varint(&bytes, at);
                let (_, delta) = varint(&bytes, behind + 1);
                bytes[delta] = ((record.offset - base_offset) * 2) as u8;
                at = behind + length as usize;
            }
        }
        bytes[0..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[22] |= attributes;
        bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// A zigzag varint, and where it ends.
    fn varint(bytes: &[u8], mut at: usize) -> (i64, usize) {
        let (mut value, mut shift) = (0_u64, 0);
        loop {
            value |= u64::from(bytes[at] & 0x7f) << shift;
            shift += 7;
            at += 1;
            if bytes[at - 1] & 0x80 == 0 {
                return (((value >> 1) as i64) ^ -((value & 1) as i64), at);
            }
        }
    }

    /// A log up to its last stable offset.
    struct Log {
        /// Its bytes, batch by batch with their offsets.
        batches: Vec<(i64, Vec<u8>)>,
        /// Its aborted transactions: producer id, first offset, and that of the marker.
        aborted: Vec<(i64, i64, i64)>,
        /// What a consumer sees of it.
        seen: Vec<Record>,
        end: i64,
    }

    fn log(parts: &[Part]) -> Log {
        let (mut batches, mut aborted, mut seen, mut at) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let mut open: std::collections::BTreeMap<i64, (i64, Vec<Record>)> = std::collections::BTreeMap::new();
        for part in parts {
            match part {
                Part::Records { count, size, codec, append_time, transaction } => {
                    let mut records: Vec<_> = (0..*count).map(|n| record(at + n as i64, *size)).collect();
                    let attributes = if *append_time { APPEND_TIME } else { 0 } | if transaction.is_some() { TRANSACTIONAL } else { 0 };
                    batches.push((at, batch(at, &records, *codec, attributes, transaction.unwrap_or(100), *count as i32 - 1)));
                    if *append_time {
                        let max = records.iter().map(|record| record.timestamp).max().unwrap();
                        for record in &mut records {
                            record.timestamp = max;
                        }
                    }
                    match transaction {
                        Some(producer_id) => open.entry(*producer_id).or_insert((at, Vec::new())).1.append(&mut records),
                        None => seen.append(&mut records),
                    }
                    at += *count as i64;
                }
                Part::Compacted { of, left } => {
                    let records: Vec<_> = left.iter().map(|n| record(at + *n as i64, 10)).collect();
                    if !records.is_empty() {
                        batches.push((at, batch(at, &records, Codec::None, 0, 100, *of as i32 - 1)));
                    }
                    seen.extend(records);
                    at += *of as i64;
                }
                Part::Marker { producer_id, commit } => {
                    // Version 0, then 0 is ABORT and 1 COMMIT.
                    let marker = Record {
                        key: Some(Bytes::from(vec![0, 0, 0, u8::from(*commit)])),
                        value: Some(Bytes::from(vec![0; 6])),
                        ..record(at, 0)
                    };
                    batches.push((at, batch(at, &[marker], Codec::None, TRANSACTIONAL | CONTROL, *producer_id, 0)));
                    if let Some((first, records)) = open.remove(producer_id) {
                        if *commit { seen.extend(records) } else { aborted.push((*producer_id, first, at)) }
                    }
                    at += 1;
                }
                Part::Gone(count) => at += count,
            }
        }
        // What is still open at the end is behind the last stable offset: nothing from there on comes.
        let end = open.values().map(|(first, _)| *first).min().unwrap_or(at);
        batches.retain(|(offset, _)| *offset < end);
        seen.retain(|record| record.offset < end);
        aborted.retain(|(_, first, _)| *first < end);
        seen.sort_by_key(|record| record.offset);
        Log { batches, aborted, seen, end }
    }

    /// What the pieces put at which offset; they follow each other without a gap, and the sequence follows the records.
    fn written(pieces: &[Piece], from: i64, producer_id: i64, mut sequence: i32) -> (Vec<Record>, i64) {
        let (mut records, mut at) = (Vec::new(), from);
        for piece in pieces {
            match piece {
                Piece::Data(data) => {
                    assert_eq!(data.offset, at);
                    let entry = batch::split(data.bytes.clone()).next().unwrap().unwrap();
                    entry.check().unwrap();
                    let Entry::Batch(batch) = &entry else { panic!("magic 2") };
                    assert!(batch.is_dense() && !batch.is_transactional() && !batch.is_control());
                    assert_eq!((batch.producer_id(), batch.base_sequence(), batch.count()), (producer_id, sequence, data.count));
                    records
                        .extend(entry.records(1 << 22).unwrap().into_iter().map(|record| Record { offset: record.offset + at, ..record }));
                    at += i64::from(data.count);
                    sequence = next_sequence(sequence, i64::from(data.count));
                }
                Piece::Hole(hole) => {
                    assert_eq!(hole.offsets.start, at);
                    assert!(hole.offsets.end > at);
                    at = hole.offsets.end;
                }
            }
        }
        (records, at)
    }

    proptest! {
        /// Whatever the log, however the answers are cut, and wherever the copy begins: the follower gets each record that a consumer
        /// sees, at its offset, and nothing else.
        #[test]
        fn what_a_consumer_sees_is_what_is_written(
            parts in prop::collection::vec(part(), 0..12),
            answers in prop::collection::vec(1..5_usize, 1..8),
            begin in any::<prop::sample::Index>(),
            coalesce in any::<bool>(),
            single in any::<bool>(),
        ) {
            let Log { batches, aborted, seen, end } = log(&parts);
            if end == 0 {
                return Ok(());
            }
            let from = begin.index(end as usize) as i64;
            let mut cutter = Cutter::new(from, 7, i32::MAX - 5).coalesce(coalesce, 1 << 20);
            if single {
                cutter = cutter.careful(from + 20, HashSet::new());
            }
            let mut pieces = Vec::new();
            let mut rest: Vec<_> = batches.into_iter().collect();
            let mut answers = answers.into_iter().cycle();
            loop {
                // A broker begins with the batch that holds the offset.
                rest.retain(|(offset, bytes)| offset + i64::from(i32::from_be_bytes(bytes[23..27].try_into().unwrap())) >= cutter.at());
                if rest.is_empty() {
                    break;
                }
                let answer: Vec<u8> = rest.iter().take(answers.next().unwrap()).flat_map(|(_, bytes)| bytes.clone()).collect();
                // And does not speak of transactions that were over before it (`TransactionIndex.collectAbortedTxns`).
                let aborted = aborted.iter().filter(|(_, _, marker)| *marker >= cutter.at());
                let aborted = aborted.map(|&(producer_id, first_offset, _)| AbortedTransaction { producer_id, first_offset });
                cutter.cut(answer.into(), &mut Transactions::new(aborted), &mut pieces).unwrap();
            }
            let (records, at) = written(&pieces, from, 7, i32::MAX - 5);
            prop_assert_eq!(at, cutter.at());
            let expected: Vec<_> = seen.into_iter().filter(|record| record.offset >= from).collect();
            prop_assert_eq!(records, expected);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at in 0..100_i64) {
            let mut pieces = Vec::new();
            let _ = Cutter::new(at, 7, 0).cut(bytes.into(), &mut Transactions::default(), &mut pieces);
        }
    }

    #[test]
    fn a_skipped_record_is_a_hole_and_the_others_go_one_by_one() {
        let records: Vec<_> = (10..14).map(|offset| record(offset, 3)).collect();
        let bytes = batch(10, &records, Codec::None, 0, 100, 3);
        let mut cutter = Cutter::new(10, 7, 0).careful(14, HashSet::from([12]));
        let mut pieces = Vec::new();
        cutter.cut(bytes.into(), &mut Transactions::default(), &mut pieces).unwrap();
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces[2], Piece::Hole(Hole { offsets: 12..13 }));
        assert_eq!(written(&pieces, 10, 7, 0).1, 14);
    }

    /// A message of magic 1, with its offset.
    fn old_message(offset: i64, attributes: u8, value: &[u8]) -> Vec<u8> {
        let mut message = vec![1, attributes];
        message.extend_from_slice(&1_700_000_000_000_i64.to_be_bytes());
        message.extend_from_slice(&(-1_i32).to_be_bytes());
        message.extend_from_slice(&(value.len() as i32).to_be_bytes());
        message.extend_from_slice(value);
        let mut crc = flate2::Crc::new();
        crc.update(&message);
        let mut bytes = offset.to_be_bytes().to_vec();
        bytes.extend_from_slice(&(message.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(&crc.sum().to_be_bytes());
        bytes.extend_from_slice(&message);
        bytes
    }

    /// A wrapper of gzip around messages of one letter: they take far less than their records.
    fn old_wrapper(count: i64, size: usize) -> Vec<u8> {
        use std::io::Write as _;
        let mut inside = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for offset in 0..count {
            inside.write_all(&old_message(offset, 0, &vec![b'x'; size])).unwrap();
        }
        old_message(count - 1, 1, &inside.finish().unwrap())
    }

    #[test]
    fn an_old_wrapper_keeps_its_codec_and_no_batch_is_larger_than_the_follower_takes() {
        let wrapper = old_wrapper(2_000, 1_000);
        assert!(wrapper.len() < 20_000);
        let cut = |max_message_bytes, single_until| {
            let mut pieces = Vec::new();
            let mut cutter = Cutter::new(0, 7, 0).coalesce(true, max_message_bytes).careful(single_until, HashSet::new());
            cutter.cut(wrapper.clone().into(), &mut Transactions::default(), &mut pieces).unwrap();
            assert_eq!(written(&pieces, 0, 7, 0).1, 2_000);
            let data = |piece: &Piece| if let Piece::Data(data) = piece { (data.bytes.len(), data.count) } else { panic!("no holes") };
            pieces.iter().map(data).collect::<Vec<_>>()
        };
        let one = cut(1 << 20, 0);
        assert!(one.len() == 1 && one[0].0 < 20_000, "{one:?}");
        let several = cut(4_000, 0);
        assert!(several.len() > 1 && several.iter().all(|(len, _)| *len <= 4_000), "{several:?}");
        // One that is too large alone is for the follower to refuse.
        assert_eq!(cut(10, 0).len(), 2_000);
        let single = cut(1 << 20, 1_500);
        assert!(single.iter().all(|(_, count)| *count == 1), "one by one");
    }

    #[test]
    fn a_damaged_batch_names_the_offsets_up_to_the_next_one() {
        let (good, next) = (batch(0, &[record(0, 3)], Codec::None, 0, 100, 0), batch(9, &[record(9, 3)], Codec::None, 0, 100, 0));
        let mut damaged = batch(1, &[record(1, 3), record(2, 3)], Codec::None, 0, 100, 1);
        // The last offset delta: the CRC covers it, so it is not believed.
        damaged[26] = 77;
        let mut cutter = Cutter::new(0, 7, 0);
        let mut pieces = Vec::new();
        let bytes = [good, damaged, next].concat();
        let unreadable = cutter.cut(bytes.into(), &mut Transactions::default(), &mut pieces).unwrap_err();
        assert_eq!((unreadable.offsets, pieces.len(), cutter.at()), (1..9, 1, 1));
        assert_eq!(cutter.leap(9), Piece::Hole(Hole { offsets: 1..9 }));
    }
}

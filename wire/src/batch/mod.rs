//! Record batches, as they are on the wire and in the log.
//!
//! A batch is copied between clusters without being opened: [`Batch::rewrite`] gives it a new header and leaves the payload as it is,
//! compressed or not. What the header cannot carry (old messages, batches with holes, LogAppendTime, a batch entered in its middle) is taken
//! apart by [`Entry::records`] and built anew by [`encode`].
//!
//! | file | what it is |
//! |---|---|
//! | `mod` | the header of magic 2, and what is cut out of a Fetch answer |
//! | `records` | the records inside, and how they are written |
//! | `old` | messages of magic 0 and 1 |
//! | `codec` | compression, bounded |
//! | `sequence` | whose batch it is, and where it stands in their order |
//! | [`stamp`] | the producer id of a batch that passes by, stamped with its topic's term |
//!
//! # References
//! - <https://kafka.apache.org/documentation/#recordbatch>; `org.apache.kafka.common.record.DefaultRecordBatch`
//! - KIP-98 (magic 2), KIP-534 (delete horizon)

mod codec;
mod old;
mod records;
mod sequence;
pub mod stamp;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};

use crate::reader::{Malformed, Reader};
pub use codec::Codec;
pub use old::OldMessages;
pub use records::{Record, encode, filler};
pub use sequence::{Sequence, Sequences};

/// Base offset and length: they are in front of a batch of magic 2 and of an older message alike, and the length does not count them.
const LOG_OVERHEAD: usize = 12;
/// Where every version keeps its magic byte.
const MAGIC_AT: usize = 16;
/// From the base offset to the record count, of magic 2.
const HEADER_LEN: usize = 61;
/// The CRC is in front of them, and is over them and all that follows.
const ATTRIBUTES_AT: usize = 21;
/// Eight bytes; the epoch and the base sequence follow.
const PRODUCER_ID_AT: usize = 43;

/// Bits of a batch's attributes; the lowest three are the codec.
const CODEC: i16 = 0b111;
const LOG_APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const DELETE_HORIZON: i16 = 1 << 6;

/// What a marker's record may take, in bytes: it has six in its key and six in its value.
const MARKER_MAX_BYTES: usize = 64 * 1024;

/// The most bytes that the records of one batch may have once they are decompressed. Brokers take no batch whose records are larger than they can
/// hold themselves.
pub const DECODED_LIMIT: usize = 1 << 30;

/// Why a batch cannot be read or written. Offsets are the base offset of a batch, or the offset of an old message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Its bytes are not what Kafka's format says.
    #[error("the batch at offset {offset} is damaged: {reason}; look at it with kafka-dump-log.sh on the broker")]
    Malformed {
        /// Where.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// A format that did not exist when this was written.
    #[error("the batch at offset {offset} has magic {magic}, kferry knows 0 to 2: a newer kferry is needed")]
    Magic {
        /// Where.
        offset: i64,
        /// The magic byte.
        magic: i8,
    },
    /// The content has changed since its producer or its broker wrote it.
    #[error(
        "the batch at offset {offset} is damaged: its CRC is {stored:08x}, its bytes give {computed:08x}; \
         look at it with kafka-dump-log.sh on each replica"
    )]
    Checksum {
        /// Where.
        offset: i64,
        /// What is in the header.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// A codec that did not exist when this was written.
    #[error("the batch at offset {offset} is compressed with the unknown codec {bits}: a newer kferry is needed")]
    Codec {
        /// Where.
        offset: i64,
        /// The attributes' three bits.
        bits: i16,
    },
    /// The codec does not know what to do with the bytes.
    #[error("the batch at offset {offset} cannot be decompressed: {codec}: {reason}; look at it with kafka-dump-log.sh on the broker")]
    Decompress {
        /// Where.
        offset: i64,
        /// Which codec.
        codec: Codec,
        /// What it says.
        reason: String,
    },
    /// It is larger than the caller allows.
    #[error("the batch at offset {offset} has more than {max_bytes} bytes when decompressed with {codec}")]
    TooLarge {
        /// Where.
        offset: i64,
        /// Which codec.
        codec: Codec,
        /// What was allowed.
        max_bytes: usize,
    },
    /// No records to write: a broker refuses an empty batch.
    #[error("a batch without records cannot be written; this is a bug in kferry")]
    Empty,
    /// The records to write have a hole, which no broker accepts in a batch.
    #[error("offset {found} follows {previous} in a batch to be written; this is a bug in kferry")]
    NotConsecutive {
        /// An offset.
        previous: i64,
        /// The offset of the record behind it.
        found: i64,
    },
    /// The records to write do not fit into one batch: lengths and counts are signed 32-bit numbers.
    #[error("{0} do not fit into one batch")]
    DoNotFit(&'static str),
    /// The codec failed, which happens only without memory.
    #[error("cannot compress with {codec}: {reason}")]
    Compress {
        /// Which codec.
        codec: Codec,
        /// What it says.
        reason: String,
    },
}

impl BatchError {
    fn malformed(offset: i64, malformed: Malformed) -> Self {
        Self::Malformed { offset, reason: malformed.to_string() }
    }
}

/// Cuts what a Fetch answer has for a partition (`records`) into batches, in the order of the log. They share `records`' memory.
///
/// A broker cuts its answer at a size, so the last batch may be there in part: it is left out. From Fetch v3 on the first one always comes
/// whole (KIP-74). An error is the last thing that comes: behind a length that is wrong nothing can be found.
pub fn split(records: Bytes) -> Split {
    Split { rest: records }
}

/// The batches of a Fetch answer, by [`split`].
#[derive(Debug)]
pub struct Split {
    rest: Bytes,
}

impl Iterator for Split {
    type Item = Result<Entry, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = Reader::new(&self.rest);
        let (base_offset, length) = (reader.i64().ok()?, reader.i32().ok()?);
        let magic = *self.rest.get(MAGIC_AT)?;
        // The magic byte is inside of whatever follows the length.
        let Some(length) = usize::try_from(length).ok().filter(|length| LOG_OVERHEAD + length > MAGIC_AT) else {
            self.rest.clear();
            return Some(Err(BatchError::Malformed { offset: base_offset, reason: format!("its length is {length}") }));
        };
        if length > reader.rest().len() {
            return None;
        }
        let bytes = self.rest.split_to(LOG_OVERHEAD + length);
        let entry = match magic as i8 {
            0 | 1 => OldMessages::read(bytes).map(Entry::Old).map_err(|error| BatchError::malformed(base_offset, error)),
            2 => Batch::read(bytes).map(Entry::Batch).map_err(|error| BatchError::malformed(base_offset, error)),
            magic => Err(BatchError::Magic { offset: base_offset, magic }),
        };
        if entry.is_err() {
            self.rest.clear();
        }
        Some(entry)
    }
}

/// What stands in a log between two lengths.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Magic 2, since Kafka 0.11.
    Batch(Batch),
    /// Magic 0 or 1: one message, or several in a compressed one.
    Old(OldMessages),
}

impl Entry {
    /// The offset of the last record, or of the last that the batch ever had: compaction takes records out and leaves this.
    pub fn last_offset(&self) -> i64 {
        match self {
            Self::Batch(batch) => batch.last_offset(),
            Self::Old(old) => old.last_offset(),
        }
    }

    /// All of it, header included.
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Batch(batch) => batch.bytes(),
            Self::Old(old) => old.bytes(),
        }
    }

    /// Compares the stored CRC with the bytes.
    ///
    /// # Errors
    /// [`BatchError`]: they differ.
    pub fn check(&self) -> Result<(), BatchError> {
        match self {
            Self::Batch(batch) => batch.check(),
            Self::Old(old) => old.check(),
        }
    }

    /// The records: see [`Batch::records`] and [`OldMessages::records`].
    ///
    /// # Errors
    /// [`BatchError`]: they are not readable, or are more than `max_bytes` without their compression.
    pub fn records(&self, max_bytes: usize) -> Result<Vec<Record>, BatchError> {
        match self {
            Self::Batch(batch) => batch.records(max_bytes),
            Self::Old(old) => old.records(max_bytes),
        }
    }
}

/// What a record's timestamp means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer set it.
    CreateTime,
    /// The broker did: one for the batch, in its `maxTimestamp`. The records still hold the producer's.
    LogAppendTime,
}

/// How a transaction ended, by the marker that the coordinator left in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// What the producer id wrote since its last marker counts.
    Commit,
    /// It does not.
    Abort,
}

/// The 61 bytes in front of the records, without the length and the CRC, which follow from the rest.
#[derive(Debug, Clone, Copy)]
struct Header {
    base_offset: i64,
    partition_leader_epoch: i32,
    attributes: i16,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    count: i32,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let base_offset = reader.i64()?;
        let _length = reader.i32()?;
        let partition_leader_epoch = reader.i32()?;
        let _magic = reader.i8()?;
        let _crc = reader.i32()?;
        let header = Self {
            base_offset,
            partition_leader_epoch,
            attributes: reader.i16()?,
            last_offset_delta: reader.i32()?,
            base_timestamp: reader.i64()?,
            max_timestamp: reader.i64()?,
            producer_id: reader.i64()?,
            producer_epoch: reader.i16()?,
            base_sequence: reader.i32()?,
            count: reader.i32()?,
        };
        if header.count < 0 {
            return Err(Malformed::Value("a negative record count"));
        }
        if header.last_offset_delta < 0 || base_offset.checked_add(header.last_offset_delta.into()).is_none() {
            return Err(Malformed::Value("a last offset that cannot be"));
        }
        Ok(header)
    }

    /// Writes the header, and `payload` behind it: the records, compressed as the attributes say.
    fn write(&self, payload: &[u8], out: &mut BytesMut) {
        let start = out.len();
        out.reserve(HEADER_LEN + payload.len());
        out.put_i64(self.base_offset);
        out.put_i32((HEADER_LEN - LOG_OVERHEAD + payload.len()) as i32);
        out.put_i32(self.partition_leader_epoch);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.attributes);
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp);
        out.put_i64(self.max_timestamp);
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.count);
        out.extend_from_slice(payload);
        let (front, covered) = out[start..].split_at_mut(ATTRIBUTES_AT);
        front[MAGIC_AT + 1..].copy_from_slice(&crc32c::crc32c(covered).to_be_bytes());
    }
}

/// A batch of magic 2. Its length has been checked and its header read; neither its CRC ([`Batch::check`]) nor its records have been looked at.
#[derive(Clone)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
}

impl Batch {
    /// `bytes` end where its length says.
    fn read(bytes: Bytes) -> Result<Self, Malformed> {
        Ok(Self { header: Header::read(&bytes)?, bytes })
    }

    /// The offset of the first record that the batch ever had: compaction may have taken it out.
    pub fn base_offset(&self) -> i64 {
        self.header.base_offset
    }

    /// From the first offset to the last, 0 or more.
    pub fn last_offset_delta(&self) -> i32 {
        self.header.last_offset_delta
    }

    /// The offset of the last record that the batch ever had: compaction may have taken it out.
    pub fn last_offset(&self) -> i64 {
        self.header.base_offset + i64::from(self.header.last_offset_delta)
    }

    /// How many records the header says there are, 0 or more: batches that compaction has emptied stay, for the producer's state.
    pub fn count(&self) -> i32 {
        self.header.count
    }

    /// What the records' timestamps are counted from, in ms since 1970. With [`Batch::has_delete_horizon`] it is the delete horizon, and they are
    /// counted from that (`MemoryRecordsBuilder`, KIP-534).
    pub fn base_timestamp(&self) -> i64 {
        self.header.base_timestamp
    }

    /// The latest timestamp, in ms since 1970; with [`TimestampType::LogAppendTime`] that of every record.
    pub fn max_timestamp(&self) -> i64 {
        self.header.max_timestamp
    }

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::Codec`]
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let bits = self.header.attributes & CODEC;
        Codec::from_bits(bits).ok_or(BatchError::Codec { offset: self.header.base_offset, bits })
    }

    /// Who set the timestamps.
    pub fn timestamp_type(&self) -> TimestampType {
        if self.is(LOG_APPEND_TIME) { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
    }

    /// Part of a transaction: it counts if a [`Marker::Commit`] of its producer id follows.
    pub fn is_transactional(&self) -> bool {
        self.is(TRANSACTIONAL)
    }

    /// Written by a broker, for brokers and clients: no application sees its record.
    pub fn is_control(&self) -> bool {
        self.is(CONTROL)
    }

    /// A cleaner has been here and noted when tombstones and markers may go (KIP-534): by its own cluster's clock.
    pub fn has_delete_horizon(&self) -> bool {
        self.is(DELETE_HORIZON)
    }

    /// -1 for none.
    pub fn producer_id(&self) -> i64 {
        self.header.producer_id
    }

    /// -1 for none.
    pub fn producer_epoch(&self) -> i16 {
        self.header.producer_epoch
    }

    /// -1 for none.
    pub fn base_sequence(&self) -> i32 {
        self.header.base_sequence
    }

    /// The epoch of the leader that appended it; -1 for none. Not covered by the CRC: each broker sets its own.
    pub fn partition_leader_epoch(&self) -> i32 {
        self.header.partition_leader_epoch
    }

    /// All of it, header included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// In bytes, with the header: 61 or more.
    #[expect(clippy::len_without_is_empty, reason = "a batch always has a header")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Every offset from the first to the last has its record, as in every batch that has not been compacted. A broker takes no others.
    pub fn is_dense(&self) -> bool {
        i64::from(self.header.count) == i64::from(self.header.last_offset_delta) + 1
    }

    /// Compares the stored CRC with the bytes.
    ///
    /// # Errors
    /// [`BatchError::Checksum`]
    pub fn check(&self) -> Result<(), BatchError> {
        let (front, covered) = self.bytes.split_at(ATTRIBUTES_AT);
        let stored = front[MAGIC_AT + 1..].iter().fold(0, |crc, byte| crc << 8 | u32::from(*byte));
        let computed = crc32c::crc32c(covered);
        if stored == computed { Ok(()) } else { Err(BatchError::Checksum { offset: self.header.base_offset, stored, computed }) }
    }

    /// How a transaction ended, if this is the marker that says so; `None` for any other batch, and for the control records of KRaft.
    ///
    /// # Errors
    /// As [`Batch::records`].
    ///
    /// # References
    /// `org.apache.kafka.common.record.ControlRecordType`: the key is a version and a type
    pub fn marker(&self) -> Result<Option<Marker>, BatchError> {
        if !self.is_control() {
            return Ok(None);
        }
        let records = self.records(MARKER_MAX_BYTES)?;
        let Some(key) = records.first().and_then(|record| record.key.as_ref()) else { return Ok(None) };
        let mut reader = Reader::new(key);
        let read = reader.i16().and_then(|_version| reader.i16());
        Ok(match read.map_err(|error| BatchError::malformed(self.header.base_offset, error))? {
            0 => Some(Marker::Abort),
            1 => Some(Marker::Commit),
            _ => None,
        })
    }

    /// Appends the batch to `out` as a producer would send it: base offset 0, no leader epoch, `sequence`, not transactional, without a delete
    /// horizon, and a new CRC. The payload is copied as it is, whether it is intact or not: [`Batch::check`] before, or the new CRC vouches for
    /// damage.
    ///
    /// A broker takes it if it [is dense](Batch::is_dense) and [no control batch](Batch::is_control). With [`TimestampType::LogAppendTime`] it
    /// must be encoded anew: 2.8 refuses it, and 4.x brings back the producers' times, which are still in the records, without a word.
    pub fn rewrite(&self, sequence: Sequence, out: &mut BytesMut) {
        let header = Header {
            base_offset: 0,
            partition_leader_epoch: -1,
            // Where the horizon was set, the base timestamp holds it, and the records' deltas are relative to it: so it stays as it is.
            attributes: self.header.attributes & !(TRANSACTIONAL | DELETE_HORIZON),
            producer_id: sequence.producer_id,
            producer_epoch: sequence.producer_epoch,
            base_sequence: sequence.base_sequence,
            ..self.header
        };
        header.write(&self.bytes[HEADER_LEN..], out);
    }

    fn is(&self, bit: i16) -> bool {
        self.header.attributes & bit != 0
    }
}

/// Without the records.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch").field("header", &self.header).field("len", &self.bytes.len()).finish()
    }
}

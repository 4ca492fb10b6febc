//! Messages of magic 0 and 1, from before Kafka 0.11. A log may hold them for as long as it holds anything: 4.x brokers still serve them.
//!
//! Several messages may stand, compressed, in the value of one: the wrapper. Its offset is that of its last message. The offsets inside are
//! the log's with magic 0, and relative with magic 1.
//!
//! # References
//! - <https://kafka.apache.org/documentation/#messageset>; KIP-31 (relative offsets), KIP-32 (timestamps)
//! - `org.apache.kafka.common.record.AbstractLegacyRecordBatch`, `LegacyRecord`

use std::fmt;

use bytes::Bytes;

use super::{BatchError, CODEC, Codec, LOG_APPEND_TIME, Record};
use crate::reader::{Malformed, Reader};

/// Offset, size, CRC, magic, attributes, and two lengths.
const MIN_MESSAGE_LEN: usize = 26;

/// A message of magic 0 or 1, or several in a wrapper. Its length has been checked and its fields have been read; its CRC
/// ([`OldMessages::check`]) has not been looked at.
#[derive(Clone)]
pub struct OldMessages {
    offset: i64,
    magic: i8,
    attributes: i8,
    bytes: Bytes,
}

impl OldMessages {
    /// `bytes` end where their length says.
    pub(super) fn read(bytes: Bytes) -> Result<Self, Malformed> {
        let Message { offset, magic, attributes, .. } = Message::read(&mut Reader::new(&bytes))?;
        Ok(Self { offset, magic, attributes, bytes })
    }

    /// The offset of the message, of the last one in a wrapper.
    pub fn last_offset(&self) -> i64 {
        self.offset
    }

    /// 0 or 1.
    pub fn magic(&self) -> i8 {
        self.magic
    }

    /// How the messages in the wrapper are compressed; [`Codec::None`] if it is none.
    ///
    /// # Errors
    /// [`BatchError::Codec`], also for Zstd, which is younger than these formats.
    pub fn codec(&self) -> Result<Codec, BatchError> {
        let bits = i16::from(self.attributes) & CODEC;
        Codec::from_bits(bits).filter(|codec| *codec != Codec::Zstd).ok_or(BatchError::Codec { offset: self.offset, bits })
    }

    /// All of it, offset and size included.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Compares the stored CRC with the bytes. A wrapper's covers what is in it.
    ///
    /// # Errors
    /// [`BatchError::Checksum`]
    pub fn check(&self) -> Result<(), BatchError> {
        let message = self.message()?;
        let mut crc = flate2::Crc::new();
        crc.update(message.covered);
        let (stored, computed) = (message.crc, crc.sum());
        if stored == computed { Ok(()) } else { Err(BatchError::Checksum { offset: self.offset, stored, computed }) }
    }

    /// The records, with the log's offsets and the timestamps that a consumer sees: -1 with magic 0. What is decompressed may be no more than
    /// `max_bytes`. There are no headers in these formats.
    ///
    /// # Errors
    /// [`BatchError::Codec`], [`BatchError::Decompress`], [`BatchError::TooLarge`], [`BatchError::Malformed`]
    pub fn records(&self, max_bytes: usize) -> Result<Vec<Record>, BatchError> {
        let wrapper = self.message()?;
        let codec = self.codec()?;
        if codec == Codec::None {
            return Ok(vec![wrapper.record(&self.bytes)]);
        }
        let malformed = |error| BatchError::malformed(self.offset, error);
        let value = wrapper.value.ok_or(malformed(Malformed::Value("a compressed value that is null")))?;
        let inside = codec.decompress(self.bytes.slice_ref(value), self.magic, max_bytes).map_err(|error| error.at(self.offset))?;
        wrapper.unwrap(&inside).map_err(malformed)
    }

    fn message(&self) -> Result<Message<'_>, BatchError> {
        Message::read(&mut Reader::new(&self.bytes)).map_err(|error| BatchError::malformed(self.offset, error))
    }
}

/// Without the records.
impl fmt::Debug for OldMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, magic, attributes, bytes } = self;
        f.debug_struct("OldMessages")
            .field("offset", offset)
            .field("magic", magic)
            .field("attributes", attributes)
            .field("len", &bytes.len())
            .finish()
    }
}

struct Message<'a> {
    offset: i64,
    crc: u32,
    /// What the CRC is over: all that follows it.
    covered: &'a [u8],
    magic: i8,
    attributes: i8,
    timestamp: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let offset = reader.i64()?;
        let size = usize::try_from(reader.i32()?).map_err(|_| Malformed::Value("a message of negative size"))?;
        let mut reader = Reader::new(reader.take(size)?);
        let crc = reader.i32()? as u32;
        let covered = reader.rest();
        let (magic, attributes) = (reader.i8()?, reader.i8()?);
        let timestamp = match magic {
            0 => -1,
            1 => reader.i64()?,
            _ => return Err(Malformed::Value("a message of another magic than 0 and 1")),
        };
        let (key, value) = (reader.nullable_bytes()?, reader.nullable_bytes()?);
        if !reader.rest().is_empty() {
            return Err(Malformed::Value("a message that is longer than its fields"));
        }
        Ok(Self { offset, crc, covered, magic, attributes, timestamp, key, value })
    }

    /// `memory` is where its key and value are.
    fn record(&self, memory: &Bytes) -> Record {
        let field = |bytes: Option<&'a [u8]>| bytes.map(|bytes| memory.slice_ref(bytes));
        Record { offset: self.offset, timestamp: self.timestamp, key: field(self.key), value: field(self.value), headers: Vec::new() }
    }

    /// The messages in a wrapper.
    fn unwrap(&self, inside: &Bytes) -> Result<Vec<Record>, Malformed> {
        let mut reader = Reader::new(inside);
        let mut records = Vec::with_capacity(inside.len() / MIN_MESSAGE_LEN);
        while !reader.rest().is_empty() {
            let message = Message::read(&mut reader)?;
            if i16::from(message.attributes) & CODEC != 0 {
                return Err(Malformed::Value("a compressed message in a compressed message"));
            }
            let mut record = message.record(inside);
            if message.magic == 1 && i16::from(self.attributes) & LOG_APPEND_TIME != 0 {
                record.timestamp = self.timestamp;
            }
            records.push(record);
        }
        let last = records.last().ok_or(Malformed::Value("no messages in a compressed one"))?.offset;
        if self.magic == 1 {
            let base = self.offset.checked_sub(last);
            for record in &mut records {
                let offset = base.and_then(|base| base.checked_add(record.offset));
                record.offset = offset.ok_or(Malformed::Value("an offset that cannot be"))?;
            }
        }
        Ok(records)
    }
}

//! The records of a batch of magic 2: read, and written.
//!
//! # References
//! - <https://kafka.apache.org/documentation/#record>; `org.apache.kafka.common.record.DefaultRecord`

use bytes::{Bytes, BytesMut};

use super::{Batch, BatchError, Codec, HEADER_LEN, Header, Sequence, TimestampType};
use crate::reader::{Malformed, Reader};

/// A record of seven fields has seven bytes.
const MIN_RECORD_LEN: usize = 7;

/// One record, as an application sees it. Null and empty are two things.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// Where it is in its log.
    pub offset: i64,
    /// In ms since 1970; -1 for none.
    pub timestamp: i64,
    /// What partitions and compaction go by.
    pub key: Option<Bytes>,
    /// `None` is a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// In the order in which they were set: a key may be there more than once.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// The records that are there, with the log's offsets and the timestamps that a consumer sees. They share the memory of the batch, or of
    /// what was decompressed, which may be no more than `max_bytes`. A record of no content takes 7 bytes of that and about 110 in the list, a
    /// header 2 and 64.
    ///
    /// # Errors
    /// [`BatchError::Codec`], [`BatchError::Decompress`], [`BatchError::TooLarge`], [`BatchError::Malformed`]
    pub fn records(&self, max_bytes: usize) -> Result<Vec<Record>, BatchError> {
        // What compaction has emptied says that it is compressed, and has no payload.
        if self.header.count == 0 {
            return Ok(Vec::new());
        }
        let offset = self.header.base_offset;
        let payload = self.codec()?.decompress(self.bytes.slice(HEADER_LEN..), 2, max_bytes).map_err(|error| error.at(offset))?;
        self.read_records(&payload).map_err(|error| BatchError::malformed(offset, error))
    }

    /// Whether it is as [`filler`] makes it: all of its records are empty, and without a timestamp.
    ///
    /// # Errors
    /// As [`Batch::records`], of which it needs as much memory.
    pub fn is_filler(&self, max_bytes: usize) -> Result<bool, BatchError> {
        // Hardly any other batch gets as far as being decompressed.
        Ok(self.max_timestamp() == -1
            && self
                .records(max_bytes)?
                .iter()
                .all(|record| record.timestamp == -1 && record.key.is_none() && record.value.is_none() && record.headers.is_empty()))
    }

    fn read_records(&self, payload: &Bytes) -> Result<Vec<Record>, Malformed> {
        let count = self.header.count as usize;
        let mut records = Vec::with_capacity(count.min(payload.len() / MIN_RECORD_LEN));
        let mut reader = Reader::new(payload);
        for _ in 0..count {
            let len = usize::try_from(reader.varint()?).map_err(|_| Malformed::Value("a record of negative length"))?;
            let mut record = Reader::new(reader.take(len)?);
            records.push(self.read_record(&mut record, payload)?);
            if !record.rest().is_empty() {
                return Err(Malformed::Value("a record that is longer than its fields"));
            }
        }
        if reader.rest().is_empty() { Ok(records) } else { Err(Malformed::Value("more records than it counts")) }
    }

    fn read_record(&self, reader: &mut Reader<'_>, payload: &Bytes) -> Result<Record, Malformed> {
        let _attributes = reader.i8()?;
        let timestamp_delta = reader.varlong()?;
        let offset = self.header.base_offset.checked_add(reader.varint()?.into());
        let field = |reader: &mut Reader<'_>| reader.varint_bytes().map(|bytes| bytes.map(|bytes| payload.slice_ref(bytes)));
        let (key, value) = (field(reader)?, field(reader)?);
        let mut headers = Vec::new();
        for _ in 0..reader.varint()? {
            let key = field(reader)?.ok_or(Malformed::Value("a header without a key"))?;
            headers.push((key, field(reader)?));
        }
        Ok(Record {
            offset: offset.ok_or(Malformed::Value("an offset that cannot be"))?,
            timestamp: match self.timestamp_type() {
                TimestampType::LogAppendTime => self.header.max_timestamp,
                // As Java adds: what overflows was subtracted the same way.
                TimestampType::CreateTime => self.header.base_timestamp.wrapping_add(timestamp_delta),
            },
            key,
            value,
            headers,
        })
    }
}

/// Writes a batch as a producer would send it, with base offset 0. The offsets of `records` must be consecutive.
///
/// # Errors
/// [`BatchError::Empty`], [`BatchError::NotConsecutive`], [`BatchError::DoNotFit`], [`BatchError::Compress`]
pub fn encode(records: &[Record], codec: Codec, sequence: Sequence) -> Result<Bytes, BatchError> {
    let (first, last) = records.first().zip(records.last()).ok_or(BatchError::Empty)?;
    if let Some([a, b]) = records.array_windows().find(|[a, b]| a.offset.checked_add(1) != Some(b.offset)) {
        return Err(BatchError::NotConsecutive { previous: a.offset, found: b.offset });
    }
    let last_offset_delta = i32::try_from(last.offset - first.offset).map_err(|_| BatchError::DoNotFit("so many records"))?;
    let (mut payload, mut record) = (Vec::new(), Vec::new());
    for (offset_delta, content) in records.iter().enumerate() {
        record.clear();
        put_record(content, content.timestamp.wrapping_sub(first.timestamp), offset_delta, &mut record)?;
        put_len(record.len(), &mut payload)?;
        payload.extend_from_slice(&record);
    }
    let payload = codec.compress(payload).map_err(|error| BatchError::Compress { codec, reason: error.to_string() })?;
    if i32::try_from(HEADER_LEN + payload.len()).is_err() {
        return Err(BatchError::DoNotFit("more than 2 GiB"));
    }
    let header = Header {
        base_offset: 0,
        partition_leader_epoch: -1,
        attributes: codec.bits(),
        last_offset_delta,
        base_timestamp: first.timestamp,
        max_timestamp: records.iter().map(|record| record.timestamp).max().unwrap_or(first.timestamp),
        producer_id: sequence.producer_id,
        producer_epoch: sequence.producer_epoch,
        base_sequence: sequence.base_sequence,
        count: last_offset_delta + 1,
    };
    let mut out = BytesMut::new();
    header.write(&payload, &mut out);
    Ok(out.freeze())
}

/// A batch of `count` records without key, value and timestamp, that only takes up offsets. It is compressed once, and
/// [numbered](Batch::rewrite) for each time that it is sent: 100,000 of them have 59 KB.
///
/// # Errors
/// As [`encode`].
pub fn filler(count: u32) -> Result<Batch, BatchError> {
    let empty = |offset| Record { offset, timestamp: -1, key: None, value: None, headers: Vec::new() };
    let records: Vec<_> = (0..i64::from(count)).map(empty).collect();
    let bytes = encode(&records, Codec::Zstd, Sequence::NONE)?;
    Batch::read(bytes).map_err(|error| BatchError::malformed(0, error))
}

/// All of a record but its length.
fn put_record(record: &Record, timestamp_delta: i64, offset_delta: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    out.push(0);
    put_varlong(timestamp_delta, out);
    put_len(offset_delta, out)?;
    put_bytes(record.key.as_ref(), out)?;
    put_bytes(record.value.as_ref(), out)?;
    put_len(record.headers.len(), out)?;
    for (key, value) in &record.headers {
        put_bytes(Some(key), out)?;
        put_bytes(value.as_ref(), out)?;
    }
    Ok(())
}

fn put_bytes(bytes: Option<&Bytes>, out: &mut Vec<u8>) -> Result<(), BatchError> {
    match bytes {
        Some(bytes) => {
            put_len(bytes.len(), out)?;
            out.extend_from_slice(bytes);
        }
        None => put_varlong(-1, out),
    }
    Ok(())
}

fn put_len(len: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    put_varlong(i32::try_from(len).map_err(|_| BatchError::DoNotFit("more than 2 GiB"))?.into(), out);
    Ok(())
}

/// Zigzag. A varint is written the same way.
fn put_varlong(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

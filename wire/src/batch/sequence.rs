use super::{ATTRIBUTES_AT, CONTROL, HEADER_LEN, MAGIC_AT, PRODUCER_ID_AT, TRANSACTIONAL};
use crate::reader::Reader;

/// Whose batch it is, and where it stands in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// `producerId`; -1 is none.
    pub producer_id: i64,
    /// `producerEpoch`; -1 with no producer id.
    pub producer_epoch: i16,
    /// `baseSequence`, the sequence of the first record, 0 to 2^31 - 1; -1 with no producer id. The broker counts on from it by itself, and 0 follows
    /// 2^31 - 1.
    pub base_sequence: i32,
}

impl Sequence {
    /// Nobody's: a broker takes it as often as it comes, in any order.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1, base_sequence: -1 };

    /// How many bytes of a batch it takes to know.
    pub const FRONT: usize = HEADER_LEN;

    /// Reads it from the front of a batch of magic 2. `None`: it is not from an idempotent producer.
    pub fn peek(records: &[u8]) -> Option<Self> {
        let records = records.first_chunk::<HEADER_LEN>().filter(|header| header[MAGIC_AT] == 2)?;
        let mut from = Reader::new(&records[PRODUCER_ID_AT..]);
        let (producer_id, producer_epoch, base_sequence) = (from.i64().ok()?, from.i16().ok()?, from.i32().ok()?);
        (producer_id >= 0).then_some(Self { producer_id, producer_epoch, base_sequence })
    }

    /// Whether the same producer made it before `other`: in an epoch before, or with a lower sequence.
    pub fn is_before(self, other: Self) -> bool {
        let Self { producer_id, producer_epoch, base_sequence } = self;
        let ahead = other.base_sequence.wrapping_sub(base_sequence) & i32::MAX;
        producer_id == other.producer_id
            && (producer_epoch < other.producer_epoch || producer_epoch == other.producer_epoch && (1..1 << 30).contains(&ahead))
    }
}

/// The sequences of a batch that an idempotent producer wrote outside of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Whose it is, and the sequence of the first record.
    pub first: Sequence,
    /// The sequence of the last record, 0 to 2^31 - 1: it may have gone over the end and be lower than the first.
    pub last: i32,
}

impl Sequences {
    /// Reads them from the front of a batch of magic 2. `None`: it is nobody's, part of a transaction, a marker, or numbered as no broker takes it.
    pub fn peek(records: &[u8]) -> Option<Self> {
        let first = Sequence::peek(records).filter(|first| first.base_sequence >= 0)?;
        let mut from = Reader::new(&records[ATTRIBUTES_AT..]);
        let (attributes, last_offset_delta) = (from.i16().ok()?, from.i32().ok()?);
        let last = first.base_sequence.wrapping_add(last_offset_delta) & i32::MAX;
        (attributes & (TRANSACTIONAL | CONTROL) == 0 && last_offset_delta >= 0).then_some(Self { first, last })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::batch::{Codec, Record, encode};

    #[test]
    fn a_batch_is_before_another_of_its_producer_by_epoch_and_sequence() {
        let sequence = |producer_id, producer_epoch, base_sequence| Sequence { producer_id, producer_epoch, base_sequence };
        for (one, other, is_before) in [
            (sequence(1, 0, 4), sequence(1, 0, 5), true),
            (sequence(1, 0, 5), sequence(1, 0, 5), false),
            (sequence(1, 0, 6), sequence(1, 0, 5), false),
            (sequence(2, 0, 4), sequence(1, 0, 5), false),
            (sequence(1, 0, 900), sequence(1, 1, 0), true),
            (sequence(1, 1, 0), sequence(1, 0, 900), false),
            (sequence(1, 0, i32::MAX - 1), sequence(1, 0, 3), true),
            (sequence(1, 0, 3), sequence(1, 0, i32::MAX - 1), false),
        ] {
            assert_eq!(one.is_before(other), is_before, "{one:?} {other:?}");
        }
    }

    #[test]
    fn the_sequence_is_where_a_producer_writes_it() {
        let record = Record { offset: 0, timestamp: 1, key: None, value: Some(Bytes::from_static(b"v")), headers: Vec::new() };
        let encoded = |producer_id, producer_epoch, base_sequence| {
            encode(std::slice::from_ref(&record), Codec::None, Sequence { producer_id, producer_epoch, base_sequence }).unwrap()
        };
        let batch = encoded(1 << 41 | 7, 3, 99);
        assert_eq!(Sequence::peek(&batch), Some(Sequence { producer_id: 1 << 41 | 7, producer_epoch: 3, base_sequence: 99 }));
        assert_eq!(Sequence::peek(&batch[..Sequence::FRONT]), Sequence::peek(&batch));
        assert_eq!(Sequence::peek(&batch[..Sequence::FRONT - 1]), None);
        assert_eq!(Sequence::peek(&encoded(-1, -1, -1)), None);
    }

    #[test]
    fn the_last_sequence_is_counted_from_the_first() {
        let records: Vec<_> = (0..5).map(|offset| Record { offset, timestamp: 1, key: None, value: None, headers: Vec::new() }).collect();
        let batch = |base_sequence, attributes: u8, last_offset_delta: i32| {
            let first = Sequence { producer_id: 7, producer_epoch: 3, base_sequence };
            let mut bytes = encode(&records, Codec::Lz4, first).unwrap().to_vec();
            bytes[22] |= attributes;
            bytes[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
            (first, bytes)
        };
        for (base_sequence, last) in [(0, 4), (100, 104), (i32::MAX - 4, i32::MAX), (i32::MAX - 2, 1), (i32::MAX, 3)] {
            let (first, bytes) = batch(base_sequence, 0, 4);
            assert_eq!(Sequences::peek(&bytes), Some(Sequences { first, last }));
        }
        for (what, (_, bytes)) in [
            ("transactional", batch(0, TRANSACTIONAL as u8, 4)),
            ("a marker", batch(0, (TRANSACTIONAL | CONTROL) as u8, 4)),
            ("a control batch", batch(0, CONTROL as u8, 4)),
            ("without a sequence", batch(-1, 0, 4)),
            ("less than one record", batch(0, 0, -1)),
        ] {
            assert_eq!(Sequences::peek(&bytes), None, "{what}");
        }
        let (_, bytes) = batch(0, 0, 4);
        assert!((0..HEADER_LEN).all(|len| Sequences::peek(&bytes[..len]).is_none()));
        assert_eq!(Sequences::peek(&encode(&records, Codec::None, Sequence::NONE).unwrap()), None);
    }
}

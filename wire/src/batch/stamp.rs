//! The producer id of a batch, stamped with the term of its topic: `producer_id + ((term - 1) << 44)`.
//!
//! An idempotent producer keeps its id and goes on with its sequence when a topic changes its leader. A cluster that a topic comes back to still has the
//! sequence of its last term there, and would refuse the next one (`OUT_OF_ORDER_SEQUENCE`). With the term in it the id is new on that cluster.
//!
//! | bits | what they are |
//! |---|---|
//! | 0 to 43 | the id as the producer has it: what a cluster handed out, and from bit 40 on that cluster's `id` in the file |
//! | 44 to 61 | the term, less one |
//! | 62 | set in the ids of mirrors, which are made otherwise |
//!
//! A batch is stamped as it passes by, from its first [`Sequence::FRONT`] bytes. The CRC covers the id and is patched: a CRC is linear, so the new one differs
//! from the old one by the CRC of what changed, moved over as many bytes as follow. Nothing is computed over the records: a new CRC would vouch for damage.
//!
//! Transactional batches keep their id: a stamped one would never match its marker, and the last stable offset would stay for ever.
//!
//! # References
//! - KIP-98 (producer ids and sequences); `org.apache.kafka.storage.internals.log.ProducerAppendInfo`: what a broker makes of a sequence
//! - `crc32_combine` of zlib: a CRC that is moved over bytes, by a table of powers

use super::{ATTRIBUTES_AT, CONTROL, HEADER_LEN, LOG_OVERHEAD, MAGIC_AT, PRODUCER_ID_AT, Sequence, TRANSACTIONAL};

/// The lowest bit of the term.
const TERM_AT: u32 = 44;

/// The highest term for which there is a stamp. The mirrors' own ids begin above it.
pub const MAX_TERM: i32 = 1 << 18;

/// The lowest producer id of a mirror: 2^62, far above any that a broker gives out.
pub const OF_MIRRORS: i64 = 1 << 62;

/// Whether a mirror, whichever, has written something under this id.
pub fn is_of_a_mirror(producer_id: i64) -> bool {
    producer_id >= OF_MIRRORS
}

/// Stamps a batch for a term of its topic, in its first bytes: the producer id, and the CRC. What follows them is as it was, and as intact.
///
/// Returns whether anything changed. Nothing does in term 1, and nothing in what is not to be stamped: a message of magic 0 or 1, a batch without a producer id,
/// a transactional one, a control batch. Nor in what no broker takes (a length that cannot be), or no producer has (an id of 45 bits or more), or in a term that is
/// not from 1 to [`MAX_TERM`].
pub fn stamp(front: &mut [u8; Sequence::FRONT], term: i32) -> bool {
    let attributes = i16::from_be_bytes(field(front, ATTRIBUTES_AT));
    if front[MAGIC_AT] != 2 || attributes & (TRANSACTIONAL | CONTROL) != 0 {
        return false;
    }
    // The length counts what follows it. In front of the records are another 49 bytes.
    let length = i32::from_be_bytes(field(front, LOG_OVERHEAD - size_of::<i32>()));
    let Some(records) = u32::try_from(length).ok().and_then(|length| length.checked_sub((HEADER_LEN - LOG_OVERHEAD) as u32)) else {
        return false;
    };
    let before = field(front, PRODUCER_ID_AT);
    let Some(after) = stamped(i64::from_be_bytes(before), term).map(i64::to_be_bytes).filter(|after| *after != before) else {
        return false;
    };
    let id_ends_at = PRODUCER_ID_AT + after.len();
    let change: [u8; 8] = std::array::from_fn(|n| before[n] ^ after[n]);
    let crc = u32::from_be_bytes(field(front, MAGIC_AT + 1)) ^ moved(plain_crc(change), records + (HEADER_LEN - id_ends_at) as u32);
    front[PRODUCER_ID_AT..id_ends_at].copy_from_slice(&after);
    front[MAGIC_AT + 1..ATTRIBUTES_AT].copy_from_slice(&crc.to_be_bytes());
    true
}

/// The id under which a producer's batches stand in the log of a topic in a term; in term 1 its own. `None`: there is none, for one of the reasons of [`stamp`].
pub fn stamped(producer_id: i64, term: i32) -> Option<i64> {
    let is_own = (0..1 << TERM_AT).contains(&producer_id);
    (is_own && (1..=MAX_TERM).contains(&term)).then(|| producer_id | i64::from(term - 1) << TERM_AT)
}

/// The id as the producer has it, and the term, of an id that stands in a log. `None`: it is no producer's, but -1 or a mirror's.
pub fn unstamped(producer_id: i64) -> Option<(i64, i32)> {
    let term = producer_id >> TERM_AT;
    (0..i64::from(MAX_TERM)).contains(&term).then(|| (producer_id & ((1 << TERM_AT) - 1), term as i32 + 1))
}

fn field<const N: usize>(front: &[u8; Sequence::FRONT], at: usize) -> [u8; N] {
    std::array::from_fn(|n| front[at + n])
}

/// The CRC without the inversions before and after it, which cancel out in a difference.
fn plain_crc(bytes: [u8; 8]) -> u32 {
    !crc32c::crc32c_append(!0, &bytes)
}

/// CRC-32C's polynomial, its lowest power in the highest bit, as in all that follows.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// `x` to the power of 8 * 2^k: what a CRC is multiplied by when 2^k bytes of zeros follow.
const POWERS: [u32; 32] = {
    let mut powers = [1 << (31 - 8); 32];
    let mut k = 1;
    while k < powers.len() {
        powers[k] = product(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// A plain CRC when so many bytes of zeros follow. `crc32c_combine` of the crate does the same, and squares a matrix of 32 rows for each bit of `bytes`.
fn moved(crc: u32, bytes: u32) -> u32 {
    (0..).zip(POWERS).filter(|(k, _)| bytes >> k & 1 == 1).fold(crc, |crc, (_, power)| product(crc, power))
}

/// The product of two polynomials over GF(2), modulo [`POLYNOMIAL`].
const fn product(one: u32, other: u32) -> u32 {
    let (mut product, mut other, mut bit) = (0, other, 1 << 31);
    while bit != 0 {
        if one & bit != 0 {
            product ^= other;
        }
        bit >>= 1;
        other = if other & 1 == 0 { other >> 1 } else { other >> 1 ^ POLYNOMIAL };
    }
    product
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{Batch, BatchError, Codec, Entry, LOG_APPEND_TIME, Record, encode, split};

    const ID: i64 = (2 << 40) + 7_000;

    /// A batch of magic 2 as far as its header goes: what follows are any bytes. Its CRC is right.
    fn batch(attributes: i16, sequence: Sequence, records: &[u8]) -> Vec<u8> {
        let value = Record { offset: 0, timestamp: 1, key: None, value: None, headers: Vec::new() };
        let mut bytes = encode(&[value], Codec::None, sequence).unwrap()[..HEADER_LEN].to_vec();
        bytes.extend_from_slice(records);
        bytes[8..12].copy_from_slice(&((HEADER_LEN - LOG_OVERHEAD + records.len()) as i32).to_be_bytes());
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        with_right_crc(bytes)
    }

    fn with_right_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn of(producer_id: i64) -> Sequence {
        Sequence { producer_id, producer_epoch: 3, base_sequence: 99 }
    }

    /// Stamps the front of `bytes`; whether it changed.
    fn stamp_front(bytes: &mut [u8], term: i32) -> bool {
        stamp(bytes.first_chunk_mut().unwrap(), term)
    }

    fn read(bytes: &[u8]) -> Batch {
        match split(Bytes::copy_from_slice(bytes)).next() {
            Some(Ok(Entry::Batch(batch))) => batch,
            other => panic!("{other:?}"),
        }
    }

    /// The stored CRC, and what it should be.
    fn crcs(bytes: &[u8]) -> (u32, u32) {
        (u32::from_be_bytes(bytes[17..21].try_into().unwrap()), crc32c::crc32c(&bytes[ATTRIBUTES_AT..]))
    }

    fn is_patched(attributes: i16, producer_id: i64, term: i32, records: &[u8]) -> Result<(), TestCaseError> {
        let before = batch(attributes, of(producer_id), records);
        let mut after = before.clone();
        prop_assert_eq!(stamp_front(&mut after, term), term > 1);
        let (stored, computed) = crcs(&after);
        prop_assert_eq!(stored, computed);
        let id = stamped(producer_id, term).unwrap();
        prop_assert_eq!(with_right_crc(batch(attributes, of(id), records)), after);
        prop_assert_eq!(unstamped(id), Some((producer_id, term)));
        Ok(())
    }

    fn any_attributes() -> impl Strategy<Value = i16> {
        any::<i16>().prop_map(|attributes| attributes & !(TRANSACTIONAL | CONTROL))
    }

    fn any_id() -> impl Strategy<Value = i64> {
        prop_oneof![Just(0), 0..10_000_i64, 0..1_i64 << 44, Just((1 << 44) - 1)]
    }

    fn any_term() -> impl Strategy<Value = i32> {
        prop_oneof![4 => 1..10, 1 => 1..=MAX_TERM, 1 => Just(MAX_TERM)]
    }

    proptest! {
        #[test]
        fn a_patched_crc_is_a_computed_one(
            attributes in any_attributes(), id in any_id(), term in any_term(), records in vec(any::<u8>(), 0..2_000),
        ) {
            is_patched(attributes, id, term, &records)?;
        }

        /// Whatever was wrong is wrong by the same bits.
        #[test]
        fn damage_stays_damage(
            id in any_id(), term in 2..9, records in vec(any::<u8>(), 1..500), at in any::<prop::sample::Index>(), turned in 1..=255_u8,
        ) {
            let mut bytes = batch(0, of(id), &records);
            // Anything that the CRC covers, or the CRC itself; not the attributes and the id, which say whether the batch is stamped at all.
            let places: Vec<_> = (17..21).chain(23..43).chain(51..bytes.len()).collect();
            bytes[places[at.index(places.len())]] ^= turned;
            let (stored, computed) = crcs(&bytes);
            prop_assert_ne!(stored, computed);
            let damage = stored ^ computed;
            prop_assert!(stamp_front(&mut bytes, term));
            let (stored, computed) = crcs(&bytes);
            prop_assert_eq!(stored ^ computed, damage);
        }

        #[test]
        fn a_damaged_id_stays_damaged(bit in 0..44_usize, term in 2..9) {
            let mut bytes = batch(0, of(ID), b"records");
            bytes[50 - bit / 8] ^= 1 << (bit % 8);
            prop_assert!(stamp_front(&mut bytes, term));
            let (stored, computed) = crcs(&bytes);
            prop_assert_ne!(stored, computed);
        }

        /// Neither a panic, nor a change of anything but the id and the CRC.
        #[test]
        fn any_bytes_are_stamped_or_left_alone(
            bytes in prop::array::uniform32(any::<u8>()), more in prop::array::uniform29(any::<u8>()), magic in 0..4_u8, term in any::<i32>(),
        ) {
            let mut front: [u8; Sequence::FRONT] = [&bytes[..], &more].concat().try_into().unwrap();
            front[MAGIC_AT] = magic;
            let before = front;
            let changed = stamp(&mut front, term);
            prop_assert_eq!(front != before, changed);
            prop_assert!(front[..17] == before[..17] && front[21..43] == before[21..43] && front[51..] == before[51..]);
            let again = front;
            // Its id has no room for another term.
            prop_assert!(!changed || !stamp(&mut front, term) && front == again);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn a_patched_crc_is_a_computed_one_over_megabytes(id in any_id(), term in 2..9, seed in any::<u32>(), len in 1_000_000..5_000_000_u32) {
            let records: Vec<_> = (0..len).map(|n| (n.wrapping_mul(seed | 1) >> 11) as u8).collect();
            is_patched(0, id, term, &records)?;
        }
    }

    /// By the matrices of another library, for lengths that nobody wants to fill with bytes.
    #[test]
    fn a_crc_is_moved_over_any_length() {
        for bytes in (0..31).flat_map(|k| [(1 << k) - 1, 1 << k, (1 << k) + 1]).chain([i32::MAX as u32, 0x5555_5555]) {
            for crc in [1, 0x8000_0000, 0xdead_beef] {
                assert_eq!(moved(crc, bytes), crc32c::crc32c_combine(crc, 0, bytes as usize), "{crc:08x}, {bytes} bytes");
            }
        }
    }

    #[test]
    fn the_records_and_the_place_in_their_order_stay() {
        let records: Vec<_> = (0..50)
            .map(|offset| Record { offset, timestamp: 5, key: None, value: Some(Bytes::from_static(b"value")), headers: Vec::new() })
            .collect();
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut bytes = encode(&records, codec, of(ID)).unwrap().to_vec();
            assert!(stamp_front(&mut bytes, 3));
            let batch = read(&bytes);
            assert_eq!((batch.check(), batch.producer_id()), (Ok(()), ID + (2 << 44)), "{codec}");
            assert_eq!((batch.producer_epoch(), batch.base_sequence()), (3, 99));
            assert_eq!(batch.records(1 << 20).as_ref(), Ok(&records));
        }
    }

    #[test]
    fn what_is_not_to_be_stamped_stays_as_it_is() {
        let good = batch(0, of(ID), b"records");
        let edited = |at: usize, field: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            with_right_crc(bytes)
        };
        let length = |length: i32| edited(8, &length.to_be_bytes());
        for (what, bytes, term, changes) in [
            ("an idempotent batch", good.clone(), 2, true),
            ("with the largest producer id", batch(0, of((1 << 44) - 1), b""), 2, true),
            ("with producer id 0", batch(0, of(0), b""), 2, true),
            ("with LogAppendTime and a codec", batch(LOG_APPEND_TIME | 4, of(ID), b""), 2, true),
            ("in the last term", good.clone(), MAX_TERM, true),
            ("in term 1", good.clone(), 1, false),
            ("in term 0", good.clone(), 0, false),
            ("in a term that has no bits", good.clone(), MAX_TERM + 1, false),
            ("in a term below", good.clone(), i32::MIN, false),
            ("magic 0", edited(16, &[0]), 2, false),
            ("magic 1", edited(16, &[1]), 2, false),
            ("magic 3", edited(16, &[3]), 2, false),
            ("without a producer id", batch(0, Sequence::NONE, b""), 2, false),
            ("transactional", batch(TRANSACTIONAL, of(ID), b""), 2, false),
            ("a marker", batch(TRANSACTIONAL | CONTROL, of(ID), b""), 2, false),
            ("a control batch", batch(CONTROL, of(ID), b""), 2, false),
            ("stamped before", batch(0, of(ID | 1 << 44), b""), 2, false),
            ("a mirror's", batch(0, of(1 << 62 | 5), b""), 2, false),
            ("no length", length(0), 2, false),
            ("a negative length", length(-1), 2, false),
            ("the least length", length(i32::MIN), 2, false),
            ("a length that ends in the header", length(48), 2, false),
            ("the shortest length", length(49), 2, true),
            ("the greatest length", length(i32::MAX), 2, true),
        ] {
            let mut stamped = bytes.clone();
            assert_eq!(stamp_front(&mut stamped, term), changes, "{what}");
            assert_eq!(stamped != bytes, changes, "{what}");
        }
    }

    #[test]
    fn an_id_and_its_term_are_told_apart() {
        assert_eq!((stamped(ID, 1), stamped(ID, 2), stamped(ID, 3)), (Some(ID), Some(ID + (1 << 44)), Some(ID + (2 << 44))));
        assert_eq!((unstamped(ID), unstamped(ID + (1 << 44))), (Some((ID, 1)), Some((ID, 2))));
        assert_eq!((unstamped(0), unstamped((1 << 62) - 1)), (Some((0, 1)), Some(((1 << 44) - 1, MAX_TERM))));
        for nobody in [-1, i64::MIN, 1 << 62, i64::MAX] {
            assert_eq!((stamped(nobody, 2), unstamped(nobody)), (None, None), "{nobody}");
        }
    }

    #[test]
    fn a_broken_batch_is_refused_as_before() {
        let mut bytes = batch(0, of(ID), b"records");
        *bytes.last_mut().unwrap() ^= 1;
        assert!(stamp_front(&mut bytes, 2));
        assert!(matches!(read(&bytes).check(), Err(BatchError::Checksum { .. })));
    }
}

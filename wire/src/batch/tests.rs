use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
const NOBODY: Sequence = Sequence::NONE;
const OURS: Sequence = Sequence { producer_id: (1 << 62) + 1, producer_epoch: 0, base_sequence: i32::MAX };
const ENOUGH: usize = 1 << 20;

fn record(offset: i64, value: &[u8]) -> Record {
    Record { offset, timestamp: 1_000, key: None, value: Some(Bytes::copy_from_slice(value)), headers: Vec::new() }
}

/// The one batch or message in `bytes`.
fn entry(bytes: impl Into<Bytes>) -> Result<Entry, BatchError> {
    let mut split = split(bytes.into());
    let entry = split.next().expect("it is whole");
    assert!(split.next().is_none());
    entry
}

fn batch(bytes: impl Into<Bytes>) -> Batch {
    match entry(bytes) {
        Ok(Entry::Batch(batch)) => batch,
        other => panic!("{other:?}"),
    }
}

/// A batch as a broker would have changed it: `edit` gets its bytes, and the CRC is right again.
fn edited(bytes: &Bytes, edit: impl FnOnce(&mut [u8])) -> Bytes {
    let mut bytes = bytes.to_vec();
    edit(&mut bytes);
    let crc = crc32c::crc32c(&bytes[ATTRIBUTES_AT..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

fn any_bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![8 => vec(any::<u8>(), 0..12), 1 => vec(Just(7), 100..20_000)].prop_map(Bytes::from)
}

fn any_records() -> impl Strategy<Value = Vec<Record>> {
    let timestamp = prop_oneof![Just(-1), 1_700_000_000_000..1_700_000_100_000_i64, any::<i64>()];
    let header = (prop_oneof![Just(Bytes::from_static(b"same")), any_bytes()], option::of(any_bytes()));
    let content = (timestamp, option::of(any_bytes()), option::of(any_bytes()), vec(header, 0..4));
    let base = prop_oneof![Just(0), 0..i64::MAX - 1_000];
    (base, vec(content, 1..200)).prop_map(|(base, contents)| {
        let numbered = contents.into_iter().zip(base..);
        numbered.map(|((timestamp, key, value, headers), offset)| Record { offset, timestamp, key, value, headers }).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(records in any_records(), codec in prop::sample::select(&CODECS)) {
        let base_offset = records[0].offset;
        let written = batch(encode(&records, codec, OURS).unwrap());
        prop_assert_eq!(written.check(), Ok(()));
        prop_assert!(written.is_dense() && !written.is_control() && !written.is_transactional() && !written.has_delete_horizon());
        prop_assert_eq!((written.base_offset(), written.partition_leader_epoch(), written.codec()), (0, -1, Ok(codec)));
        prop_assert_eq!(written.max_timestamp(), records.iter().map(|record| record.timestamp).max().unwrap());
        let appended = batch(edited(written.bytes(), |bytes| bytes[..8].copy_from_slice(&base_offset.to_be_bytes())));
        prop_assert_eq!(appended.last_offset(), base_offset + records.len() as i64 - 1);
        prop_assert_eq!(appended.records(64 << 20), Ok(records));
    }

    #[test]
    fn a_new_header_leaves_the_records_as_they_are(
        records in any_records(),
        codec in prop::sample::select(&CODECS),
        bits in prop::sample::select(&[0, TRANSACTIONAL, DELETE_HORIZON, TRANSACTIONAL | DELETE_HORIZON]),
        unknown in prop::sample::select(&[0, 1 << 7, i16::MIN]),
    ) {
        let log = edited(&encode(&records, codec, NOBODY).unwrap(), |bytes| {
            bytes[..8].copy_from_slice(&77_i64.to_be_bytes());
            bytes[12..16].copy_from_slice(&5_i32.to_be_bytes());
            bytes[21..23].copy_from_slice(&(codec.bits() | bits | unknown).to_be_bytes());
        });
        let before = batch(log);
        let mut out = BytesMut::from(&b"what was there"[..]);
        before.rewrite(OURS, &mut out);
        let after = batch(out.split_off(14).freeze());
        prop_assert_eq!(&out[..], b"what was there");
        prop_assert_eq!(after.check(), Ok(()));
        prop_assert_eq!(&after.bytes()[HEADER_LEN..], &before.bytes()[HEADER_LEN..]);
        prop_assert_eq!((after.base_offset(), after.partition_leader_epoch(), after.len()), (0, -1, before.len()));
        prop_assert_eq!((after.producer_id(), after.producer_epoch(), after.base_sequence()), ((1 << 62) + 1, 0, i32::MAX));
        prop_assert_eq!(after.header.attributes, codec.bits() | unknown);
        prop_assert_eq!((after.base_timestamp(), after.max_timestamp()), (before.base_timestamp(), before.max_timestamp()));
        prop_assert_eq!((after.count(), after.last_offset_delta()), (before.count(), before.last_offset_delta()));
        let mut moved = before.records(64 << 20).unwrap();
        for record in &mut moved {
            record.offset -= 77;
        }
        prop_assert_eq!(after.records(64 << 20), Ok(moved));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300), magic in 0..4_u8, length in 0..300_u32, attributes in any::<u16>()) {
        let mut bytes = bytes;
        for (at, field) in [(8, &length.to_be_bytes()[..]), (16, &[magic]), (21, &attributes.to_be_bytes())] {
            if let Some(place) = bytes.get_mut(at..at + field.len()) {
                place.copy_from_slice(field);
            }
        }
        for entry in split(bytes.into()).flatten() {
            let _ = (entry.check(), entry.records(ENOUGH), entry.last_offset());
        }
    }
}

#[test]
fn a_batch_that_is_cut_is_left_out() {
    let one = encode(&[record(0, b"one"), record(1, b"two")], Codec::None, NOBODY).unwrap();
    let two = encode(&[record(0, b"three")], Codec::Gzip, NOBODY).unwrap();
    let both = Bytes::from([&one[..], &two[..]].concat());
    for cut in 0..=both.len() {
        let entries: Vec<_> = split(both.slice(..cut)).map(|entry| entry.unwrap().bytes().clone()).collect();
        let whole = if cut < one.len() { 0 } else { 1 + usize::from(cut == both.len()) };
        assert_eq!(entries, [&one, &two][..whole], "{cut} bytes");
    }
}

#[test]
fn nothing_is_looked_for_behind_what_is_wrong() {
    let good = encode(&[record(0, b"one")], Codec::None, NOBODY).unwrap();
    let outcome = |at: usize, field: &[u8]| {
        let bad = edited(&good, |bytes| bytes[at..at + field.len()].copy_from_slice(field));
        let all: Vec<_> = split([&good[..], &bad[..], &good[..]].concat().into()).collect();
        assert_eq!(all.len(), 2, "{all:?}");
        all[1].as_ref().map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(
        outcome(8, &[0xff; 4]),
        "the batch at offset 0 is damaged: its length is -1; look at it with kafka-dump-log.sh on the broker"
    );
    assert!(outcome(8, &4_i32.to_be_bytes()).contains("its length is 4"));
    assert!(outcome(8, &48_i32.to_be_bytes()).contains("it breaks off"));
    assert_eq!(outcome(16, &[3]), "the batch at offset 0 has magic 3, kferry knows 0 to 2: a newer kferry is needed");
    assert!(outcome(57, &[0xff; 4]).contains("a negative record count"));
    assert!(outcome(23, &[0xff; 4]).contains("a last offset that cannot be"));
}

#[test]
fn one_flipped_bit_is_seen() {
    let good = encode(&[record(0, b"one")], Codec::Zstd, NOBODY).unwrap();
    for at in (17..57).chain(HEADER_LEN..good.len()) {
        let mut bad = good.to_vec();
        bad[at] ^= 1;
        // A count or a delta may be refused at once.
        if let Ok(entry) = entry(bad) {
            assert!(matches!(entry.check(), Err(BatchError::Checksum { offset: 0, .. })), "byte {at}");
        }
    }
}

#[test]
fn the_records_are_as_many_and_as_long_as_they_say() {
    let good = encode(&[record(0, b"one"), record(1, b"two")], Codec::None, NOBODY).unwrap();
    let outcome = |at: usize, byte: u8| batch(edited(&good, |bytes| bytes[at] = byte)).records(ENOUGH).unwrap_err().to_string();
    assert!(outcome(60, 1).contains("more records than it counts"));
    assert!(outcome(60, 3).contains("it breaks off"));
    assert!(outcome(57, 0x7f).contains("it breaks off"));
    assert!(outcome(HEADER_LEN, 1).contains("a record of negative length"));
    assert!(outcome(HEADER_LEN, 0x16).contains("a record that is longer than its fields"));
    assert!(outcome(HEADER_LEN, 0x7e).contains("it breaks off"));
    // A batch that compaction has emptied: its codec is still there, and nothing else.
    let gzip = encode(&[record(0, b"one")], Codec::Gzip, NOBODY).unwrap();
    let mut emptied = edited(&gzip.slice(..HEADER_LEN), |bytes| bytes[60] = 0).to_vec();
    emptied[8..12].copy_from_slice(&49_i32.to_be_bytes());
    let emptied = batch(emptied);
    assert_eq!((emptied.records(ENOUGH), emptied.is_dense()), (Ok(Vec::new()), false));
}

#[test]
fn log_append_time_is_that_of_the_whole_batch() {
    let records = [record(0, b"one"), Record { timestamp: 2_000, ..record(1, b"two") }];
    let log = edited(&encode(&records, Codec::Lz4, NOBODY).unwrap(), |bytes| {
        bytes[22] |= LOG_APPEND_TIME as u8;
        bytes[35..43].copy_from_slice(&3_000_i64.to_be_bytes());
    });
    let log = batch(log);
    assert_eq!(log.timestamp_type(), TimestampType::LogAppendTime);
    let read = log.records(ENOUGH).unwrap();
    assert_eq!(read.iter().map(|record| record.timestamp).collect::<Vec<_>>(), [3_000, 3_000]);
    // Written anew, the broker's time is what the producer has set.
    let copy = batch(encode(&read, Codec::Lz4, NOBODY).unwrap());
    assert_eq!((copy.timestamp_type(), copy.base_timestamp(), copy.max_timestamp()), (TimestampType::CreateTime, 3_000, 3_000));
    assert_eq!(copy.records(ENOUGH).unwrap(), read);
}

#[test]
fn a_marker_says_how_a_transaction_ended() {
    let marker = |kind: u8, attributes: i16| {
        let key = Some(Bytes::copy_from_slice(&[0, 0, 0, kind]));
        let written = encode(&[Record { key, ..record(0, &[0; 6]) }], Codec::None, OURS).unwrap();
        batch(edited(&written, |bytes| bytes[21..23].copy_from_slice(&attributes.to_be_bytes()))).marker()
    };
    assert_eq!(marker(0, TRANSACTIONAL | CONTROL), Ok(Some(Marker::Abort)));
    assert_eq!(marker(1, TRANSACTIONAL | CONTROL), Ok(Some(Marker::Commit)));
    // KRaft's LeaderChange.
    assert_eq!(marker(2, CONTROL), Ok(None));
    assert_eq!(marker(1, TRANSACTIONAL), Ok(None));
}

#[test]
fn only_what_a_broker_takes_is_written() {
    assert_eq!(encode(&[], Codec::None, NOBODY), Err(BatchError::Empty));
    assert_eq!(filler(0).unwrap_err(), BatchError::Empty);
    let holed = encode(&[record(3, b""), record(4, b""), record(6, b"")], Codec::None, NOBODY);
    assert_eq!(holed, Err(BatchError::NotConsecutive { previous: 4, found: 6 }));
    assert!(encode(&[record(i64::MAX, b""), record(i64::MIN, b"")], Codec::None, NOBODY).is_err());
}

#[test]
fn filler_is_told_from_records() {
    assert_eq!(filler(100).unwrap().is_filler(1 << 20), Ok(true));
    let empty = Record { offset: 0, timestamp: -1, key: None, value: None, headers: Vec::new() };
    let changed: [fn(&mut Record); 4] = [
        |record| record.timestamp = 7,
        |record| record.key = Some(Bytes::from_static(b"")),
        |record| record.value = Some(Bytes::from_static(b"x")),
        |record| record.headers.push((Bytes::from_static(b"h"), None)),
    ];
    for change in changed {
        let mut records = vec![empty.clone(), Record { offset: 1, ..empty.clone() }];
        change(&mut records[1]);
        let bytes = encode(&records, Codec::None, OURS).unwrap();
        let Some(Ok(Entry::Batch(batch))) = split(bytes).next() else { panic!("it is a batch") };
        assert_eq!(batch.is_filler(1 << 20), Ok(false), "{records:?}");
    }
}

#[test]
fn filler_takes_up_offsets_and_little_else() {
    let filler = filler(100_000).unwrap();
    assert!(filler.len() < 64 * 1024, "{} bytes", filler.len());
    let mut out = BytesMut::new();
    filler.rewrite(OURS, &mut out);
    let sent = batch(out);
    assert_eq!((sent.check(), sent.is_dense(), sent.last_offset(), sent.max_timestamp()), (Ok(()), true, 99_999, -1));
    assert_eq!((sent.producer_id(), sent.base_sequence()), (OURS.producer_id, OURS.base_sequence));
    let records = sent.records(ENOUGH).unwrap();
    assert_eq!(records[99_999], Record { offset: 99_999, timestamp: -1, key: None, value: None, headers: Vec::new() });
}

#[test]
fn what_unpacks_without_end_is_stopped() {
    let large = vec![0; 100_000];
    let records: Vec<_> = (0..100).map(|offset| record(offset, &large)).collect();
    for codec in &CODECS[1..] {
        let small = batch(encode(&records, *codec, NOBODY).unwrap());
        assert!(small.len() < 1_000_000);
        let refused = small.records(ENOUGH).unwrap_err();
        assert_eq!(refused, BatchError::TooLarge { offset: 0, codec: *codec, max_bytes: ENOUGH });
        assert_eq!(small.records(11_000_000).unwrap(), records);
    }
}

#[test]
fn snappy_comes_in_two_forms_and_announces_no_more_than_it_has() {
    let content = b"record record record record".repeat(5_000);
    let decompress = |bytes: Vec<u8>| match Codec::Snappy.decompress(bytes.into(), 2, ENOUGH).map_err(|error| error.at(0)) {
        Ok(bytes) => Ok(bytes),
        Err(BatchError::Decompress { reason, .. }) => Err(reason),
        Err(error) => panic!("{error}"),
    };
    let bare = snap::raw::Encoder::new().compress_vec(&content).unwrap();
    assert_eq!(decompress(bare.clone()).unwrap(), content);
    let framed = Codec::Snappy.compress(content.clone()).unwrap();
    assert!(framed.starts_with(b"\x82SNAPPY\0"));
    assert_eq!(decompress(framed.clone()).unwrap(), content);
    assert_eq!(decompress([&framed[..], &framed[..]].concat()).unwrap(), content.repeat(2));
    assert_eq!(decompress(framed[..framed.len() - 1].to_vec()).unwrap_err(), "it breaks off");
    assert_eq!(decompress(framed[..12].to_vec()).unwrap_err(), "it breaks off");
    // 1,000,000 bytes announced, two there.
    assert_eq!(decompress(vec![0xc0, 0x84, 0x3d, 0, b'a']).unwrap_err(), "it announces more than it can hold");
}

/// Magic 0 and 1, as a broker wrote them.
mod before_kafka_0_11 {
    use super::*;

    fn message(magic: u8, offset: i64, attributes: u8, timestamp: i64, value: Option<&[u8]>) -> Vec<u8> {
        let mut covered = vec![magic, attributes];
        if magic == 1 {
            covered.put_i64(timestamp);
        }
        covered.put_i32(1);
        covered.put_slice(b"k");
        covered.put_i32(value.map_or(-1, |value| value.len() as i32));
        covered.put_slice(value.unwrap_or_default());
        let mut crc = flate2::Crc::new();
        crc.update(&covered);
        let mut out = Vec::new();
        out.put_i64(offset);
        out.put_i32(covered.len() as i32 + 4);
        out.put_u32(crc.sum());
        out.put_slice(&covered);
        out
    }

    fn read(offset: i64, timestamp: i64, value: Option<&'static [u8]>) -> Record {
        Record { offset, timestamp, key: Some(Bytes::from_static(b"k")), value: value.map(Bytes::from_static), headers: Vec::new() }
    }

    #[test]
    fn one_message() {
        let zero = entry(message(0, 5, 0, 0, None)).unwrap();
        assert_eq!((zero.check(), zero.last_offset(), zero.records(0)), (Ok(()), 5, Ok(vec![read(5, -1, None)])));
        let one = entry(message(1, 6, 0, 99, Some(b""))).unwrap();
        assert_eq!((one.check(), one.records(0)), (Ok(()), Ok(vec![read(6, 99, Some(b""))])));
        let mut bad = message(1, 6, 0, 99, Some(b"value"));
        *bad.last_mut().unwrap() ^= 1;
        assert!(matches!(entry(bad).unwrap().check(), Err(BatchError::Checksum { offset: 6, .. })));
    }

    #[test]
    fn a_wrapper_has_the_offset_of_its_last_message() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4] {
            let wrapper = |magic, attributes: u8, offsets: [i64; 2]| {
                let inside = [message(magic, offsets[0], 0, 10, Some(b"first")), message(magic, offsets[1], 0, 20, Some(b"last"))];
                let compressed = codec.compress(inside.concat()).unwrap();
                entry(message(magic, 42, codec.bits() as u8 | attributes, 30, Some(&compressed))).unwrap()
            };
            let with_offsets = wrapper(0, 0, [40, 42]);
            assert_eq!(with_offsets.records(ENOUGH), Ok(vec![read(40, -1, Some(b"first")), read(42, -1, Some(b"last"))]));
            // With a hole between them, which compaction left.
            let relative = wrapper(1, 0, [1, 3]);
            assert_eq!(relative.records(ENOUGH), Ok(vec![read(40, 10, Some(b"first")), read(42, 20, Some(b"last"))]));
            let by_the_broker = wrapper(1, LOG_APPEND_TIME as u8, [0, 1]);
            assert_eq!(by_the_broker.records(ENOUGH), Ok(vec![read(41, 30, Some(b"first")), read(42, 30, Some(b"last"))]));
            assert_eq!(relative.records(50), Err(BatchError::TooLarge { offset: 42, codec, max_bytes: 50 }));
        }
    }

    #[test]
    fn what_no_broker_would_have_written() {
        let refused = |attributes, inside: &[u8]| {
            let compressed = Codec::Gzip.compress(inside.to_vec()).unwrap();
            entry(message(1, 3, attributes, 0, Some(&compressed))).unwrap().records(ENOUGH).unwrap_err().to_string()
        };
        assert!(refused(1, b"").contains("no messages in a compressed one"));
        assert!(refused(1, &message(1, 0, 1, 0, Some(b""))).contains("a compressed message in a compressed message"));
        assert!(refused(1, &message(1, i64::MIN, 0, 0, None)).contains("an offset that cannot be"));
        assert!(refused(1, &message(1, 0, 0, 0, None)[..20]).contains("it breaks off"));
        assert!(refused(4, b"").contains("the unknown codec 4"));
        let null = entry(message(1, 3, 1, 0, None)).unwrap().records(ENOUGH).unwrap_err();
        assert!(null.to_string().contains("a compressed value that is null"));
    }

    #[test]
    fn the_wrong_header_checksum_of_lz4_is_right_with_magic_0() {
        let mut compressed = Codec::Lz4.compress(message(0, 0, 0, 0, Some(b"value"))).unwrap();
        compressed[6] ^= 0xff;
        let zero = entry(message(0, 0, 3, 0, Some(&compressed))).unwrap();
        assert_eq!(zero.records(ENOUGH), Ok(vec![read(0, -1, Some(b"value"))]));
        let one = entry(message(1, 0, 3, 0, Some(&compressed))).unwrap();
        assert!(matches!(one.records(ENOUGH), Err(BatchError::Decompress { codec: Codec::Lz4, .. })));
    }
}

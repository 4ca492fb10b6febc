//! One function for each reader of bytes that kferry has not written itself: what it must never do, whatever it reads.
//!
//! They run twice: guided by coverage under libFuzzer (`make fuzz`; needs a nightly toolchain), and as ordinary tests over the seeds and their
//! mutations (`tests/fuzz_targets.rs`, on stable, part of `make test`). Under libFuzzer an allocation above 64 MiB is a finding as well: no
//! length from the wire may size one.

// Each of libFuzzer's programs uses one of them.
#![allow(dead_code)]

use std::net::IpAddr;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kferry_config::diagnostic::{self, Severity};
use kferry_config::{Config, HostPort, Sasl, SaslMechanism, Secret, Security};
use kferry_wire::api::{
    self, Api, FETCH_RESPONSE, Field, Kind, MAX_TEXT, PRODUCE_REQUEST, Rewrite, RewriteError, Step, Unmapped, Uuid, Walk,
};
use kferry_wire::batch::{self, BatchError, Codec, Entry, Record, Sequence, stamp};
use kferry_wire::cluster::ClusterInfo;
use kferry_wire::connection::{ConnectOptions, Connection};
use kferry_wire::frame::{self, FrameError, SIZE_LEN, read_frame};
use kferry_wire::header::{FirstRequest, Software, body_at, is_idempotent};
use kferry_wire::log::produce::{self, Front, OTHERS};
use kferry_wire::proxy_header::{LONGEST, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// The largest frame that the targets allow.
const LIMIT: usize = 1 << 20;

/// The beginning of a client's connection, as it grows byte by byte: what was certain once stays so.
pub(crate) fn first_request(bytes: &[u8]) {
    let whole = FirstRequest::peek(bytes, LIMIT);
    // A header has at most 32,777 bytes; a few places are enough to see a verdict that changes.
    let cuts = (0..bytes.len().min(64)).chain((64..bytes.len()).step_by(997));
    for cut in cuts {
        match FirstRequest::peek(&bytes[..cut], LIMIT) {
            Ok(FirstRequest::Incomplete) => {}
            certain => assert_eq!(certain, whole, "after {cut} of {} bytes", bytes.len()),
        }
    }
    if let Ok(FirstRequest::Header { header, frame_len }) = whole {
        assert!(header.len <= frame_len - SIZE_LEN && frame_len <= SIZE_LEN + LIMIT);
        assert!(header.client_id.is_none_or(|client_id| client_id.len() <= header.len - 10));
    }
    let body = bytes.get(SIZE_LEN..).unwrap_or_default();
    if let Some(software) = Software::peek(body) {
        assert!(software.name.len() + software.version.len() < body.len());
    }
    for version in [0, 3, 9] {
        let _ = is_idempotent(body, version);
        assert!(body_at(body, 4, version == 9).is_none_or(|at| at >= 4 && at <= body.len()));
    }
}

/// The body of a Produce request, and an answer to one: what is read of it is what the walk over it finds, and is read again when it is written. The input's
/// first byte is the version.
pub(crate) fn produce(bytes: &[u8]) {
    /// The partitions of a request, in its order.
    #[derive(Default)]
    struct Found(String, Vec<(String, i32)>);
    impl Rewrite for Found {
        fn topic(&mut self, name: &str) {
            name.clone_into(&mut self.0);
        }

        fn partition(&mut self, partition: i32) -> i32 {
            self.1.push((self.0.clone(), partition));
            partition
        }
    }
    let Some((version, body)) = bytes.split_first() else { return };
    let (version, body) = (OTHERS.min + i16::from(*version) % (OTHERS.max + 1 - OTHERS.min), Bytes::copy_from_slice(body));
    // Others trust the brokers that they log in to, and have kafka-protocol read what these answer.
    if version < 3
        && let Ok(answer) = produce::read_response(body.clone(), version)
    {
        let written = produce::write_response(&answer, version).expect("what was in a message fits into one");
        assert_eq!(written, body[..written.len()]);
    }
    let Some(entries) = produce::entries(&body, version) else { return };
    let front = Front::peek(&body, version).expect("it is in front of them");
    let mut found = Found::default();
    api::rewrite(PRODUCE_REQUEST, version, version >= 9, &body, &mut found).expect("entries was able to read it");
    let read: Vec<_> = entries.iter().map(|(place, _)| (place.topic.to_string(), place.partition)).collect();
    assert_eq!(read, found.1);
    for records in entries.iter().filter_map(|(_, records)| records.as_deref()) {
        let sequence = Sequence::peek(records);
        assert!(sequence.is_none_or(|sequence| sequence.producer_id >= 0 && !sequence.is_before(sequence)));
    }
    // Replacement characters for what is no text may be more bytes than a name can have.
    if entries.iter().any(|(place, _)| place.topic.len() > i16::MAX as usize || place.topic.contains(char::REPLACEMENT_CHARACTER)) {
        return;
    }
    let written = produce::body(entries.iter().cloned(), front.acks, front.timeout_ms, version);
    assert_eq!(front.acks.to_be_bytes(), body[front.acks_at..front.acks_at + 2]);
    let acks_at = match version {
        ..3 => 0,
        3..9 => 2,
        9.. => 1,
    };
    assert_eq!(Front::peek(&written, version), Some(Front { is_transactional: false, acks_at, ..front }));
    let mut sorted = entries;
    sorted.sort_by(|(one, _), (other, _)| one.topic.cmp(&other.topic));
    assert_eq!(produce::entries(&written, version), Some(sorted));
}

/// What comes in front of a connection from a load balancer, read as the proxy does: never a byte more than belongs to it.
pub(crate) fn proxy_header(bytes: &[u8]) {
    let mut taken = 0;
    let read = loop {
        match ProxyHeader::peek(&bytes[..taken]) {
            Ok(ProxyHeader::Needs(0)) => panic!("it needs nothing, and is not whole"),
            Ok(ProxyHeader::Needs(more)) if taken + more <= bytes.len() => taken += more,
            certain => break certain,
        }
    };
    assert!(taken <= LONGEST);
    // What is behind it changes nothing, and what is certain is so from the first byte on that says it.
    let whole = ProxyHeader::peek(bytes);
    match (read, whole) {
        (Ok(ProxyHeader::Needs(more)), _) => assert!(taken + more > bytes.len()),
        (read, whole) => assert_eq!(read, whole, "after {taken} of {} bytes", bytes.len()),
    }
    for cut in 0..taken.min(300) {
        match ProxyHeader::peek(&bytes[..cut]) {
            Ok(ProxyHeader::Needs(more)) => assert!(read.is_err() || matches!(read, Ok(ProxyHeader::Needs(_))) || cut + more <= taken),
            certain => assert_eq!(certain, whole, "after {cut} of {} bytes", bytes.len()),
        }
    }
}

/// Frames, in whatever pieces they arrive. The input's first byte says in which.
pub(crate) fn frame(bytes: &[u8]) {
    let Some((pieces, bytes)) = bytes.split_first() else { return };
    let mut reader = Pieces { bytes, next: usize::from(*pieces) };
    let mut buf = BytesMut::new();
    let mut rest = bytes;
    loop {
        let read = now(read_frame(&mut reader, LIMIT, &mut buf));
        // It reserves ahead of what has arrived, but never because of a size.
        assert!(buf.capacity() <= 2 * bytes.len() + 256 * 1024, "{} bytes for {}", buf.capacity(), bytes.len());
        match (read, frame::size(rest, LIMIT)) {
            (Ok(frame), Ok(Some(size))) => {
                assert_eq!(frame, rest[SIZE_LEN..SIZE_LEN + size]);
                rest = &rest[SIZE_LEN + size..];
            }
            (Err(FrameError::Size { size, .. }), Err(FrameError::Size { size: told, .. })) => return assert_eq!(size, told),
            (Err(FrameError::Closed), Ok(None)) => return assert!(rest.is_empty()),
            (Err(FrameError::Cut { .. }), Ok(None)) => return assert!(!rest.is_empty()),
            (Err(FrameError::Cut { got, size }), Ok(Some(told))) => return assert_eq!((got, size), (rest.len() - SIZE_LEN, told)),
            (read, size) => panic!("{read:?}, though the size is {size:?}"),
        }
    }
}

/// Any text as `routes.toml`: a file is taken or refused, each error with its place.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let path = Path::new("routes.toml");
    match Config::parse(text, path) {
        Ok(config) => {
            let _ = config.route("orders-1", IpAddr::from([10, 1, 2, 3]), Some("CN=orders"));
            // What is for proxies needs both listeners and routes; a file for mirrors alone has neither.
            assert!(!config.clusters.is_empty() && config.listeners.is_empty() == config.routes.is_empty());
            assert!(!config.routes.is_empty() || !config.mirrors.is_empty());
            for mirror in &config.mirrors {
                assert_ne!(mirror.source.name, mirror.target.name);
            }
            let _ = diagnostic::render(path, text, Severity::Warning, &config.warnings, false);
        }
        Err(invalid) => assert!(invalid.to_string().contains("routes.toml:")),
    }
}

/// What a broker answers to all that `kferry check --connect` asks: first until kferry has logged in, then of its cluster. The input's first byte
/// picks the security, then each answer is a length of two bytes and a body; size and `correlation_id` are put in front, or nothing behind them
/// would ever be read.
pub(crate) fn broker_answers(bytes: &[u8]) {
    thread_local! {
        static LOOPBACK: (Runtime, TcpListener) = {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
            let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("the loopback has a free port");
            (runtime, listener)
        };
    }
    let Some((security, answers)) = bytes.split_first() else { return };
    let security = match security {
        0 => None,
        n => Some(SaslMechanism::ALL[usize::from(*n) % SaslMechanism::ALL.len()]),
    };
    let sasl = security
        .map(|mechanism| Some(Sasl::Password { mechanism, username: "kferry".to_owned(), password: Secret::Literal("secret".to_owned()) }));
    let security = Security { tls: None, sasl };
    LOOPBACK.with(|(runtime, listener)| {
        runtime.block_on(async {
            let address = listener.local_addr().expect("it is bound");
            let broker = HostPort { host: address.ip().to_string(), port: address.port() };
            let options = ConnectOptions { connect_timeout: Duration::from_secs(10), ..ConnectOptions::default() };
            let answering = async {
                if let Ok((client, _)) = listener.accept().await {
                    answer(client, answers).await;
                }
            };
            let asking = async {
                // Dropped as soon as it has asked: the broker waits for its end.
                match Connection::connect(&broker, &security, &options).await {
                    Ok(connection) => ClusterInfo::ask(&connection).await.map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                }
            };
            match tokio::join!(asking, answering).0 {
                Ok(info) => {
                    assert!(info.brokers.is_sorted_by_key(|broker| broker.node_id) && info.controller.is_none_or(|node_id| node_id >= 0));
                    // Each broker has its bytes: node_id, the host's length, port, the rack's length.
                    assert!(info.brokers.len() <= bytes.len() / 12);
                }
                Err(error) => assert!(!error.is_empty()),
            }
        });
    });
}

/// The body of a message that a relayed client or its broker sends, of which something is rewritten. The input's first byte is the
/// api_key, with the highest bit for an answer, the second its version.
pub(crate) fn rewrite(bytes: &[u8]) {
    let [key, version, body @ ..] = bytes else { return };
    let Some(schema) = Schema::of(*key, *version) else { return };
    let walk = |body: &[u8]| schema.rewrite(body, &mut Shifted);
    let Ok(rewritten) = walk(body) else { return };
    if let Some(rewritten) = &rewritten {
        // What `Shifted` adds, and a vector's growth.
        assert!(rewritten.capacity() <= 6 * body.len() + 256, "{} bytes for {}", rewritten.capacity(), body.len());
        // It is a message still, unless a node id has run out of numbers.
        assert!(!matches!(walk(rewritten), Err(RewriteError::Broken(_))), "{rewritten:?}");
    }
    // Whatever is behind a message stays behind it.
    let longer = [body, b"more"].concat();
    let walked = walk(&longer).expect("it is as well formed as before").unwrap_or(longer);
    assert_eq!(walked, [rewritten.as_deref().unwrap_or(body), b"more"].concat());
}

/// The same, in pieces: what comes out, and what is asked on the way, is what it is for a body that is there as a whole. The third byte of the input
/// says in which pieces.
pub(crate) fn walk(bytes: &[u8]) {
    let [key, version, pieces, body @ ..] = bytes else { return };
    let Some(schema) = Schema::of(*key, *version) else { return };
    let mut asked_at_once = Heard::default();
    let at_once = schema.rewrite(body, &mut asked_at_once).map(|rewritten| rewritten.unwrap_or_else(|| body.to_vec()));

    let mut asked = Heard::default();
    let in_pieces = schema.in_pieces(body, *pieces, &mut asked);
    assert_eq!(in_pieces, at_once);
    assert_eq!(asked.0, asked_at_once.0);

    let mut straight = Straight { schema, rest: body, name: "" };
    match (straight.fields(schema.fields), at_once) {
        // Not all of it was read.
        (_, Err(RewriteError::TooLong(_))) => assert!(body.len() > MAX_TEXT),
        (_, Err(RewriteError::Unmapped(_))) | (Some(()), Ok(_)) => {}
        (None, Err(RewriteError::Broken(name))) => assert_eq!(straight.name, name),
        (straight, walked) => panic!("{walked:?}, though the straight way says {straight:?}"),
    }
}

/// The body of a request that a view of two clusters answers or refuses. The input's first byte is the api_key, the second its version.
pub(crate) fn view(bytes: &[u8]) {
    let [key, version, body @ ..] = bytes else { return };
    if let Some(len) = kferry_proxy::fuzzing::view_request(i16::from(*key), *version, body) {
        // What is shown of a topic, and why one is refused, has some hundred bytes. The shortest name has one.
        assert!(len <= 512 * body.len() + 4096, "{len} bytes for {}", body.len());
    }
}

/// The front of a batch on its way to a topic in some term, which is the input's first byte: nothing changes but the producer id, and the CRC by as much. So what was
/// intact is intact, and what was damaged is so by the same bits.
pub(crate) fn stamp(bytes: &[u8]) {
    let Some((term, records)) = bytes.split_first() else { return };
    let Some((front, rest)) = records.split_first_chunk::<{ Sequence::FRONT }>() else { return };
    let (term, mut stamped) = (i32::from(*term), *front);
    let changed = stamp::stamp(&mut stamped, term);
    assert_eq!(changed, stamped != *front);
    if !changed {
        return;
    }
    let [before, after] = [front, &stamped].map(|front| Sequence::peek(front).expect("only an idempotent producer's is stamped"));
    assert_eq!(Some(after.producer_id), stamp::stamped(before.producer_id, term));
    assert_eq!(stamp::unstamped(after.producer_id), Some((before.producer_id, term)));
    assert_eq!(Sequence { producer_id: before.producer_id, ..after }, before);
    let damage = |records: Bytes| match batch::split(records).next()?.ok()?.check() {
        Ok(()) => Some(0),
        Err(BatchError::Checksum { stored, computed, .. }) => Some(stored ^ computed),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(damage([&stamped[..], rest].concat().into()), damage(Bytes::copy_from_slice(records)));
}

/// What a Fetch answer has for a partition: batches and messages of any age.
pub(crate) fn batch(bytes: &[u8]) {
    let sequence = Sequence { producer_id: 1 << 62, producer_epoch: 0, base_sequence: 7 };
    for entry in batch::split(Bytes::copy_from_slice(bytes)) {
        let Ok(entry) = entry else { return };
        let _ = entry.check();
        let records = entry.records(LIMIT);
        if let Entry::Batch(batch) = &entry {
            let _ = batch.marker();
            let mut out = BytesMut::new();
            batch.rewrite(sequence, &mut out);
            let copy = only(out.freeze());
            assert_eq!((copy.check(), copy.bytes().len()), (Ok(()), batch.len()));
            // Those that cannot be read may be so for their offsets alone.
            if let Ok(records) = &records {
                assert_eq!(copy.records(LIMIT).expect("the payload is the same"), shifted(records, batch.base_offset()));
            }
        }
        let Ok(records) = records else { continue };
        if let Ok(written) = batch::encode(&records, Codec::Lz4, sequence) {
            let copy = only(written);
            assert_eq!(copy.check(), Ok(()));
            assert_eq!(copy.records(usize::MAX).expect("we wrote it"), shifted(&records, records[0].offset));
        }
    }
}

/// `records` at the beginning of a log.
fn shifted(records: &[Record], base_offset: i64) -> Vec<Record> {
    records.iter().map(|record| Record { offset: record.offset - base_offset, ..record.clone() }).collect()
}

fn only(bytes: Bytes) -> Entry {
    let mut entries = batch::split(bytes);
    let entry = entries.next().expect("it is whole").expect("it is one of ours");
    assert!(entries.next().is_none());
    entry
}

/// How a message is read.
#[derive(Debug, Clone, Copy)]
struct Schema {
    fields: &'static [Field],
    version: i16,
    flexible: bool,
}

impl Schema {
    /// Of an api_key, with the highest bit for an answer, and any number as its version.
    fn of(key: u8, version: u8) -> Option<Self> {
        let api = Api::of(i16::from(key & 0x7f))?;
        let (min, max) = api.versions()?;
        let version = min + i16::from(version % 32) % (max - min + 1);
        let fields = match (key, key & 0x80) {
            // Those that stream are in no row.
            (0x00, _) => PRODUCE_REQUEST,
            (0x81, _) => FETCH_RESPONSE,
            (_, 0) => api.request,
            _ => api.response,
        };
        Some(Self { fields, version, flexible: api.is_flexible(version) })
    }

    fn rewrite(self, body: &[u8], by: &mut impl Rewrite) -> Result<Option<Vec<u8>>, RewriteError> {
        api::rewrite(self.fields, self.version, self.flexible, body, by)
    }

    fn in_pieces(self, body: &[u8], pieces: u8, by: &mut impl Rewrite) -> Result<Vec<u8>, RewriteError> {
        let mut walk = Walk::new(self.fields, self.version, self.flexible, body.len());
        let mut next = usize::from(pieces);
        let (mut told, mut arrived, mut out) = (0, 0, Vec::new());
        loop {
            match walk.step(&body[told..arrived], by)? {
                Step::Need(len) => {
                    // It waits for what it can use, and never for what cannot come.
                    assert!(told + len > arrived && told + len <= body.len(), "{len} bytes from {told} on");
                    arrived = (arrived + 1 + next).min(body.len());
                    next = next * 31 % 4093;
                }
                Step::Pass(len) | Step::Records(len) => {
                    out.extend_from_slice(&body[told..told + len]);
                    told += len;
                    arrived = arrived.max(told);
                }
                Step::Replace { len, with } => {
                    assert!(told + len <= arrived, "{len} bytes from {told} on");
                    out.extend_from_slice(with);
                    told += len;
                }
                Step::End => {
                    assert_eq!(told, body.len());
                    return Ok(out);
                }
            }
        }
    }
}

/// The straight way through a message that is all there: no state, nothing rewritten. `None` is a message that breaks off, at the field `name`.
struct Straight<'a> {
    schema: Schema,
    rest: &'a [u8],
    name: &'static str,
}

impl<'a> Straight<'a> {
    fn fields(&mut self, fields: &'static [Field]) -> Option<()> {
        let version = self.schema.version;
        for field in fields.iter().filter(|field| field.is_in(version)) {
            self.name = field.name;
            match field.kind {
                Kind::Fixed(len) => _ = self.take(len)?,
                Kind::NodeId | Kind::LeaderEpoch | Kind::Partition => _ = self.take(4)?,
                Kind::PartitionError => _ = self.take(2)?,
                Kind::ProducerId => _ = self.take(8)?,
                Kind::TopicId => _ = self.take(16)?,
                Kind::Text | Kind::ConfigName | Kind::ConfigValue | Kind::ErrorMessage | Kind::TopicName | Kind::GroupId => {
                    self.text()?;
                }
                Kind::ClusterId => _ = str::from_utf8(self.text()?).ok()?,
                Kind::Resource => _ = (self.take(1)?, self.text()?),
                Kind::Address => _ = (str::from_utf8(self.text()?).ok()?, self.take(4)?),
                Kind::NameAndTopicId => _ = (str::from_utf8(self.text()?).ok()?, self.take(16)?),
                Kind::TopicIdAndName => _ = (self.take(16)?, str::from_utf8(self.text()?).ok()?),
                Kind::Records => {
                    let len = self.len()?;
                    self.take(len)?;
                }
                Kind::FixedArray(each) => {
                    let len = self.len()?.checked_mul(each)?;
                    self.take(len)?;
                }
                Kind::ReplicaIds | Kind::Partitions => {
                    let len = self.len()?.checked_mul(4)?;
                    self.take(len)?;
                }
                Kind::TextArray | Kind::GroupIds => {
                    for _ in 0..self.len()? {
                        self.text()?;
                    }
                }
                Kind::Array(fields) => {
                    for _ in 0..self.len()? {
                        self.structure(field.name, fields)?;
                    }
                }
                Kind::Structure(fields) => self.structure(field.name, fields)?,
                Kind::NullableStructure(fields) => {
                    if self.take(1)?[0] < 0x80 {
                        self.structure(field.name, fields)?;
                    }
                }
            }
        }
        Some(())
    }

    fn structure(&mut self, name: &'static str, fields: &'static [Field]) -> Option<()> {
        self.fields(fields)?;
        self.name = name;
        if self.schema.flexible {
            for _ in 0..self.uvarint()? {
                self.uvarint()?;
                let len = self.uvarint()?;
                self.take(len)?;
            }
        }
        Some(())
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let len = if self.schema.flexible {
            self.uvarint()?.saturating_sub(1)
        } else {
            let len = i16::from_be_bytes(self.take(2)?.try_into().ok()?);
            len.try_into().unwrap_or(0)
        };
        self.take(len)
    }

    /// Of an array or of records: 0 for null, which is any negative length.
    fn len(&mut self) -> Option<usize> {
        let len = if self.schema.flexible {
            self.uvarint()?.saturating_sub(1)
        } else {
            let len = i32::from_be_bytes(self.take(4)?.try_into().ok()?);
            len.try_into().unwrap_or(0)
        };
        // Every element has a byte.
        (len <= self.rest.len()).then_some(len)
    }

    fn uvarint(&mut self) -> Option<usize> {
        let len = 1 + self.rest.iter().take(5).position(|byte| byte & 0x80 == 0)?;
        let bytes = self.take(len)?;
        Some(bytes.iter().rev().fold(0u32, |value, byte| value << 7 | u32::from(byte & 0x7f)) as usize)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }
}

/// [`Shifted`], and all that it was asked.
#[derive(Default)]
struct Heard(Vec<String>);

impl Rewrite for Heard {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        self.0.push(format!("node {node_id}"));
        Shifted.node_id(node_id)
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        self.0.push(format!("replica {node_id}"));
        Shifted.replica_id(node_id)
    }

    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        self.0.push(format!("node {node_id} at {host}:{port}"));
        Shifted.address(node_id, host, port)
    }

    fn error_message(&mut self, message: &str) -> Option<String> {
        self.0.push(format!("message {message}"));
        Shifted.error_message(message)
    }

    fn cluster_id(&mut self, cluster_id: &str) -> String {
        self.0.push(format!("cluster {cluster_id}"));
        Shifted.cluster_id(cluster_id)
    }

    fn producer_id(&mut self, producer_id: i64) -> i64 {
        self.0.push(format!("producer {producer_id}"));
        Shifted.producer_id(producer_id)
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        self.0.push(format!("topic {topic_id}"));
        Shifted.topic_id(topic_id)
    }

    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        self.0.push(format!("topic {topic_id}, {name:?}"));
        Shifted.named_topic_id(topic_id, name)
    }
}

/// A world in which nothing is the same.
struct Shifted;

impl Rewrite for Shifted {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        node_id.checked_add(1000).ok_or(Unmapped(node_id))
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        node_id.saturating_add(1000)
    }

    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        assert!(node_id >= 0);
        Ok((format!("broker-{node_id}"), (host.len() as i32 ^ port) as u16))
    }

    fn error_message(&mut self, message: &str) -> Option<String> {
        (!message.is_empty()).then(|| message.to_ascii_uppercase())
    }

    fn cluster_id(&mut self, cluster_id: &str) -> String {
        format!("{}", cluster_id.len())
    }

    fn producer_id(&mut self, producer_id: i64) -> i64 {
        producer_id | 1 << 40
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        assert!(!topic_id.is_nil());
        Uuid::from_u128(!topic_id.as_u128())
    }

    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        assert!(!topic_id.is_nil());
        Uuid::from_u128(name.map_or(0, |name| name.len() as u128))
    }
}

/// A broker that answers each request with the next of `answers`, and then closes.
async fn answer(mut client: TcpStream, mut answers: &[u8]) {
    while let Ok(size) = client.read_u32().await {
        let mut request = vec![0; size as usize];
        if client.read_exact(&mut request).await.is_err() {
            return;
        }
        let Some((len, rest)) = answers.split_first_chunk() else { return };
        let (body, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
        answers = rest;
        let frame = [&(SIZE_LEN as u32 + body.len() as u32).to_be_bytes(), &request[4..8], body].concat();
        if client.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Gives its bytes in pieces of many sizes.
struct Pieces<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let len = (1 + self.next).min(self.bytes.len()).min(buf.remaining());
        self.next = self.next * 31 % 4093;
        let (piece, rest) = self.bytes.split_at(len);
        buf.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}

/// The result of a future that has nothing to wait for.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => panic!("bytes in memory are there at once"),
    }
}

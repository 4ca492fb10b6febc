//! The header in front of every request, and the few things that are read from a first request.
//!
//! A stranger sent it: it is read by the cursor of `reader`, and nothing is allocated.
//!
//! # References
//! - `RequestHeader.json` in Kafka: v1 is `api_key, api_version, correlation_id, client_id`; v2 adds tagged fields; `client_id` is never compact
//! - `ApiVersionsRequest.json`: `client_software_name` and `client_software_version` from v3 on (KIP-511)

use std::borrow::Cow;
use std::fmt;

use bytes::BytesMut;
use kafka_protocol::messages::{self, ApiKey};
use kafka_protocol::protocol::{Encodable as _, StrBytes};

use crate::frame::{self, FrameError, SIZE_LEN};
use crate::reader::{Malformed, Reader};

/// The fixed front of a request, without the size of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub api_version: i16,
    /// Comes back in the answer.
    pub correlation_id: i32,
    /// What the application is configured with, up to 32,767 bytes, UTF-8 or not. `None` where it has none.
    pub client_id: Option<&'a [u8]>,
    /// Bytes up to and with the `client_id`; header v2's tagged fields follow.
    pub len: usize,
}

/// Fewer bytes than a request header needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the frame ends inside the request header")]
pub struct ShortHeader;

impl<'a> RequestHeader<'a> {
    /// Reads the header at the front of a frame's body.
    ///
    /// # Errors
    /// [`ShortHeader`]; more bytes help only if the frame has more.
    pub fn peek(body: &'a [u8]) -> Result<Self, ShortHeader> {
        let mut reader = Reader::new(body);
        let mut read = || {
            let (api_key, api_version, correlation_id) = (reader.i16()?, reader.i16()?, reader.i32()?);
            let client_id = reader.nullable_string_bytes()?;
            Ok(Self { api_key, api_version, correlation_id, client_id, len: body.len() - reader.rest().len() })
        };
        read().map_err(|_: Malformed| ShortHeader)
    }

    /// The `client.id` as brokers see it: empty where there is none, U+FFFD for what is not UTF-8.
    pub fn client_id(&self) -> Cow<'a, str> {
        String::from_utf8_lossy(self.client_id.unwrap_or_default())
    }

    /// The API's name as Kafka's documentation writes it, or `None` for a key that this version of kferry has never heard of.
    pub fn api(&self) -> Option<ApiKey> {
        ApiKey::try_from(self.api_key).ok()
    }
}

/// What a client says it is (KIP-511), such as `apache-kafka-java` `4.3.0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Software<'a> {
    /// `client_software_name`
    pub name: &'a str,
    /// `client_software_version`
    pub version: &'a str,
}

impl<'a> Software<'a> {
    /// Reads it from the body of a frame with an ApiVersions request; `None` from any other request, from versions below 3, and from one that
    /// breaks off.
    pub fn peek(body: &'a [u8]) -> Option<Self> {
        let header = RequestHeader::peek(body).ok()?;
        if header.api_key != ApiKey::ApiVersions as i16 || header.api_version < 3 {
            return None;
        }
        let mut reader = Reader::new(&body[header.len..]);
        reader.skip_tagged_fields().ok()?;
        Some(Self { name: reader.compact_string().ok()?, version: reader.compact_string().ok()? })
    }

    /// Whether a client of this software may stay with its brokers when all of them are dead and its `bootstrap.servers` lead to another cluster.
    ///
    /// From 2.4.0 on, and before 2.10.0, librdkafka keeps a partition's leader for as long as what it is told has a lower leader epoch than what
    /// it knows, and never forgets the epoch. Seen with 2.4 to 2.6, and now and then with 2.8, where both clusters share node ids.
    ///
    /// # References
    /// - `rd_kafka_toppar_leader_update` in librdkafka's `src/rdkafka_topic.c`: "ignoring outdated metadata update with leader epoch". Since its pull
    ///   request 4680 (2.4.0) always; before, only while it fetches.
    /// - `rd_kafka_toppar_forget_leader`, since its pull request 4557 (2.10.0): the epoch goes with a broker that is not in the metadata any more.
    pub fn stays_with_dead_brokers(self) -> bool {
        let librdkafka = if let Some((_, version)) = self.version.rsplit_once("rdkafka-") {
            // confluent-kafka-python says `2.6.1-rdkafka-2.6.1`.
            version
        } else if self.name == "librdkafka" || self.name.starts_with("confluent-kafka-") {
            self.version
        } else {
            return false;
        };
        let mut numbers = librdkafka.trim_start_matches('v').split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        matches!((numbers.next(), numbers.next()), (Some(2), Some(4..10)))
    }
}

/// What bytes look like that are no Kafka request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotKafka {
    /// A verb of HTTP.
    Http,
    /// A TLS record: the client expects TLS where there is none.
    Tls,
    /// The first line of the PROXY protocol, which tells of a client's address.
    Proxy,
    /// An SSH client.
    Ssh,
    /// A PostgreSQL client that asks for TLS.
    Postgres,
    /// A body that breaks off.
    Body(ApiKey),
    /// A frame of an impossible size.
    FrameSize(i32),
    /// A frame too short for a request header.
    ShortFrame(usize),
    /// An `api_key` that does not exist.
    ApiKey(i16),
    /// A header that does not end.
    Header,
}

impl fmt::Display for NotKafka {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http => f.write_str("an HTTP request; this port speaks Kafka, metrics and health are on the [admin] address"),
            Self::Tls => f.write_str(
                "a TLS handshake on a plaintext listener; set the client's security.protocol to PLAINTEXT or the listener's to SSL",
            ),
            Self::Proxy => f.write_str(
                "a PROXY protocol header, which this listener does not expect: name the load balancer in its proxy_protocol_from, or turn \
                 send-proxy or proxy_protocol off there",
            ),
            Self::Ssh => f.write_str("an SSH client; this port speaks Kafka"),
            Self::Postgres => f.write_str("a PostgreSQL client; this port speaks Kafka"),
            Self::Body(api) => write!(f, "no Kafka request: the body of its {api:?} breaks off"),
            Self::FrameSize(size) => write!(f, "no Kafka request: its frame would have {size} bytes"),
            Self::ShortFrame(size) => write!(f, "no Kafka request: a frame of {size} bytes is too short for a request header"),
            Self::ApiKey(key) => write!(f, "no Kafka request: there is no API with the key {key}"),
            Self::Header => f.write_str("no Kafka request: its header does not end"),
        }
    }
}

/// The beginning of a connection, as far as it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstRequest<'a> {
    /// More bytes are needed.
    Incomplete,
    /// The header is there.
    Header {
        /// The header.
        header: RequestHeader<'a>,
        /// Bytes of the whole frame with its size; perhaps more than have arrived.
        frame_len: usize,
    },
}

impl<'a> FirstRequest<'a> {
    /// Looks at the first bytes of a connection, size included. `limit` is the largest frame that is allowed.
    ///
    /// # Errors
    /// [`NotKafka`] as soon as it is certain: garbage is not waited for.
    pub fn peek(bytes: &'a [u8], limit: usize) -> Result<Self, NotKafka> {
        // Before the size: four letters of HTTP read as a size of a gigabyte, a TLS record as one of 352 MiB.
        const HTTP: [&[u8; 4]; 10] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"CONN", b"PATC", b"TRAC", b"PRI "];
        // Versions 1 and 2 of <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>.
        const PROXY: [&[u8; 4]; 2] = [b"PROX", b"\r\n\r\n"];
        // `SSLRequest`: a frame of 8 bytes, and 1234 where Kafka has an API.
        const POSTGRES: &[u8; 6] = &[0, 0, 0, 8, 4, 210];
        let is_one_of = |fronts: &[&[u8; 4]]| fronts.iter().any(|front| bytes.starts_with(*front));
        if is_one_of(&HTTP) {
            return Err(NotKafka::Http);
        }
        if is_one_of(&PROXY) {
            return Err(NotKafka::Proxy);
        }
        if is_one_of(&[b"SSH-"]) {
            return Err(NotKafka::Ssh);
        }
        if bytes.starts_with(POSTGRES) {
            return Err(NotKafka::Postgres);
        }
        if bytes.starts_with(&[0x16, 0x03]) {
            return Err(NotKafka::Tls);
        }
        let size = match frame::size(bytes, limit) {
            Ok(None) => return Ok(Self::Incomplete),
            Ok(Some(size)) => size,
            Err(FrameError::Size { size, .. }) => return Err(NotKafka::FrameSize(size)),
            Err(_) => unreachable!("a size that is there is right or wrong"),
        };
        let body = &bytes[SIZE_LEN..bytes.len().min(SIZE_LEN + size)];
        if let Some(key) = body.first_chunk().map(|key| i16::from_be_bytes(*key))
            && ApiKey::try_from(key).is_err()
        {
            return Err(NotKafka::ApiKey(key));
        }
        match RequestHeader::peek(body) {
            Ok(header) => Ok(Self::Header { header, frame_len: SIZE_LEN + size }),
            Err(ShortHeader) if body.len() == size => Err(NotKafka::ShortFrame(size)),
            Err(ShortHeader) => Ok(Self::Incomplete),
        }
    }
}

/// Checks the body of a whole first request that may be asked of several servers: brokers close a connection on which it breaks off, and
/// that would look as if each of them was down. `body` is the frame without its size.
///
/// # Errors
/// [`NotKafka::Body`]: it breaks off.
pub fn check_question(body: &[u8]) -> Result<(), NotKafka> {
    let Ok(header) = RequestHeader::peek(body) else { return Err(NotKafka::Header) };
    let Some(api) = header.api() else { return Err(NotKafka::ApiKey(header.api_key)) };
    let version = header.api_version;
    let mut reader = Reader::new(&body[header.len..]);
    let mut read = || match api {
        ApiKey::ApiVersions if version >= 3 => {
            reader.skip_tagged_fields()?;
            reader.compact_string_bytes()?;
            reader.compact_string_bytes()?;
            reader.skip_tagged_fields()
        }
        ApiKey::SaslHandshake => reader.nullable_string_bytes().map(drop),
        ApiKey::Metadata if version <= METADATA => topics_of_metadata(&mut reader, version),
        _ => Ok(()),
    };
    read().map_err(|_| NotKafka::Body(api))
}

/// The newest version of Metadata whose request is known here.
const METADATA: i16 = 13;

/// `MetadataRequest.json`
fn topics_of_metadata(reader: &mut Reader<'_>, version: i16) -> Result<(), Malformed> {
    let is_flexible = version >= 9;
    if is_flexible {
        reader.skip_tagged_fields()?;
    }
    let topics = if is_flexible { i64::from(reader.uvarint()?) - 1 } else { i64::from(reader.i32()?) };
    // Each takes at least a byte, so a count that is a lie ends with the body.
    for _ in 0..topics {
        match version {
            10.. => {
                reader.take(16)?;
                let len = reader.uvarint()?.saturating_sub(1);
                reader.take(len as usize)?;
            }
            9 => drop(reader.compact_string_bytes()?),
            _ => drop(reader.nullable_string_bytes()?),
        }
        if is_flexible {
            reader.skip_tagged_fields()?;
        }
    }
    reader.take(match version {
        ..4 => 0,
        4..8 => 1,
        8..11 => 3,
        11.. => 2,
    })?;
    if is_flexible { reader.skip_tagged_fields() } else { Ok(()) }
}

/// What comes before the body of a request, which has so many bytes: the frame's size, and the header.
///
/// # Errors
/// Why it cannot be written.
pub fn front(api: ApiKey, version: i16, correlation_id: i32, client_id: &StrBytes, body: usize) -> Result<BytesMut, String> {
    let header = messages::RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()));
    let mut front = BytesMut::zeroed(SIZE_LEN);
    header.encode(&mut front, api.request_header_version(version)).map_err(|error| error.to_string())?;
    let size = i32::try_from(front.len() - SIZE_LEN + body).map_err(|_| "it is larger than 2 GiB".to_owned())?;
    front[..SIZE_LEN].copy_from_slice(&size.to_be_bytes());
    Ok(front)
}

/// Where the body begins in a frame without its size: behind `header_len` bytes and, in a flexible version, tagged fields. Serves requests and
/// answers. `None`: `frame` breaks off before.
pub fn body_at(frame: &[u8], header_len: usize, flexible: bool) -> Option<usize> {
    let mut reader = Reader::new(frame.get(header_len..)?);
    if flexible {
        reader.skip_tagged_fields().ok()?;
    }
    Some(frame.len() - reader.rest().len())
}

/// Whether an InitProducerId request comes from a producer that is only idempotent: its `transactional_id`, the first field, is null. `None`: the
/// body breaks off before.
pub fn is_idempotent(body: &[u8], version: i16) -> Option<bool> {
    let mut reader = Reader::new(body);
    match version {
        ..2 => Some(reader.i16().ok()? == -1),
        2.. => Some(reader.uvarint().ok()? == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ApiVersionsRequest, RequestHeader as Header};
    use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    fn api_versions(version: i16, client_id: Option<&str>) -> Vec<u8> {
        let header = Header::default()
            .with_request_api_key(18)
            .with_request_api_version(version)
            .with_correlation_id(7)
            .with_client_id(client_id.map(|id| StrBytes::from_string(id.to_owned())));
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("librdkafka"))
            .with_client_software_version(StrBytes::from_static_str("2.16.0"));
        let mut body = Vec::new();
        header.encode(&mut body, ApiVersionsRequest::header_version(version)).unwrap();
        request.encode(&mut body, version).unwrap();
        let mut frame = (body.len() as i32).to_be_bytes().to_vec();
        frame.append(&mut body);
        frame
    }

    #[test]
    fn a_question_that_breaks_off_is_seen_wherever_it_does() {
        use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
        use kafka_protocol::messages::{MetadataRequest, SaslHandshakeRequest, TopicName};

        fn encoded<R: Encodable + HeaderVersion>(api: ApiKey, version: i16, request: &R) -> Vec<u8> {
            let header = Header::default().with_request_api_key(api as i16).with_request_api_version(version);
            let mut body = Vec::new();
            header.encode(&mut body, R::header_version(version)).unwrap();
            request.encode(&mut body, version).unwrap();
            body
        }

        let topic = || MetadataRequestTopic::default().with_name(Some(TopicName(StrBytes::from_static_str("orders"))));
        let metadata = MetadataRequest::default().with_topics(Some(vec![topic(), topic()]));
        let handshake = SaslHandshakeRequest::default().with_mechanism(StrBytes::from_static_str("PLAIN"));
        let mut questions: Vec<_> =
            (0..=METADATA).map(|version| (ApiKey::Metadata, encoded(ApiKey::Metadata, version, &metadata))).collect();
        questions.push((ApiKey::Metadata, encoded(ApiKey::Metadata, 4, &MetadataRequest::default().with_topics(None))));
        questions.extend((3..=4).map(|version| (ApiKey::ApiVersions, api_versions(version, Some("c"))[SIZE_LEN..].to_vec())));
        questions.extend((0..=1).map(|version| (ApiKey::SaslHandshake, encoded(ApiKey::SaslHandshake, version, &handshake))));
        for (api, body) in questions {
            assert_eq!(check_question(&body), Ok(()), "{api:?} {body:?}");
            let front = RequestHeader::peek(&body).unwrap().len;
            for end in front..body.len() {
                assert_eq!(check_question(&body[..end]), Err(NotKafka::Body(api)), "{api:?} {end} of {body:?}");
            }
        }
        assert_eq!(check_question(&api_versions(2, None)[SIZE_LEN..]), Ok(()), "it has no body");
    }

    #[test]
    fn librdkafka_before_2_10_may_stay_with_dead_brokers() {
        let stays = |name, version| Software { name, version }.stays_with_dead_brokers();
        for (name, version) in [
            ("librdkafka", "2.4.0"),
            ("librdkafka", "2.6.1"),
            ("librdkafka", "2.8.0-RC1"),
            ("confluent-kafka-python", "2.6.1-rdkafka-2.6.1"),
            ("confluent-kafka-go", "v2.5.3"),
            ("confluent-kafka-dotnet", "2.5.0"),
            ("confluent-kafka-javascript", "v1.0.0-librdkafka-2.6.1"),
        ] {
            assert!(stays(name, version), "{name} {version}");
        }
        for (name, version) in [
            ("librdkafka", "2.3.0"),
            ("librdkafka", "2.10.0"),
            ("librdkafka", "1.9.2"),
            ("librdkafka", ""),
            ("confluent-kafka-python", "2.11.1-rdkafka-2.11.1"),
            ("confluent-kafka-python", "2.6.0-rdkafka-2.10.1"),
            ("apache-kafka-java", "2.6.1"),
            ("kgo", "2.5"),
        ] {
            assert!(!stays(name, version), "{name} {version}");
        }
    }

    #[test]
    fn a_header_and_the_software_are_read_as_kafka_writes_them() {
        for version in 0..=4 {
            for client_id in [None, Some(""), Some("orders-1"), Some("주문")] {
                let frame = api_versions(version, client_id);
                let FirstRequest::Header { header, frame_len } = FirstRequest::peek(&frame, LIMIT).unwrap() else { panic!() };
                assert_eq!(
                    (header.api_key, header.api_version, header.correlation_id, header.client_id),
                    (18, version, 7, client_id.map(str::as_bytes))
                );
                assert_eq!(frame_len, frame.len());
                let software = Software::peek(&frame[SIZE_LEN..]).map(|software| (software.name, software.version));
                assert_eq!(software, (version >= 3).then_some(("librdkafka", "2.16.0")));
            }
        }
    }

    #[test]
    fn every_beginning_of_a_request_is_incomplete_and_no_error() {
        let frame = api_versions(3, Some("orders-1"));
        for end in 0..SIZE_LEN + 10 + "orders-1".len() {
            assert_eq!(FirstRequest::peek(&frame[..end], LIMIT), Ok(FirstRequest::Incomplete), "{end}");
        }
    }

    #[test]
    fn what_is_no_kafka_is_told_apart() {
        let peek = |bytes: &[u8]| FirstRequest::peek(bytes, LIMIT).unwrap_err();
        assert_eq!(peek(b"GET / HTTP/1.1\r\n"), NotKafka::Http);
        assert_eq!(peek(&[0x16, 0x03, 0x01]), NotKafka::Tls);
        assert_eq!(peek(&[0x7f, 0xff, 0xff, 0xff]), NotKafka::FrameSize(i32::MAX));
        assert_eq!(peek(&[0xff, 0xff, 0xff, 0xff]), NotKafka::FrameSize(-1));
        assert_eq!(peek(&[0, 0, 0, 8, 0, 18, 0, 3, 0, 0, 0, 7]), NotKafka::ShortFrame(8));
        assert_eq!(peek(&[0, 0, 0, 0]), NotKafka::ShortFrame(0));
        assert_eq!(peek(&[0, 0, 0, 20, 0x30, 0x39]), NotKafka::ApiKey(12345));
        assert_eq!(peek(b"PROXY TCP4 10.0.0.1"), NotKafka::Proxy);
        assert_eq!(peek(b"\r\n\r\n\0\r\nQUIT\n"), NotKafka::Proxy);
        assert_eq!(peek(b"SSH-2.0-OpenSSH_9.6\r\n"), NotKafka::Ssh);
        assert_eq!(peek(&[0, 0, 0, 8, 4, 210, 22, 47]), NotKafka::Postgres);
        // Any negative length is null, as brokers read it.
        let null = [0, 0, 0, 10, 0, 18, 0, 3, 0, 0, 0, 7, 0x80, 0];
        let FirstRequest::Header { header, .. } = FirstRequest::peek(&null, LIMIT).unwrap() else { panic!() };
        assert_eq!(header.client_id, None);
    }

    #[test]
    fn a_client_id_that_is_not_utf_8_is_shown_as_brokers_show_it() {
        let bytes = [0, 0, 0, 14, 0, 18, 0, 3, 0, 0, 0, 7, 0, 4, b'a', 0xff, 0xfe, b'z'];
        let FirstRequest::Header { header, .. } = FirstRequest::peek(&bytes, LIMIT).unwrap() else { panic!() };
        assert_eq!(header.client_id(), "a\u{fffd}\u{fffd}z");
    }

    #[test]
    fn idempotence_is_read_as_kafka_writes_it() {
        use kafka_protocol::messages::{InitProducerIdRequest, TransactionalId};
        for id in [None, Some(TransactionalId(StrBytes::from_static_str("billing-1")))] {
            for version in 0..=5 {
                let mut body = Vec::new();
                InitProducerIdRequest::default().with_transactional_id(id.clone()).encode(&mut body, version).unwrap();
                assert_eq!(is_idempotent(&body, version), Some(id.is_none()), "v{version}");
                assert_eq!(is_idempotent(&[], version), None);
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_panic(bytes: Vec<u8>, version in 0i16..20, header_len in 0usize..40) {
            let _ = is_idempotent(&bytes, version);
            let _ = body_at(&bytes, header_len, version % 2 == 0);
            let _ = FirstRequest::peek(&bytes, LIMIT);
            let _ = Software::peek(&bytes);
        }

        #[test]
        fn a_broken_request_does_not_make_the_readers_panic(at in 0usize..60, byte: u8, cut in 0usize..60) {
            let mut frame = api_versions(3, Some("orders-1"));
            let at = at % frame.len();
            frame[at] = byte;
            frame.truncate(cut);
            let _ = FirstRequest::peek(&frame, LIMIT);
            let _ = Software::peek(frame.get(SIZE_LEN..).unwrap_or_default());
        }
    }
}

//! What becomes of a request: a function of the bytes that have arrived and of what the client was told that it may use.
//!
//! | request | goes to the broker | its response |
//! |---|---|---|
//! | ApiVersions; SaslHandshake where the client has no login to do | not at all | is the proxy's own |
//! | Produce where clients see a view | what is for it | what it and others say |
//! | Produce with `acks=0` | as it is | there will be none |
//! | SaslHandshake v0 at the broker, and the messages without a header that follow | as it is | passes |
//! | other Produce | as it is | passes |
//! | InitProducerId of a transactional producer | as it is | passes: the id belongs to its coordinator |
//! | all others | rewritten where the table names fields of the request | rewritten where it names fields of the response |

use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable};
use kferry_wire::api::{self, Api, By, Field, Rewrite, RewriteError};
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{NotKafka, RequestHeader, body_at, is_idempotent};
use kferry_wire::log::produce::Front;
use kferry_wire::security::users::handshake_mechanism;

use super::own_response::{Advertised, ClientSasl, ILLEGAL_SASL_STATE, UNSUPPORTED_SASL_MECHANISM, UNSUPPORTED_VERSION, own_response};
use crate::clients::Client;
use crate::ending::Cause;

/// Bytes that are read of a request before it must be clear what becomes of it: two strings of 32 KiB (`client_id`, `transactional_id`), and some
/// tagged fields.
const HEADER: usize = 128 * 1024;

/// Bytes of the largest frame that the view answers: what is read of it takes many times its bytes.
const ASKED: usize = 4 * 1024 * 1024;

/// Bytes of the largest frame that is held to be rewritten. Metadata of 100,000 partitions has some 5 MiB.
pub(super) const HELD: usize = 64 * 1024 * 1024;

/// A request, as far as its header says.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestHead {
    /// The row of its API.
    pub api: &'static Api,
    /// A version that the table carries, but for ApiVersions.
    pub version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
}

/// Whether a client sees one cluster, or a view of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sees {
    /// That of its connection.
    Cluster,
    /// Several.
    View {
        /// Its connection leads to its home.
        at_home: bool,
    },
}

/// What becomes of a request.
#[derive(Debug)]
pub(super) struct Decision {
    /// Which request it is.
    pub head: RequestHead,
    /// Bytes in front of the body, the frame's size included.
    pub body_at: usize,
    /// Bytes of the whole frame, its size included; perhaps more than have arrived.
    pub frame_len: usize,
    /// What goes to the broker.
    pub request: RequestPlan,
    /// What the client gets. `None`: there will be no response (`acks=0`), or it follows from what becomes of the request.
    pub response: Option<ResponsePlan>,
    /// So many messages without a header follow it, each of which the broker answers with one. (SaslHandshake v0.)
    pub bare_messages: usize,
}

impl Decision {
    /// Whether it is a Produce request to which the client gets no answer (`acks=0`).
    pub(super) fn is_unanswered_produce(&self) -> bool {
        self.head.api.key == ApiKey::Produce
            && match self.request {
                RequestPlan::Produce(front) => front.acks == 0,
                _ => self.response.is_none(),
            }
    }
}

/// What goes to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPlan {
    /// The frame as it is.
    Pass,
    /// The frame with another body.
    Rewrite,
    /// What is for the broker; the rest goes elsewhere.
    Produce(Front),
    /// The frame with another body, unless its groups live elsewhere.
    Judge,
    /// Nothing: the proxy answers.
    Keep,
    /// Nothing: the view answers.
    Ask,
}

/// What a client gets as the response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponsePlan {
    /// The broker's, as it is.
    Pass,
    /// The broker's, with another body.
    Rewrite,
    /// The broker's as it streams, with other errors.
    Walk,
    /// The broker's, to the heartbeat of a member of a group that may be held: it is told what to do.
    Heard(Box<Heard>),
    /// The broker's, as it is: a size and bytes, without a header.
    Bare,
    /// The proxy's own, a whole frame.
    Own(Vec<u8>),
}

/// Whose heartbeat it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// The group.
    pub group: String,
    /// The member's id.
    pub member: String,
}

/// Decides what becomes of the request at the front of `bytes`, as soon as enough of it has arrived. `None`: more bytes are needed. `request_limit`:
/// `socket_request_max_bytes`.
///
/// # Errors
/// [`Cause::NotKafka`], [`Cause::NotAdvertised`]: the connection ends.
pub(super) fn decide(bytes: &[u8], advertised: &Advertised, sees: Sees, request_limit: usize) -> Result<Option<Decision>, Cause> {
    match decide_arrived(bytes, advertised, sees, request_limit)? {
        None if bytes.len() > HEADER => Err(Cause::NotKafka(NotKafka::Header)),
        decision => Ok(decision),
    }
}

fn decide_arrived(bytes: &[u8], advertised: &Advertised, sees: Sees, request_limit: usize) -> Result<Option<Decision>, Cause> {
    let size = match frame::size(bytes, request_limit) {
        Ok(Some(size)) => size,
        Ok(None) => return Ok(None),
        Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(NotKafka::FrameSize(size))),
        Err(_) => unreachable!("a size that is there is right or wrong"),
    };
    let frame_len = SIZE_LEN + size;
    let frame = &bytes[SIZE_LEN..bytes.len().min(frame_len)];
    let incomplete = || if frame.len() == size { Err(Cause::NotKafka(NotKafka::ShortFrame(size))) } else { Ok(None) };
    let Ok(header) = RequestHeader::peek(frame) else { return incomplete() };
    let (api_key, version) = (header.api_key, header.api_version);
    let api = Api::of(api_key).ok_or(Cause::NotAdvertised { api_key, version })?;
    let carried = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
    let head = RequestHead { api, version, correlation_id: header.correlation_id };
    let Some(body_at) = body_at(frame, header.len, carried && api.is_flexible(version)) else { return incomplete() };
    let Some((request, response)) = plan(head, carried, &frame[body_at..], advertised, sees)? else { return incomplete() };
    let most = match request {
        RequestPlan::Pass | RequestPlan::Produce(_) => usize::MAX,
        RequestPlan::Ask => ASKED,
        RequestPlan::Rewrite | RequestPlan::Judge | RequestPlan::Keep => HELD,
    };
    if frame_len > most {
        return Err(Cause::NotKafka(NotKafka::FrameSize(size as i32)));
    }
    let mut bare_messages = 0;
    if api.key == ApiKey::SaslHandshake && version == 0 && request == RequestPlan::Pass {
        let Some(mechanism) = handshake_mechanism(&frame[body_at..]) else { return incomplete() };
        bare_messages = messages_of(mechanism).ok_or_else(|| Cause::BareLogin { mechanism: Client::name(mechanism) })?;
    }
    Ok(Some(Decision { head, body_at: SIZE_LEN + body_at, frame_len, request, response, bare_messages }))
}

/// How many messages a client sends in a login. `None`: as many as it takes, and the end shows only to whoever understands them (GSSAPI).
fn messages_of(mechanism: &str) -> Option<usize> {
    match mechanism {
        "PLAIN" | "OAUTHBEARER" => Some(1),
        "SCRAM-SHA-256" | "SCRAM-SHA-512" => Some(2),
        _ => None,
    }
}

/// What becomes of a request whose header is there, and of its response. `carried`: the table has its version. `body`: as much of it as has
/// arrived; `None` if that is not enough.
fn plan(
    head: RequestHead,
    carried: bool,
    body: &[u8],
    advertised: &Advertised,
    sees: Sees,
) -> Result<Option<(RequestPlan, Option<ResponsePlan>)>, Cause> {
    let RequestHead { api, version, correlation_id } = head;
    let own = |body: &[u8]| (RequestPlan::Keep, Some(ResponsePlan::Own(own_response(correlation_id, body))));
    let response = |passes| Some(if passes { ResponsePlan::Pass } else { ResponsePlan::Rewrite });
    let request = if api.request.is_empty() { RequestPlan::Pass } else { RequestPlan::Rewrite };
    Ok(Some(match api.key {
        // A client that is newer than the proxy gets the list in the form that everybody reads, and asks again.
        ApiKey::ApiVersions if !carried => own(&advertised.api_versions_body(0, UNSUPPORTED_VERSION)),
        ApiKey::ApiVersions => own(&advertised.api_versions_body(version, 0)),
        _ if !carried => return Err(Cause::NotAdvertised { api_key: api.key as i16, version }),
        ApiKey::SaslHandshake if advertised.sasl != ClientSasl::Broker => {
            let hidden = advertised.sasl == ClientSasl::Hidden;
            let error_code = if hidden { UNSUPPORTED_SASL_MECHANISM } else { ILLEGAL_SASL_STATE };
            // No mechanisms.
            own(&[&error_code.to_be_bytes()[..], &0i32.to_be_bytes()].concat())
        }
        ApiKey::Produce => match (Front::peek(body, version), sees) {
            (Some(front), Sees::View { .. }) => (RequestPlan::Produce(front), None),
            (Some(Front { acks: 0, .. }), Sees::Cluster) => (RequestPlan::Pass, None),
            (Some(_), Sees::Cluster) => (RequestPlan::Pass, Some(ResponsePlan::Pass)),
            (None, _) => return Ok(None),
        },
        // From version 11 on it may name the replica to ask instead (KIP-392).
        ApiKey::Fetch if sees != Sees::Cluster || version >= 11 => (request, Some(ResponsePlan::Walk)),
        // The transaction that is ended may be one that never began, because the proxy refused its topics.
        ApiKey::EndTxn if sees != Sees::Cluster => (RequestPlan::Judge, response(false)),
        // What a mirror has written of groups that live elsewhere is taken out.
        ApiKey::ListGroups if sees != Sees::Cluster => (request, response(false)),
        // The id of a transactional producer belongs to its coordinator and stays as it is.
        ApiKey::InitProducerId => match is_idempotent(body, version) {
            Some(idempotent) => (request, response(!idempotent)),
            None => return Ok(None),
        },
        _ => match (api.by, sees) {
            (By::View, Sees::View { .. }) if head.is_for_view() => (RequestPlan::Ask, None),
            (By::View | By::Home, Sees::View { at_home: false }) => (RequestPlan::Ask, None),
            (By::Group(_), Sees::View { .. }) => (RequestPlan::Judge, response(api.response.is_empty())),
            _ => (request, response(api.response.is_empty())),
        },
    }))
}

impl RequestHead {
    /// Walks the body of a message of this API and version. `None`: it goes on as it is.
    pub(super) fn rewrite(self, fields: &'static [Field], body: &[u8], by: &mut impl Rewrite) -> Result<Option<Vec<u8>>, Cause> {
        let Self { api, version, .. } = self;
        api::rewrite(fields, version, api.is_flexible(version), body, by).map_err(|error| self.not_rewritten(error))
    }

    /// Whether a view answers this version by its parts. Versions that only clients from before Kafka 1.0 use, and that kafka-protocol does not know, are for
    /// home as a whole.
    pub(super) fn is_for_view(self) -> bool {
        let oldest = match self.api.key {
            ApiKey::CreateTopics => 2,
            ApiKey::DeleteTopics | ApiKey::DescribeConfigs => 1,
            _ => 0,
        };
        self.version >= oldest
    }

    /// Why a message of this API and version is not passed on.
    pub(super) fn not_rewritten(self, error: RewriteError) -> Cause {
        Cause::NotRewritten { api_key: self.api.key, version: self.version, error }
    }

    /// Reads the body of a request. `fields` are walked first, which must reach behind its last array: kafka-protocol reserves memory for as many elements
    /// as an array announces.
    pub(super) fn decode<R: Decodable>(self, fields: &'static [Field], mut body: &[u8]) -> Result<R, Cause> {
        /// Changes nothing.
        struct Untouched;
        impl Rewrite for Untouched {}
        self.rewrite(fields, body, &mut Untouched)?;
        R::decode(&mut body, self.version).map_err(|_| self.not_rewritten(RewriteError::Broken("its end")))
    }

    /// The body of an answer.
    pub(super) fn encode<R: Encodable>(self, answer: &R) -> Result<Vec<u8>, Cause> {
        let mut body = Vec::new();
        answer.encode(&mut body, self.version).map_err(|_| self.not_rewritten(RewriteError::Broken("its answer")))?;
        Ok(body)
    }

    /// A whole frame with this body: an answer of the proxy's own.
    pub(super) fn answer(self, body: &[u8]) -> Vec<u8> {
        let flexible = self.api.key.response_header_version(self.version) >= 1;
        let body = if flexible { &[&[0][..], body].concat() } else { body };
        own_response(self.correlation_id, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::{ApiVersionsResponse, SaslHandshakeResponse};
    use kafka_protocol::protocol::Decodable;
    use kferry_wire::api::APIS;

    /// `socket_request_max_bytes`
    const LIMIT: usize = 100 * 1024 * 1024;

    fn told(sasl: ClientSasl) -> Advertised {
        Advertised { versions: Vec::new(), sasl }
    }

    /// A frame with the header of the client `app` and a body. `flexible`: tagged fields, none, are behind the header.
    fn frame(api_key: i16, version: i16, flexible: bool, body: &[u8]) -> Vec<u8> {
        let mut frame = [&api_key.to_be_bytes()[..], &version.to_be_bytes(), &7i32.to_be_bytes(), &[0, 3], b"app"].concat();
        frame.extend(flexible.then_some(0));
        frame.extend(body);
        [&(frame.len() as i32).to_be_bytes()[..], &frame].concat()
    }

    fn decided(bytes: &[u8], sasl: ClientSasl) -> Result<Option<Decision>, Cause> {
        decide(bytes, &told(sasl), Sees::Cluster, LIMIT)
    }

    /// The detail of the cause for which a connection ends at these bytes.
    fn refused(bytes: &[u8]) -> String {
        decided(bytes, ClientSasl::Broker).expect_err("the connection ends").detail()
    }

    #[test]
    fn each_request_goes_its_way_as_soon_as_enough_of_it_is_there() {
        const PASSES: Option<ResponsePlan> = Some(ResponsePlan::Pass);
        const REWRITTEN: Option<ResponsePlan> = Some(ResponsePlan::Rewrite);
        /// What it is; its key, version, whether that is flexible; how much of the body must be there, and the rest of it; what becomes of it.
        struct Case(&'static str, i16, i16, bool, &'static [u8], &'static [u8], RequestPlan, Option<ResponsePlan>);
        use RequestPlan::{Pass, Rewrite};
        let cases = [
            Case("Produce v2, acks=0", 0, 2, false, &[0, 0, 0, 0, 0, 9], b"records", Pass, None),
            Case("Produce v3, acks=0", 0, 3, false, &[0xff, 0xff, 0, 0, 0, 0, 0, 9], b"records", Pass, None),
            Case("Produce v3, acks=1", 0, 3, false, &[0xff, 0xff, 0, 1, 0, 0, 0, 9], b"records", Pass, PASSES),
            Case("Produce v3 of a transaction", 0, 3, false, &[0, 2, b't', b'x', 0xff, 0xff, 0, 0, 0, 9], b"records", Pass, PASSES),
            Case("Produce v9, acks=0", 0, 9, true, &[0, 0, 0, 0, 0, 0, 9], b"records", Pass, None),
            Case("Produce v9 of a transaction", 0, 9, true, &[3, b't', b'x', 0xff, 0xff, 0, 0, 0, 9], b"records", Pass, PASSES),
            Case("Fetch", 1, 8, false, &[], b"partitions", Rewrite, PASSES),
            Case("Metadata", 3, 9, true, &[], b"topics", Rewrite, REWRITTEN),
            Case("FindCoordinator", 10, 4, true, &[], b"keys", Rewrite, REWRITTEN),
            Case("JoinGroup", 11, 9, true, &[], b"member", Pass, PASSES),
            Case("SaslHandshake at the broker", 17, 1, false, &[], b"\0\x05PLAIN", Pass, PASSES),
            Case("CreateTopics", 19, 6, true, &[], b"topics", Rewrite, REWRITTEN),
            Case("InitProducerId v1, idempotent", 22, 1, false, &[0xff, 0xff], b"timeout", Pass, REWRITTEN),
            Case("InitProducerId v1, transactional", 22, 1, false, &[0, 2], b"tx, timeout", Pass, PASSES),
            Case("InitProducerId v5, idempotent", 22, 5, true, &[0], b"timeout", Pass, REWRITTEN),
            Case("InitProducerId v5, transactional", 22, 5, true, &[3], b"tx, timeout", Pass, PASSES),
            Case("DescribeConfigs", 32, 4, true, &[], b"resources", Rewrite, REWRITTEN),
            Case("SaslAuthenticate at the broker", 36, 2, true, &[], b"password", Pass, PASSES),
            Case("ConsumerGroupHeartbeat", 68, 1, true, &[], b"member", Rewrite, REWRITTEN),
        ];
        for Case(what, api_key, version, flexible, needed, rest, request, response) in cases {
            let whole = frame(api_key, version, flexible, &[needed, rest].concat());
            let enough = whole.len() - rest.len();
            for end in 0..enough {
                let early = decided(&whole[..end], ClientSasl::Broker);
                assert!(matches!(early, Ok(None)), "{what}: {early:?} after {end} bytes");
            }
            for end in enough..=whole.len() {
                let decision = decided(&whole[..end], ClientSasl::Broker).unwrap().expect(what);
                let Decision { head, body_at, frame_len, .. } = decision;
                assert_eq!((head.api.key as i16, head.version, head.correlation_id), (api_key, version, 7), "{what}");
                assert_eq!((decision.request, &decision.response), (request, &response), "{what}");
                assert_eq!((body_at, frame_len), (enough - needed.len(), whole.len()), "{what}");
            }
        }
    }

    #[test]
    fn the_next_request_behind_it_changes_nothing() {
        let one = frame(0, 3, false, &[0xff, 0xff, 0, 1, 0, 0, 0, 9, b'x']);
        let both = [one.clone(), frame(3, 9, true, b"topics")].concat();
        let decision = decided(&both, ClientSasl::Broker).unwrap().unwrap();
        assert_eq!((decision.frame_len, decision.request), (one.len(), RequestPlan::Pass));
        // `acks` would be found in the next frame.
        let ends = [frame(0, 3, false, &[0xff, 0xff]), vec![0; 100]].concat();
        assert_eq!(refused(&ends), "no Kafka request: a frame of 15 bytes is too short for a request header");
    }

    /// The body of a response of the proxy's own, behind its `correlation_id`.
    fn own(decision: Decision) -> Vec<u8> {
        let Some(ResponsePlan::Own(frame)) = decision.response else { panic!("{decision:?}") };
        assert_eq!(decision.request, RequestPlan::Keep);
        assert_eq!(frame[..SIZE_LEN], ((frame.len() - SIZE_LEN) as i32).to_be_bytes());
        assert_eq!(frame[SIZE_LEN..SIZE_LEN + 4], 7i32.to_be_bytes());
        frame[SIZE_LEN + 4..].to_vec()
    }

    #[test]
    fn api_versions_is_answered_by_the_proxy_whatever_the_client_knows() {
        let (min, max) = Api::of(18).and_then(Api::versions).unwrap();
        for sasl in [ClientSasl::Broker, ClientSasl::Hidden, ClientSasl::Proxy] {
            for version in min..=max + 1 {
                let whole = frame(18, version, (3..=max).contains(&version), b"");
                let body = own(decided(&whole, sasl).unwrap().unwrap());
                let (form, error_code) = if version > max { (0, UNSUPPORTED_VERSION) } else { (version, 0) };
                let response = ApiVersionsResponse::decode(&mut &body[..], form).unwrap();
                assert_eq!(response.error_code, error_code, "v{version}");
                let range = |key| response.api_keys.iter().find(|api| api.api_key == key).map(|api| (api.min_version, api.max_version));
                assert_eq!(range(3), Api::of(3).and_then(Api::advertised), "Metadata");
                assert_eq!(range(23), None, "OffsetForLeaderEpoch is hidden");
                let login = if sasl == ClientSasl::Hidden { None } else { Some((0, 1)) };
                assert_eq!(range(17), login, "{sasl:?}");
                assert_eq!(range(36).is_some(), login.is_some(), "{sasl:?}");
            }
        }
    }

    #[test]
    fn what_a_cluster_does_not_know_is_not_advertised() {
        for (sasl, left) in [(ClientSasl::Broker, &[18][..]), (ClientSasl::Hidden, &[18]), (ClientSasl::Proxy, &[17, 18, 36])] {
            // It knows nothing at all. What is between the client and the proxy is left.
            let advertised = Advertised { versions: vec![kferry_wire::versions::Versions::default()], sasl };
            let body = own(decide(&frame(18, 0, false, b""), &advertised, Sees::Cluster, LIMIT).unwrap().unwrap());
            let response = ApiVersionsResponse::decode(&mut &body[..], 0).unwrap();
            assert_eq!(response.api_keys.iter().map(|api| api.api_key).collect::<Vec<_>>(), left, "{sasl:?}");
        }
    }

    #[test]
    fn a_login_that_is_not_the_brokers_is_refused_by_the_proxy() {
        let handshake = frame(17, 1, false, b"\0\x05PLAIN");
        for (sasl, error_code) in [(ClientSasl::Hidden, UNSUPPORTED_SASL_MECHANISM), (ClientSasl::Proxy, ILLEGAL_SASL_STATE)] {
            let body = own(decided(&handshake, sasl).unwrap().unwrap());
            let response = SaslHandshakeResponse::decode(&mut &body[..], 1).unwrap();
            assert_eq!((response.error_code, response.mechanisms.len()), (error_code, 0), "{sasl:?}");
        }
    }

    #[test]
    fn a_login_of_the_old_kind_is_followed_by_as_many_messages_as_its_mechanism_has() {
        let begin = |mechanism: &str| frame(17, 0, false, &[&(mechanism.len() as u16).to_be_bytes()[..], mechanism.as_bytes()].concat());
        for (mechanism, messages) in [("PLAIN", 1), ("OAUTHBEARER", 1), ("SCRAM-SHA-256", 2), ("SCRAM-SHA-512", 2)] {
            let whole = begin(mechanism);
            assert!(decided(&whole[..whole.len() - 1], ClientSasl::Broker).unwrap().is_none(), "{mechanism}");
            let decision = decided(&whole, ClientSasl::Broker).unwrap().unwrap();
            assert_eq!((decision.request, decision.response), (RequestPlan::Pass, Some(ResponsePlan::Pass)), "{mechanism}");
            assert_eq!(decision.bare_messages, messages, "{mechanism}");
        }
        assert!(refused(&begin("GSSAPI")).starts_with("it began to log in with \"GSSAPI\" by SaslHandshake v0"));
        // Version 1 goes on inside SaslAuthenticate, whatever the mechanism.
        let gssapi = frame(17, 1, false, b"\0\x06GSSAPI");
        assert_eq!(decided(&gssapi, ClientSasl::Broker).unwrap().unwrap().bare_messages, 0);
        // What is answered by the proxy is refused, and nothing follows.
        assert_eq!(decided(&begin("PLAIN"), ClientSasl::Hidden).unwrap().unwrap().bare_messages, 0);
    }

    #[test]
    fn every_version_that_the_table_does_not_carry_ends_the_connection() {
        for api in APIS.iter().filter(|api| api.key != ApiKey::ApiVersions) {
            let carried = api.versions().map_or(0..0, |(min, max)| min..max + 1);
            for version in (-1..20).filter(|version| !carried.contains(version)) {
                let cause = decided(&frame(api.key as i16, version, false, &[0; 100]), ClientSasl::Broker).unwrap_err();
                let of = |key: i16, of: i16| key == api.key as i16 && of == version;
                assert!(
                    matches!(cause, Cause::NotAdvertised { api_key, version } if of(api_key, version)),
                    "{api:?} v{version}: {cause:?}"
                );
            }
        }
        let between_brokers = decided(&frame(4, 0, false, b""), ClientSasl::Broker);
        assert!(matches!(between_brokers, Err(Cause::NotAdvertised { api_key: 4, version: 0 })), "{between_brokers:?}");
    }

    #[test]
    fn what_is_no_request_ends_the_connection_and_says_why() {
        let size = |size: i32| size.to_be_bytes().to_vec();
        assert_eq!(refused(&size(-1)), "no Kafka request: its frame would have -1 bytes");
        assert_eq!(refused(&size(LIMIT as i32 + 1)), "no Kafka request: its frame would have 104857601 bytes");
        assert!(decided(&size(LIMIT as i32), ClientSasl::Broker).unwrap().is_none());
        for short in 0..10usize {
            let bytes = [size(short as i32), vec![0; short]].concat();
            assert_eq!(refused(&bytes), format!("no Kafka request: a frame of {short} bytes is too short for a request header"));
        }
        // Tagged fields, acks and the transactional.id, where the frame ends before them.
        for bytes in [frame(3, 9, false, b""), frame(0, 3, false, &[0xff, 0xff, 0]), frame(22, 1, false, &[0])] {
            assert!(refused(&bytes).ends_with("is too short for a request header"), "{bytes:?}");
        }
    }

    #[test]
    fn a_header_that_does_not_end_is_not_waited_for() {
        // One tagged field of 16 MiB.
        let mut bytes = [&(32i32 << 20).to_be_bytes()[..], &[0, 3, 0, 9, 0, 0, 0, 7, 0, 3], b"app", &[1, 0, 0x80, 0x80, 0x80, 8]].concat();
        bytes.resize(HEADER, 0);
        assert!(decided(&bytes, ClientSasl::Broker).unwrap().is_none());
        bytes.push(0);
        assert_eq!(refused(&bytes), "no Kafka request: its header does not end");
    }

    #[test]
    fn only_a_body_that_is_held_has_a_limit_of_its_own() {
        let announced = |mut bytes: Vec<u8>, frame_len: usize| {
            bytes[..SIZE_LEN].copy_from_slice(&((frame_len - SIZE_LEN) as i32).to_be_bytes());
            bytes
        };
        let produce = frame(0, 3, false, &[0xff, 0xff, 0, 1, 0, 0, 0, 9]);
        let metadata = frame(3, 9, true, b"");
        let api_versions = frame(18, 0, false, b"");
        for held in [metadata, api_versions] {
            let decision = decided(&announced(held.clone(), HELD), ClientSasl::Broker).unwrap().unwrap();
            assert_eq!(decision.frame_len, HELD);
            assert_eq!(
                refused(&announced(held, HELD + 1)),
                format!("no Kafka request: its frame would have {} bytes", HELD + 1 - SIZE_LEN)
            );
        }
        let decision = decided(&announced(produce, HELD + 1), ClientSasl::Broker).unwrap().unwrap();
        assert_eq!((decision.frame_len, decision.request), (HELD + 1, RequestPlan::Pass));
    }
}

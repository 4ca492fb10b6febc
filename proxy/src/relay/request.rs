//! What becomes of a request: a function of the bytes that have arrived and of what the client was told that it may use.
//!
//! | request | goes to the broker | its response |
//! |---|---|---|
//! | ApiVersions; SaslHandshake where the client has no login to do | not at all | is the proxy's own |
//! | Produce with `acks=0` | as it is | there will be none |
//! | other Produce | as it is | passes |
//! | InitProducerId of a transactional producer | as it is | passes: the id belongs to its coordinator |
//! | all others | rewritten where the table names fields of the request | rewritten where it names fields of the response |

use kafka_protocol::messages::ApiKey;
use kferry_wire::api::Api;
use kferry_wire::frame::{self, FrameError, SIZE_LEN};
use kferry_wire::header::{HeaderError, NotKafka, RequestHeader, acks, body_at, is_idempotent};

use super::own_response::{Advertised, ClientSasl, ILLEGAL_SASL_STATE, UNSUPPORTED_SASL_MECHANISM, UNSUPPORTED_VERSION, own_response};
use crate::ending::Cause;

/// Bytes that are read of a request before it must be clear what becomes of it: two strings of 32 KiB (`client_id`, `transactional_id`), and some
/// tagged fields.
const HEADER: usize = 128 * 1024;

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
    /// What the client gets. `None`: there will be no response (`acks=0`).
    pub response: Option<ResponsePlan>,
}

/// What goes to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPlan {
    /// The frame as it is.
    Pass,
    /// The frame with another body.
    Rewrite,
    /// Nothing: the proxy answers.
    Keep,
}

/// What a client gets as the response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ResponsePlan {
    /// The broker's, as it is.
    Pass,
    /// The broker's, with another body.
    Rewrite,
    /// The proxy's own, a whole frame.
    Own(Vec<u8>),
}

/// Decides what becomes of the request at the front of `bytes`, as soon as enough of it has arrived. `None`: more bytes are needed. `request_limit`:
/// `socket_request_max_bytes`.
///
/// # Errors
/// [`Cause::NotKafka`], [`Cause::NotAdvertised`]: the connection ends.
pub(super) fn decide(bytes: &[u8], advertised: &Advertised, request_limit: usize) -> Result<Option<Decision>, Cause> {
    match decide_arrived(bytes, advertised, request_limit)? {
        None if bytes.len() > HEADER => Err(Cause::NotKafka(NotKafka::Header)),
        decision => Ok(decision),
    }
}

fn decide_arrived(bytes: &[u8], advertised: &Advertised, request_limit: usize) -> Result<Option<Decision>, Cause> {
    let size = match frame::size(bytes, request_limit) {
        Ok(Some(size)) => size,
        Ok(None) => return Ok(None),
        Err(FrameError::Size { size, .. }) => return Err(Cause::NotKafka(NotKafka::FrameSize(size))),
        Err(_) => unreachable!("a size that is there is right or wrong"),
    };
    let frame_len = SIZE_LEN + size;
    let frame = &bytes[SIZE_LEN..bytes.len().min(frame_len)];
    let incomplete = || if frame.len() == size { Err(Cause::NotKafka(NotKafka::ShortFrame(size))) } else { Ok(None) };
    let header = match RequestHeader::peek(frame) {
        Ok(header) => header,
        Err(HeaderError::Short) => return incomplete(),
        Err(HeaderError::ClientId) => return Err(Cause::NotKafka(NotKafka::ClientId)),
    };
    let (api_key, version) = (header.api_key, header.api_version);
    let api = Api::of(api_key).ok_or(Cause::NotAdvertised { api_key, version })?;
    let carried = api.versions().is_some_and(|(min, max)| (min..=max).contains(&version));
    let head = RequestHead { api, version, correlation_id: header.correlation_id };
    let Some(body_at) = body_at(frame, header.len, carried && api.is_flexible(version)) else { return incomplete() };
    let Some((request, response)) = plan(head, carried, &frame[body_at..], advertised)? else { return incomplete() };
    if request != RequestPlan::Pass && frame_len > HELD {
        return Err(Cause::NotKafka(NotKafka::FrameSize(size as i32)));
    }
    Ok(Some(Decision { head, body_at: SIZE_LEN + body_at, frame_len, request, response }))
}

/// What becomes of a request whose header is there, and of its response. `carried`: the table has its version. `body`: as much of it as has
/// arrived; `None` if that is not enough.
fn plan(
    head: RequestHead,
    carried: bool,
    body: &[u8],
    advertised: &Advertised,
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
        ApiKey::Produce => match acks(body, version) {
            Some(0) => (RequestPlan::Pass, None),
            Some(_) => (RequestPlan::Pass, Some(ResponsePlan::Pass)),
            None => return Ok(None),
        },
        // The id of a transactional producer belongs to its coordinator and stays as it is.
        ApiKey::InitProducerId => match is_idempotent(body, version) {
            Some(idempotent) => (request, response(!idempotent)),
            None => return Ok(None),
        },
        _ => (request, response(api.response.is_empty())),
    }))
}

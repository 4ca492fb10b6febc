//! What becomes of a broker's response: functions of its bytes and of the request that is due.

use kafka_protocol::messages::ApiKey;
use kferry_wire::frame::{self, SIZE_LEN};
use kferry_wire::header;
use uuid::Uuid;

use super::brokers::ToClient;
use super::request::{HELD, RequestHead};
use crate::ending::Cause;

/// Bytes of a response that say whether it is the right one: the frame's size and the `correlation_id`.
const FRONT: usize = SIZE_LEN + 4;

/// The length of the frame at the front of `bytes`, its size included, if it is the response to `request`. `None`: more bytes are needed.
///
/// # Errors
/// [`Cause::WrongResponse`]
pub(super) fn frame_len(bytes: &[u8], request: RequestHead) -> Result<Option<usize>, Cause> {
    let Some(front) = bytes.first_chunk::<FRONT>() else { return Ok(None) };
    let limit = if request.api.response.is_empty() { i32::MAX as usize } else { HELD };
    let right = front[SIZE_LEN..] == request.correlation_id.to_be_bytes();
    match frame::size(front, limit) {
        Ok(Some(size)) if right && size >= 4 => Ok(Some(SIZE_LEN + size)),
        _ => Err(Cause::WrongResponse(request.api.key)),
    }
}

/// Where the body begins in a whole frame.
///
/// # Errors
/// [`Cause::WrongResponse`]
pub(super) fn body_at(frame: &[u8], request: RequestHead) -> Result<usize, Cause> {
    let flexible_header = request.api.key.response_header_version(request.version) >= 1;
    header::body_at(frame, FRONT, flexible_header).ok_or(Cause::WrongResponse(request.api.key))
}

/// What a walk over the body of a response has found.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// How many brokers it names with their address.
    pub brokers: usize,
    /// A topic id of which nobody knows yet what the client calls it.
    pub unknown_topic: Option<Uuid>,
}

impl Found {
    /// What `by` has found, after the walk.
    pub(super) fn of(by: &ToClient<'_>) -> Self {
        Self { brokers: by.brokers, unknown_topic: by.unknown_topic }
    }
}

/// Whether a response that was rewritten may go to the client. The topic whose name is to be asked for first, if it may not yet; `listed`: the
/// cluster has just been asked for all of its topics.
///
/// # Errors
/// [`Cause::NoBrokers`], [`Cause::UnknownTopicId`]: the connection ends, and the client tries again.
pub(super) fn asks_for(request: RequestHead, found: Found, listed: bool) -> Result<Option<Uuid>, Cause> {
    let api_key = request.api.key;
    match found {
        // A broker that has just started may answer so, and librdkafka from 2.10 on forgets all brokers at it, for good
        // (confluentinc/librdkafka issue 5301). The client is to ask another one.
        Found { brokers: 0, .. } if api_key == ApiKey::Metadata => Err(Cause::NoBrokers),
        Found { unknown_topic: Some(topic_id), .. } if listed => Err(Cause::UnknownTopicId { api_key, topic_id, error: None }),
        Found { unknown_topic, .. } => Ok(unknown_topic),
    }
}

//! What becomes of a broker's response: functions of its bytes and of the request that is due.

use kafka_protocol::messages::ApiKey;
use kferry_wire::frame::{self, SIZE_LEN};
use kferry_wire::header;
use uuid::Uuid;

use super::brokers::ToClient;
use super::request::{HELD, RequestHead};
use crate::ending::Cause;

/// Bytes of the largest message of a login, as the broker's `sasl.server.max.receive.size`.
pub(super) const LARGEST_LOGIN: usize = 512 * 1024;

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

/// The length of the message without a header at the front of `bytes`, its size included. `None`: more bytes are needed.
///
/// # Errors
/// [`Cause::WrongResponse`]: it is larger than any message of a login.
pub(super) fn bare_len(bytes: &[u8]) -> Result<Option<usize>, Cause> {
    let size = frame::size(bytes, LARGEST_LOGIN).map_err(|_| Cause::WrongResponse(ApiKey::SaslHandshake))?;
    Ok(size.map(|size| SIZE_LEN + size))
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
    /// Whether it tells the cluster's id.
    pub tells_cluster_id: bool,
    /// A topic id of which nobody knows yet what the client calls it.
    pub unknown_topic: Option<Uuid>,
}

impl Found {
    /// What `by` has found, after the walk.
    pub(super) fn of(by: &ToClient<'_>) -> Self {
        Self { brokers: by.brokers, tells_cluster_id: by.tells_cluster_id, unknown_topic: by.unknown_topic }
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
        // (confluentinc/librdkafka issue 5301). The client is to ask another one. It does tell the cluster's id, from version 2 on, which an answer to a
        // request that is no good does not (`MetadataRequest.getErrorResponse`): that one is for the client.
        Found { brokers: 0, tells_cluster_id, .. } if api_key == ApiKey::Metadata && (tells_cluster_id || request.version < 2) => {
            Err(Cause::NoBrokers)
        }
        Found { unknown_topic: Some(topic_id), .. } if listed => Err(Cause::UnknownTopicId { api_key, topic_id, error: None }),
        Found { unknown_topic, .. } => Ok(unknown_topic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kferry_wire::api::Api;

    fn request(api_key: ApiKey, version: i16) -> RequestHead {
        RequestHead { api: Api::of(api_key as i16).unwrap(), version, correlation_id: 7 }
    }

    #[test]
    fn a_response_is_taken_only_for_the_request_that_is_due() {
        let (fetch, metadata) = (request(ApiKey::Fetch, 10), request(ApiKey::Metadata, 12));
        let front = |size: i32, correlation_id: i32| [size.to_be_bytes(), correlation_id.to_be_bytes()].concat();
        let held = (HELD + 1) as i32;
        for (bytes, request, expected) in [
            (front(4, 7), fetch, Some(8)),
            (front(1000, 7), metadata, Some(1004)),
            (front(1000, 8), fetch, None),
            (front(3, 7), fetch, None),
            (front(-1, 7), fetch, None),
            // What streams through may have any size, what is held may not.
            (front(i32::MAX, 7), fetch, Some(i32::MAX as usize + SIZE_LEN)),
            (front(held - 1, 7), metadata, Some(HELD + SIZE_LEN)),
            (front(held, 7), metadata, None),
        ] {
            for end in 0..FRONT {
                assert!(matches!(frame_len(&bytes[..end], request), Ok(None)), "{bytes:?} {end}");
            }
            match (frame_len(&bytes, request), expected) {
                (Ok(Some(len)), Some(expected)) => assert_eq!(len, expected, "{bytes:?}"),
                (Err(Cause::WrongResponse(api_key)), None) => assert_eq!(api_key, request.api.key, "{bytes:?}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_body_is_behind_the_header_that_the_version_has() {
        let frame = [&[0, 0, 0, 9, 0, 0, 0, 7][..], &[1, 5, 1, b'x', b'B']].concat();
        assert_eq!(body_at(&frame, request(ApiKey::Metadata, 8)).unwrap(), 8);
        assert_eq!(body_at(&frame, request(ApiKey::Metadata, 9)).unwrap(), 12);
        assert!(matches!(body_at(&frame[..10], request(ApiKey::Metadata, 9)), Err(Cause::WrongResponse(ApiKey::Metadata))));
    }

    #[test]
    fn a_response_waits_for_the_name_of_a_topic_once() {
        let (metadata, heartbeat) = (request(ApiKey::Metadata, 12), request(ApiKey::ConsumerGroupHeartbeat, 0));
        let topic_id = Uuid::from_u128(0x4f2b_17c9_83aa_4d0e_9b11_22d3_7c40_5566);
        let unknown = Found { brokers: 0, tells_cluster_id: true, unknown_topic: Some(topic_id) };
        // From a broker that has just started, and the error to a request that is no good.
        let (nothing, error) = (Found { tells_cluster_id: true, ..Found::default() }, Found::default());
        let brokers = Found { brokers: 3, ..Found::default() };
        for listed in [false, true] {
            assert!(matches!(asks_for(metadata, nothing, listed), Err(Cause::NoBrokers)));
            assert!(
                matches!(asks_for(request(ApiKey::Metadata, 1), error, listed), Err(Cause::NoBrokers)),
                "that version never tells the id"
            );
            assert_eq!(asks_for(metadata, error, listed).unwrap(), None);
            assert_eq!(asks_for(metadata, brokers, listed).unwrap(), None);
            assert_eq!(asks_for(heartbeat, nothing, listed).unwrap(), None);
        }
        assert_eq!(asks_for(heartbeat, unknown, false).unwrap(), Some(topic_id));
        let after = asks_for(heartbeat, unknown, true).unwrap_err();
        let right = |key, id| key == ApiKey::ConsumerGroupHeartbeat && id == topic_id;
        assert!(matches!(after, Cause::UnknownTopicId { api_key, topic_id, error: None } if right(api_key, topic_id)), "{after:?}");
    }
}

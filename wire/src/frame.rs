//! The frame around every Kafka message: `INT32 size`, then `size` bytes.
//!
//! A size from the wire never sizes an allocation: memory grows with the bytes that arrived, and only up to a limit.
//!
//! # References
//! - <https://kafka.apache.org/protocol#protocol_common>
//! - `org.apache.kafka.common.network.NetworkReceive`, and the broker's `socket.request.max.bytes`

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the size itself.
pub const SIZE_LEN: usize = 4;

/// The most that is reserved ahead of the bytes that arrive, as long as they are few. From there on it is as much again as has arrived: a frame of
/// megabytes is read in few pieces, and a size that lies costs at most twice what was sent.
const STEP: usize = 64 * 1024;

/// A frame that cannot be read. Whose fault it is, is for the caller to say: it knows who sent it.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames, as it may.
    #[error("the connection was closed")]
    Closed,
    /// The peer closed the connection inside a frame.
    #[error("the connection was closed after {got} bytes of a frame of {size} bytes")]
    Cut {
        /// Bytes that arrived, without the size.
        got: usize,
        /// Bytes that the frame should have.
        size: usize,
    },
    /// The size is negative or above the limit.
    #[error("a frame of {size} bytes, the limit is {limit}")]
    Size {
        /// The size as it came.
        size: i32,
        /// The limit of whoever reads.
        limit: usize,
    },
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// The size in front of a frame, once its four bytes are there.
///
/// # Errors
/// [`FrameError::Size`] if it is negative or above `limit`.
pub fn size(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(prefix) = bytes.first_chunk::<SIZE_LEN>() else { return Ok(None) };
    let size = i32::from_be_bytes(*prefix);
    match usize::try_from(size) {
        Ok(len) if len <= limit => Ok(Some(len)),
        _ => Err(FrameError::Size { size, limit }),
    }
}

/// Reads one frame and returns it without its size. `buf` keeps what arrived beyond it for the next call. A caller that gives up halfway
/// (a deadline) loses nothing: all that was read is in `buf`.
///
/// # Errors
/// Every variant of [`FrameError`]. After one of them the connection is of no more use.
pub async fn read_frame<R: AsyncRead + Unpin>(reader: &mut R, limit: usize, buf: &mut BytesMut) -> Result<Bytes, FrameError> {
    loop {
        if let Some(size) = size(buf, limit)? {
            let end = SIZE_LEN + size;
            if buf.len() >= end {
                let mut frame = buf.split_to(end).freeze();
                return Ok(frame.split_off(SIZE_LEN));
            }
            buf.reserve((end - buf.len()).min(STEP.max(buf.len())));
        } else {
            buf.reserve(STEP.min(limit.saturating_add(SIZE_LEN)));
        }
        if reader.read_buf(buf).await? == 0 {
            return Err(match size(buf, limit)? {
                Some(size) => FrameError::Cut { got: buf.len() - SIZE_LEN, size },
                None if buf.is_empty() => FrameError::Closed,
                None => FrameError::Cut { got: 0, size: 0 },
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_they_are_cut() {
        let large = vec![7; 200_000];
        let bodies: [&[u8]; 4] = [b"first", b"", b"the third", &large];
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        for step in [1, 3, 5, 4096, bytes.len()] {
            let (mut near, mut far) = tokio::io::duplex(step);
            let sent = bytes.clone();
            tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut far, &sent).await });
            let mut buf = BytesMut::new();
            for body in bodies {
                assert_eq!(read_frame(&mut near, 1 << 20, &mut buf).await.unwrap(), body);
            }
            assert!(matches!(read_frame(&mut near, 1 << 20, &mut buf).await, Err(FrameError::Closed)));
        }
    }

    #[tokio::test]
    async fn a_huge_size_is_refused_and_a_large_one_allocates_only_what_arrives() {
        for size in [i32::MAX, -1, i32::MIN, 101] {
            let mut buf = BytesMut::new();
            let error = read_frame(&mut &size.to_be_bytes()[..], 100, &mut buf).await.unwrap_err();
            assert!(matches!(error, FrameError::Size { size: told, limit: 100 } if told == size));
        }
        let mut cut = i32::MAX.to_be_bytes().to_vec();
        cut.extend_from_slice(b"only this");
        let mut buf = BytesMut::new();
        let error = read_frame(&mut &cut[..], usize::MAX, &mut buf).await.unwrap_err();
        assert!(matches!(error, FrameError::Cut { got: 9, .. }), "{error}");
        assert!(buf.capacity() <= 4 * STEP, "{}", buf.capacity());
    }

    #[tokio::test]
    async fn a_size_that_is_cut_is_told_from_a_clean_end() {
        let mut buf = BytesMut::new();
        assert!(matches!(read_frame(&mut &[0u8, 0][..], 100, &mut buf).await, Err(FrameError::Cut { .. })));
    }
}

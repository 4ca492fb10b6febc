//! What a walk asks on its way, and the rewriting of a body that is there as a whole.

use uuid::Uuid;

use super::schema::Field;
use super::walk::{MAX_TEXT, Step, Walk};

/// Bytes of a body that the walk is given at a time: more than it ever needs to see at once, few enough for what it changes to stay in a
/// processor's cache until it is collected.
const PIECE: usize = 64 * 1024;

/// What a walk asks for each field that it meets. It stands between a client's world and a broker's.
pub trait Rewrite {
    /// The node id on the other side.
    ///
    /// # Errors
    /// [`Unmapped`]: there is none.
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped>;
    /// The id on the other side of a node that is only named as one of several, such as a replica: nobody connects to it, so a node without a
    /// counterpart is no reason to keep the message back.
    fn replica_id(&mut self, node_id: i32) -> i32;
    /// A broker says where a node is; the answer is where the client finds it.
    ///
    /// # Errors
    /// [`Unmapped`]: nowhere.
    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped>;
    /// The id of the one cluster that clients know.
    fn cluster_id(&mut self, cluster_id: &str) -> String;
    /// The producer id that the client gets.
    fn producer_id(&mut self, producer_id: i64) -> i64;
    /// The topic id on the other side, where the message has the id alone.
    fn topic_id(&mut self, topic_id: Uuid) -> Uuid;
    /// The same, where it has the topic's name as well. `None`: it has null in its place.
    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid;
}

/// A node id that has no counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("node {0} is outside the node_ids of its cluster")]
pub struct Unmapped(pub i32);

/// Why a message could not be rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// It breaks off, or a length in it is impossible.
    #[error("it breaks off at its field {0}")]
    Broken(&'static str),
    /// It has a text that the walk must see whole, of more than Kafka allows any.
    #[error("its field {0} has a text of more than {MAX_TEXT} bytes, which Kafka allows nowhere")]
    TooLong(&'static str),
    /// It speaks of a node that is none of ours.
    #[error(transparent)]
    Unmapped(#[from] Unmapped),
}

/// Walks the body of a message and changes what `by` has an answer for. `None`: nothing was to be changed.
///
/// # Errors
/// [`RewriteError`]; the body is not to be passed on then.
pub fn rewrite(
    fields: &'static [Field],
    version: i16,
    flexible: bool,
    body: &[u8],
    by: &mut impl Rewrite,
) -> Result<Option<Vec<u8>>, RewriteError> {
    let mut walk = Walk::new(fields, version, flexible, body.len());
    // Of `body`: told by the walk, and collected in `out`.
    let (mut at, mut copied) = (0, 0);
    let mut out = Vec::new();
    loop {
        match walk.step(&body[at..body.len().min(at + PIECE)], by)? {
            Step::Need(len) => unreachable!("a piece has more than {len} bytes"),
            Step::Pass(len) => at += len,
            Step::Replace { len, with } => {
                if copied == 0 {
                    out.reserve(body.len() + 64);
                }
                out.extend_from_slice(&body[copied..at]);
                out.extend_from_slice(with);
                at += len;
                copied = at;
            }
            Step::End => break,
        }
    }
    if copied == 0 {
        return Ok(None);
    }
    out.extend_from_slice(&body[copied..]);
    Ok(Some(out))
}

/// Appends an unsigned varint, as tagged fields and compact lengths are written.
pub fn put_uvarint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

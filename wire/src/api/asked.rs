//! What a walk asks on its way, and how it may fail.

use uuid::Uuid;

/// The most bytes of a text that the walk must see whole: Kafka's limit for every string (`Short.MAX_VALUE`), which its own readers refuse to
/// exceed in the compact form too.
pub const MAX_TEXT: usize = i16::MAX as usize;

/// What a walk asks for each field that it meets. It stands between a client's world and a broker's. What it does not speak of stays as it is.
pub trait Rewrite {
    /// The node id on the other side.
    ///
    /// # Errors
    /// [`Unmapped`]: there is none.
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        Ok(node_id)
    }
    /// The id on the other side of a node that is only named as one of several, such as a replica: nobody connects to it, so a node without a
    /// counterpart is no reason to keep the message back.
    fn replica_id(&mut self, node_id: i32) -> i32 {
        node_id
    }
    /// A broker says where a node is; the answer is where the client finds it.
    ///
    /// # Errors
    /// [`Unmapped`]: nowhere.
    fn address(&mut self, _node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        Ok((host.to_owned(), port as u16))
    }
    /// What a broker says to people, such as why it refuses a request; the answer is what the client reads. `None`: it stays.
    fn error_message(&mut self, _message: &str) -> Option<String> {
        None
    }
    /// The id of the one cluster that clients know.
    fn cluster_id(&mut self, cluster_id: &str) -> String {
        cluster_id.to_owned()
    }
    /// The producer id that the client gets.
    fn producer_id(&mut self, producer_id: i64) -> i64 {
        producer_id
    }
    /// The topic id on the other side, where the message has the id alone.
    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        topic_id
    }
    /// The same, where it has the topic's name as well. `None`: it has null in its place.
    fn named_topic_id(&mut self, topic_id: Uuid, _name: Option<&str>) -> Uuid {
        topic_id
    }
    /// A group that the request is about.
    fn group(&mut self, _group_id: &str) {}
    /// Partitions of this topic follow.
    fn topic(&mut self, _name: &str) {}
    /// The number of a partition of the topic that came last.
    fn partition(&mut self, partition: i32) -> i32 {
        partition
    }
    /// The error of the partition that came last; 0 is none.
    fn partition_error(&mut self, error_code: i16) -> i16 {
        error_code
    }
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

/// Appends an unsigned varint, as tagged fields and compact lengths are written.
pub fn put_uvarint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

//! The walk that rewrites messages.

use std::ops::Range;

use uuid::Uuid;

use super::schema::{Field, Kind};
use crate::reader::{Malformed, Reader, utf8};

/// What a walk asks for each field that it meets. It stands between a client's world and a broker's.
pub trait Rewrite {
    /// The node id on the other side.
    ///
    /// # Errors
    /// [`Unmapped`]: there is none.
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped>;
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
    let mut walk = Walk { body, rest: Reader::new(body), copied: 0, out: Vec::new(), version, flexible, name: "", node_id: -1, by };
    if let Err(stop) = walk.fields(fields) {
        return Err(match stop {
            Stop::Malformed => RewriteError::Broken(walk.name),
            Stop::Unmapped(unmapped) => unmapped.into(),
        });
    }
    // What follows, tagged fields of the whole or bytes that some clients send too many, is left as it is.
    if walk.out.is_empty() {
        return Ok(None);
    }
    walk.out.extend_from_slice(&body[walk.copied..]);
    Ok(Some(walk.out))
}

struct Walk<'a, R> {
    body: &'a [u8],
    rest: Reader<'a>,
    /// `body[..copied]` is in `out`, changed or not.
    copied: usize,
    out: Vec<u8>,
    version: i16,
    flexible: bool,
    /// Of the field that is walked.
    name: &'static str,
    /// The node whose id came last, as it came.
    node_id: i32,
    by: &'a mut R,
}

/// Why a walk ends early.
enum Stop {
    Malformed,
    Unmapped(Unmapped),
}

impl From<Malformed> for Stop {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<Unmapped> for Stop {
    fn from(unmapped: Unmapped) -> Self {
        Self::Unmapped(unmapped)
    }
}

impl<'a, R: Rewrite> Walk<'a, R> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), Stop> {
        let version = self.version;
        fields.iter().filter(|field| field.is_in(version)).try_for_each(|field| self.field(field))
    }

    fn field(&mut self, field: &'static Field) -> Result<(), Stop> {
        self.name = field.name;
        let from = self.at();
        match field.kind {
            Kind::Fixed(len) => _ = self.rest.take(len)?,
            Kind::Text => _ = self.text()?,
            Kind::FixedArray(each) => {
                let count = self.rest.elements(self.flexible, each)?;
                self.rest.take(count * each)?;
            }
            Kind::TextArray => {
                for _ in 0..self.rest.elements(self.flexible, 1)? {
                    self.text()?;
                }
            }
            Kind::Array(fields) => {
                for _ in 0..self.rest.elements(self.flexible, 1)? {
                    self.structure(field.name, fields)?;
                }
            }
            Kind::Structure(fields) => self.structure(field.name, fields)?,
            Kind::NullableStructure(fields) => {
                let [is_there] = self.rest.array()?.map(u8::cast_signed);
                if is_there >= 0 {
                    self.structure(field.name, fields)?;
                }
            }
            Kind::NodeId => self.node_id()?,
            Kind::NodeIds => {
                for _ in 0..self.rest.elements(self.flexible, 4)? {
                    self.node_id()?;
                }
            }
            Kind::Address => {
                let (host, port) = (utf8(self.text()?.unwrap_or_default())?, self.rest.i32()?);
                if self.node_id >= 0 {
                    let (host, port) = self.by.address(self.node_id, host, port)?;
                    let mut with = self.encoded(&host);
                    with.extend_from_slice(&i32::from(port).to_be_bytes());
                    self.replace(from..self.at(), &with);
                }
            }
            Kind::LeaderEpoch => {
                if self.rest.i32()? != -1 {
                    self.replace(from..self.at(), &(-1i32).to_be_bytes());
                }
            }
            Kind::RackId => {
                if self.text()?.is_some_and(|rack| !rack.is_empty()) {
                    let with = self.encoded("");
                    self.replace(from..self.at(), &with);
                }
            }
            Kind::ClusterId => {
                if let Some(cluster_id) = self.text()? {
                    let with = self.by.cluster_id(utf8(cluster_id)?);
                    let with = self.encoded(&with);
                    self.replace(from..self.at(), &with);
                }
            }
            Kind::ProducerId => {
                let producer_id = i64::from_be_bytes(self.rest.array()?);
                // -1 comes with an error.
                if producer_id >= 0 {
                    let with = self.by.producer_id(producer_id);
                    self.replace(from..self.at(), &with.to_be_bytes());
                }
            }
            Kind::TopicId => {
                let topic_id = Uuid::from_bytes(self.rest.array()?);
                self.topic_id(from, topic_id, |by| by.topic_id(topic_id));
            }
            Kind::NameAndTopicId => {
                let name = self.text()?.map(utf8).transpose()?;
                let (from, topic_id) = (self.at(), Uuid::from_bytes(self.rest.array()?));
                self.topic_id(from, topic_id, |by| by.named_topic_id(topic_id, name));
            }
            Kind::TopicIdAndName => {
                let topic_id = Uuid::from_bytes(self.rest.array()?);
                let name = self.text()?.map(utf8).transpose()?;
                self.topic_id(from, topic_id, |by| by.named_topic_id(topic_id, name));
            }
            Kind::Resource => self.resource()?,
        }
        Ok(())
    }

    fn structure(&mut self, name: &'static str, fields: &'static [Field]) -> Result<(), Stop> {
        self.fields(fields)?;
        self.name = name;
        if self.flexible {
            self.rest.skip_tagged_fields()?;
        }
        Ok(())
    }

    fn node_id(&mut self) -> Result<(), Stop> {
        let from = self.at();
        self.node_id = self.rest.i32()?;
        // -1: there is none, such as the leader of a partition that is offline.
        if self.node_id >= 0 {
            let with = self.by.node_id(self.node_id)?;
            self.replace(from..self.at(), &with.to_be_bytes());
        }
        Ok(())
    }

    /// The id begins at `from`.
    fn topic_id(&mut self, from: usize, topic_id: Uuid, other: impl FnOnce(&mut R) -> Uuid) {
        // Zero: there is none, such as in a request that names the topic.
        if !topic_id.is_nil() {
            let with = other(self.by);
            if with != topic_id {
                self.replace(from..from + 16, with.as_bytes());
            }
        }
    }

    /// `org.apache.kafka.common.config.ConfigResource.Type`: 4 is a broker, 8 a broker's logger; an empty name means all brokers.
    fn resource(&mut self) -> Result<(), Stop> {
        let [kind] = self.rest.array()?;
        let from = self.at();
        let resource = self.text()?.unwrap_or_default();
        // What is no node id is for the broker to refuse.
        if matches!(kind, 4 | 8)
            && let Some(node_id) = utf8(resource).ok().and_then(|resource| resource.parse().ok())
            && node_id >= 0
        {
            let with = self.by.node_id(node_id)?;
            let with = self.encoded(&with.to_string());
            self.replace(from..self.at(), &with);
        }
        Ok(())
    }

    /// Where in the body the walk is.
    fn at(&self) -> usize {
        self.body.len() - self.rest.rest().len()
    }

    fn text(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        self.rest.text_bytes(self.flexible)
    }

    /// Puts `with` in the place of these bytes of the body.
    fn replace(&mut self, bytes: Range<usize>, with: &[u8]) {
        if self.out.is_empty() {
            self.out.reserve(self.body.len() + 64);
        }
        self.out.extend_from_slice(&self.body[self.copied..bytes.start]);
        self.out.extend_from_slice(with);
        self.copied = bytes.end;
    }

    fn encoded(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len() + 3);
        if self.flexible {
            put_uvarint(&mut bytes, text.len() as u32 + 1);
        } else {
            bytes.extend_from_slice(&(text.len() as i16).to_be_bytes());
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }
}

/// Appends an unsigned varint, as tagged fields and compact lengths are written.
pub fn put_uvarint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

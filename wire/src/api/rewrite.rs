//! The walk that rewrites messages.

use super::schema::{Field, Kind};

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
    let mut walk = Walk { body, at: 0, copied: 0, out: Vec::new(), version, flexible, node_id: -1, by };
    for field in fields {
        walk.field(field)?;
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
    at: usize,
    /// `body[..copied]` is in `out`, changed or not.
    copied: usize,
    out: Vec<u8>,
    version: i16,
    flexible: bool,
    /// The node whose id came last, as it came.
    node_id: i32,
    by: &'a mut R,
}

type Step<T> = Result<T, RewriteError>;

impl<'a, R: Rewrite> Walk<'a, R> {
    fn field(&mut self, field: &'static Field) -> Step<()> {
        if !field.is_in(self.version) {
            return Ok(());
        }
        let name = field.name;
        let from = self.at;
        match field.kind {
            Kind::Fixed(len) => _ = self.take(len, name)?,
            Kind::Text => _ = self.text(name)?,
            Kind::FixedArray(each) => {
                let count = self.count(each, name)?;
                self.take(count * each, name)?;
            }
            Kind::TextArray => {
                for _ in 0..self.count(1, name)? {
                    self.text(name)?;
                }
            }
            Kind::Array(fields) => {
                for _ in 0..self.count(1, name)? {
                    fields.iter().try_for_each(|field| self.field(field))?;
                    self.tagged_fields(name)?;
                }
            }
            Kind::NodeId => self.node_id(name)?,
            Kind::NodeIds => {
                for _ in 0..self.count(4, name)? {
                    self.node_id(name)?;
                }
            }
            Kind::Address => {
                let host = str::from_utf8(self.text(name)?.unwrap_or_default()).map_err(|_| RewriteError::Broken(name))?;
                let port = self.int32(name)?;
                if self.node_id >= 0 {
                    let (host, port) = self.by.address(self.node_id, host, port)?;
                    let mut with = self.encoded(&host);
                    with.extend_from_slice(&i32::from(port).to_be_bytes());
                    self.replace(from, &with);
                }
            }
            Kind::LeaderEpoch => {
                if self.int32(name)? != -1 {
                    self.replace(from, &(-1i32).to_be_bytes());
                }
            }
            Kind::RackId => {
                if self.text(name)?.is_some_and(|rack| !rack.is_empty()) {
                    let with = self.encoded("");
                    self.replace(from, &with);
                }
            }
            Kind::ClusterId => {
                if let Some(cluster_id) = self.text(name)? {
                    let cluster_id = str::from_utf8(cluster_id).map_err(|_| RewriteError::Broken(name))?;
                    let with = self.by.cluster_id(cluster_id);
                    let with = self.encoded(&with);
                    self.replace(from, &with);
                }
            }
            Kind::ProducerId => {
                let producer_id = i64::from_be_bytes(self.array(name)?);
                // -1 comes with an error.
                if producer_id >= 0 {
                    let with = self.by.producer_id(producer_id);
                    self.replace(from, &with.to_be_bytes());
                }
            }
            Kind::Resource => self.resource(name)?,
        }
        Ok(())
    }

    fn node_id(&mut self, name: &'static str) -> Step<()> {
        let from = self.at;
        self.node_id = self.int32(name)?;
        // -1: there is none, such as the leader of a partition that is offline.
        if self.node_id >= 0 {
            let with = self.by.node_id(self.node_id)?;
            self.replace(from, &with.to_be_bytes());
        }
        Ok(())
    }

    /// `org.apache.kafka.common.config.ConfigResource.Type`: 4 is a broker, 8 a broker's logger; an empty name means all brokers.
    fn resource(&mut self, name: &'static str) -> Step<()> {
        let [kind] = self.array(name)?;
        let from = self.at;
        let resource = self.text(name)?.unwrap_or_default();
        // What is no node id is for the broker to refuse.
        if matches!(kind, 4 | 8)
            && let Some(node_id) = str::from_utf8(resource).ok().and_then(|resource| resource.parse().ok())
            && node_id >= 0
        {
            let with = self.by.node_id(node_id)?;
            let with = self.encoded(&with.to_string());
            self.replace(from, &with);
        }
        Ok(())
    }

    /// Puts `with` in the place of `body[from..at]`.
    fn replace(&mut self, from: usize, with: &[u8]) {
        if self.out.is_empty() {
            self.out.reserve(self.body.len() + 64);
        }
        self.out.extend_from_slice(&self.body[self.copied..from]);
        self.out.extend_from_slice(with);
        self.copied = self.at;
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

    fn take(&mut self, len: usize, name: &'static str) -> Step<&'a [u8]> {
        let rest = &self.body[self.at..];
        let taken = rest.get(..len).ok_or(RewriteError::Broken(name))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, name: &'static str) -> Step<[u8; N]> {
        let taken = self.take(N, name)?;
        taken.try_into().map_err(|_| RewriteError::Broken(name))
    }

    fn int32(&mut self, name: &'static str) -> Step<i32> {
        Ok(i32::from_be_bytes(self.array(name)?))
    }

    fn uvarint(&mut self, name: &'static str) -> Step<usize> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(name)?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value as usize);
            }
        }
        Err(RewriteError::Broken(name))
    }

    /// `None` for null.
    fn text(&mut self, name: &'static str) -> Step<Option<&'a [u8]>> {
        let len = if self.flexible {
            self.uvarint(name)?.checked_sub(1)
        } else {
            match i16::from_be_bytes(self.array(name)?) {
                -1 => None,
                len => Some(usize::try_from(len).map_err(|_| RewriteError::Broken(name))?),
            }
        };
        len.map(|len| self.take(len, name)).transpose()
    }

    /// The number of elements of an array, 0 for null; never more than the bytes that are left can hold, at `least` bytes each.
    fn count(&mut self, least: usize, name: &'static str) -> Step<usize> {
        let count = if self.flexible {
            self.uvarint(name)?.saturating_sub(1)
        } else {
            match self.int32(name)? {
                -1 => 0,
                count => usize::try_from(count).map_err(|_| RewriteError::Broken(name))?,
            }
        };
        if count > (self.body.len() - self.at) / least {
            return Err(RewriteError::Broken(name));
        }
        Ok(count)
    }

    fn tagged_fields(&mut self, name: &'static str) -> Step<()> {
        if self.flexible {
            for _ in 0..self.uvarint(name)? {
                self.uvarint(name)?;
                let len = self.uvarint(name)?;
                self.take(len, name)?;
            }
        }
        Ok(())
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

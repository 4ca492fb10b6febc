//! The walk through a message: a value that is fed what has arrived of a body and says what becomes of it.
//!
//! [`Walk::step`] is given the bytes that nothing was said about yet, as far as they have arrived, and answers with a [`Step`]: *need* so many of
//! them, *pass* so many untouched, *replace* so many by others. It reads and writes nothing itself, so one walk serves a body that is held whole
//! ([`rewrite`](super::rewrite()) is that case) and one that streams, whose records need never come to user space. Wherever the bytes are cut, it asks
//! [`Rewrite`] the same in the same order, and what comes out is the same.
//!
//! What is only passed is not waited for: of a text, of tagged fields, of records the length is read and no more, and a pass may reach far behind
//! what has arrived. What is changed or asked about is waited for, and is bounded: the longest is a text of [`MAX_TEXT`] bytes with a topic's id
//! or a port. No length in a message sizes an allocation; each is held against what is left of the body, and is an error at once if it is more.
//!
//! A step goes as far as the bytes that have arrived allow. All that it changes on its way is one replacement, with what lies between copied into
//! it: a Metadata answer has thousands of node ids a few bytes apart.

use std::ops::Range;

use uuid::Uuid;

use super::asked::{MAX_TEXT, Rewrite, RewriteError, Unmapped, put_uvarint};
use super::schema::{Field, Kind};
use super::settings::{LONGEST_NAME, NodeIds};
use crate::reader::{Malformed, Reader, utf8};

/// What becomes of the next bytes of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Nothing can be said before so many of them have arrived: more than there were, never more than the body has left.
    Need(usize),
    /// So many go on as they are, whether they have arrived or not.
    Pass(usize),
    /// So many are records with their length in front: they go on as they are, too. All steps before were about what lies before them, and nothing was asked
    /// about what lies behind.
    Records(usize),
    /// Others take the place of so many, which have arrived. Whoever has sent the frame's size already needs a [`Rewrite`] that keeps lengths.
    Replace {
        /// How many are left out.
        len: usize,
        /// What goes out instead.
        with: &'a [u8],
    },
    /// The body is over.
    End,
}

/// A walk through the body of one message.
#[derive(Debug)]
pub struct Walk {
    version: i16,
    flexible: bool,
    /// Bytes of the body that no step has passed or replaced yet. The walk counts from the first of them.
    left: usize,
    /// How far it has come. Behind what has arrived where a pass reaches so far; never behind `left`.
    at: usize,
    /// The bytes before `at` in whose place `with` goes; 0..0 where nothing is changed.
    change: Range<usize>,
    with: Vec<u8>,
    /// The structures around the place, the innermost last. As deep as the schema.
    frames: Vec<Frame>,
    /// Elements, behind the place, of an array that is no array of structures, or tagged fields.
    items: (Item, usize),
    /// Of the field that is walked.
    name: &'static str,
    /// The node whose id came last, as it came.
    node_id: i32,
    /// Of the setting whose name came last.
    node_ids: Option<NodeIds>,
}

/// An array of structures, or one structure.
#[derive(Debug)]
struct Frame {
    /// Of the field that it is; the body itself has none.
    name: &'static str,
    fields: &'static [Field],
    /// Which of `fields` comes next.
    next: usize,
    /// Elements that have not ended, the one in work among them.
    left: usize,
}

#[derive(Debug, Clone, Copy)]
enum Item {
    ReplicaId,
    GroupId,
    Partition,
    Text,
    TaggedField,
    /// Behind records, before anything else is looked at.
    RecordsEnd,
}

/// Why a step goes no further.
enum Stop {
    /// So many bytes must have arrived, from the first one that no step has passed or replaced.
    Need(usize),
    /// Records begin or end here: they are a step of their own.
    Records,
    Malformed,
    TooLong,
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

impl Walk {
    /// Through a body of `body_len` bytes, as the frame's size has it. A body has more than the schema where the schema ends early, and some clients
    /// send bytes too many: these pass.
    pub fn new(fields: &'static [Field], version: i16, flexible: bool, body_len: usize) -> Self {
        let body = Frame { name: "", fields, next: 0, left: 1 };
        Self {
            version,
            flexible,
            left: body_len,
            at: 0,
            change: 0..0,
            with: Vec::new(),
            frames: vec![body],
            items: (Item::Text, 0),
            name: "",
            node_id: -1,
            node_ids: None,
        }
    }

    /// The next step. `arrived` begins with the first byte that no step has passed or replaced; it may end behind the body, such as with the next
    /// frame.
    ///
    /// # Errors
    /// [`RewriteError`]: what is left of the body is not to be passed on.
    pub fn step(&mut self, arrived: &[u8], by: &mut impl Rewrite) -> Result<Step<'_>, RewriteError> {
        let arrived = &arrived[..arrived.len().min(self.left)];
        let (mut need, mut records) = (None, false);
        match (Look { walk: self, arrived, by }).look() {
            Ok(()) => self.at = self.left,
            Err(Stop::Need(len)) => need = Some(len),
            Err(Stop::Records) => records = matches!(self.items, (Item::RecordsEnd, 1)),
            Err(Stop::Malformed) => return Err(RewriteError::Broken(self.name)),
            Err(Stop::TooLong) => return Err(RewriteError::TooLong(self.name)),
            Err(Stop::Unmapped(unmapped)) => return Err(unmapped.into()),
        }
        let Range { start, end } = self.change;
        Ok(if end > 0 && start == 0 {
            self.change = 0..0;
            self.behind(end);
            Step::Replace { len: end, with: &self.with }
        } else if end > 0 {
            self.change = 0..end - start;
            self.behind(start);
            Step::Pass(start)
        } else if self.at > 0 {
            let len = self.at;
            self.behind(len);
            if records { Step::Records(len) } else { Step::Pass(len) }
        } else {
            need.map_or(Step::End, Step::Need)
        })
    }

    /// A step speaks of the first `len` bytes: from now on the walk counts from behind them.
    fn behind(&mut self, len: usize) {
        self.at -= len;
        self.left -= len;
    }
}

/// A step: the walk, before bytes that have arrived.
struct Look<'a, R> {
    walk: &'a mut Walk,
    arrived: &'a [u8],
    by: &'a mut R,
}

impl<'a, R: Rewrite> Look<'a, R> {
    /// Goes on from where the walk is to the schema's end, if nothing stops it. `by` is asked about a field only once the field is there, so that
    /// the same field can be begun again when more has arrived.
    fn look(mut self) -> Result<(), Stop> {
        self.items()?;
        while let Some(mut frame) = self.walk.frames.pop() {
            let inner = self.frame(&mut frame);
            if !matches!(inner, Ok(None)) {
                self.walk.frames.push(frame);
            }
            self.walk.frames.extend(inner?);
        }
        Ok(())
    }

    /// Goes on in a frame to its end, or to the beginning of a frame within it.
    fn frame(&mut self, frame: &mut Frame) -> Result<Option<Frame>, Stop> {
        // The body's own tagged fields are left as they are, as all that follows the schema.
        let (version, tagged) = (self.walk.version, self.walk.flexible && !self.walk.frames.is_empty());
        while frame.left > 0 {
            while let Some(field) = frame.fields.get(frame.next) {
                let mut inner = None;
                if field.is_in(version) {
                    self.walk.name = field.name;
                    inner = match field.kind {
                        Kind::Array(fields) => Some((fields, self.read(|from| from.elements(1))?)),
                        Kind::Structure(fields) => Some((fields, 1)),
                        Kind::NullableStructure(fields) => {
                            let [is_there] = self.read(Cursor::array)?.map(u8::cast_signed);
                            Some((fields, usize::from(is_there >= 0)))
                        }
                        kind => {
                            self.field(kind)?;
                            None
                        }
                    };
                }
                frame.next += 1;
                if let Some((fields, left)) = inner {
                    return Ok(Some(Frame { name: field.name, fields, next: 0, left }));
                }
                self.items()?;
            }
            if tagged {
                self.walk.name = frame.name;
                self.walk.items = (Item::TaggedField, self.read(Cursor::uvarint)? as usize);
            }
            (frame.next, frame.left) = (0, frame.left - 1);
            self.items()?;
        }
        Ok(None)
    }

    /// Goes behind a field that is no structure; of an array, to its `items`.
    fn field(&mut self, kind: Kind) -> Result<(), Stop> {
        let mut from = self.cursor();
        match kind {
            Kind::Array(_) | Kind::Structure(_) | Kind::NullableStructure(_) => unreachable!("they are frames"),
            Kind::Fixed(len) => from.skip(len)?,
            Kind::Text => from.skip_text()?,
            Kind::FixedArray(each) => {
                let count = from.elements(each)?;
                from.skip(count * each)?;
            }
            Kind::TextArray => self.walk.items = (Item::Text, from.elements(1)?),
            Kind::ReplicaIds => self.walk.items = (Item::ReplicaId, from.elements(4)?),
            Kind::Records => {
                self.alone()?;
                let len = from.len()?;
                from.skip(len)?;
                self.walk.items = (Item::RecordsEnd, 1);
            }
            Kind::NodeId => return self.node_id(),
            Kind::Address => {
                let (host, port) = (utf8(from.text()?.unwrap_or_default())?, i32::from_be_bytes(from.array()?));
                if self.walk.node_id >= 0 {
                    let (host, port) = self.by.address(self.walk.node_id, host, port)?;
                    let mut with = self.encoded(&host);
                    with.extend_from_slice(&i32::from(port).to_be_bytes());
                    self.replace(self.walk.at..from.at, &with);
                }
            }
            Kind::GroupId => return self.group_id(),
            Kind::GroupIds => self.walk.items = (Item::GroupId, from.elements(1)?),
            // As brokers read them.
            Kind::TopicName => self.by.topic(&String::from_utf8_lossy(from.text()?.unwrap_or_default())),
            Kind::Partition => return self.partition(),
            Kind::Partitions => self.walk.items = (Item::Partition, from.elements(4)?),
            Kind::PartitionError => {
                let error_code = i16::from_be_bytes(from.array()?);
                let with = self.by.partition_error(error_code);
                if with != error_code {
                    self.replace(self.walk.at..from.at, &with.to_be_bytes());
                }
            }
            Kind::LeaderEpoch => {
                if i32::from_be_bytes(from.array()?) != -1 {
                    self.replace(self.walk.at..from.at, &(-1i32).to_be_bytes());
                }
            }
            Kind::ClusterId => {
                if let Some(cluster_id) = from.text()? {
                    let with = self.by.cluster_id(utf8(cluster_id)?);
                    let with = self.encoded(&with);
                    self.replace(self.walk.at..from.at, &with);
                }
            }
            Kind::ProducerId => {
                let producer_id = i64::from_be_bytes(from.array()?);
                // -1 comes with an error.
                if producer_id >= 0 {
                    let with = self.by.producer_id(producer_id);
                    self.replace(self.walk.at..from.at, &with.to_be_bytes());
                }
            }
            Kind::TopicId => {
                let topic_id = Uuid::from_bytes(from.array()?);
                self.topic_id(self.walk.at, topic_id, |by| by.topic_id(topic_id));
            }
            Kind::NameAndTopicId => {
                let name = from.text()?.map(utf8).transpose()?;
                let (id_at, topic_id) = (from.at, Uuid::from_bytes(from.array()?));
                self.topic_id(id_at, topic_id, |by| by.named_topic_id(topic_id, name));
            }
            Kind::TopicIdAndName => {
                let topic_id = Uuid::from_bytes(from.array()?);
                let name = from.text()?.map(utf8).transpose()?;
                self.topic_id(self.walk.at, topic_id, |by| by.named_topic_id(topic_id, name));
            }
            Kind::Resource => self.resource(&mut from)?,
            Kind::ConfigName => self.walk.node_ids = from.text_up_to(LONGEST_NAME)?.and_then(NodeIds::of),
            Kind::ConfigValue => match self.walk.node_ids {
                Some(node_ids) => self.config_value(&mut from, node_ids)?,
                None => from.skip_text()?,
            },
            Kind::ErrorMessage => {
                let message = from.text_up_to(MAX_TEXT)?.and_then(|message| utf8(message).ok());
                if let Some(mut with) = message.and_then(|message| self.by.error_message(message)) {
                    with.truncate(with.floor_char_boundary(MAX_TEXT));
                    let with = self.encoded(&with);
                    self.replace(self.walk.at..from.at, &with);
                }
            }
        }
        self.walk.at = from.at;
        Ok(())
    }

    fn items(&mut self) -> Result<(), Stop> {
        while self.walk.items.1 > 0 {
            match self.walk.items.0 {
                Item::ReplicaId => self.replica_id()?,
                Item::Partition => self.partition()?,
                Item::GroupId => self.group_id()?,
                Item::Text => self.read(Cursor::skip_text)?,
                Item::TaggedField => self.read(Cursor::skip_tagged_field)?,
                Item::RecordsEnd => self.alone()?,
            }
            self.walk.items.1 -= 1;
        }
        Ok(())
    }

    /// All before this place is to be told before the walk goes on.
    fn alone(&self) -> Result<(), Stop> {
        if self.walk.at > 0 { Err(Stop::Records) } else { Ok(()) }
    }

    fn node_id(&mut self) -> Result<(), Stop> {
        let mut from = self.cursor();
        self.walk.node_id = i32::from_be_bytes(from.array()?);
        // -1: there is none, such as the leader of a partition that is offline.
        if self.walk.node_id >= 0 {
            let with = self.by.node_id(self.walk.node_id)?;
            self.replace(self.walk.at..from.at, &with.to_be_bytes());
        }
        self.walk.at = from.at;
        Ok(())
    }

    fn group_id(&mut self) -> Result<(), Stop> {
        let mut from = self.cursor();
        self.by.group(&String::from_utf8_lossy(from.text()?.unwrap_or_default()));
        self.walk.at = from.at;
        Ok(())
    }

    fn partition(&mut self) -> Result<(), Stop> {
        let mut from = self.cursor();
        let partition = i32::from_be_bytes(from.array()?);
        let with = self.by.partition(partition);
        if with != partition {
            self.replace(self.walk.at..from.at, &with.to_be_bytes());
        }
        self.walk.at = from.at;
        Ok(())
    }

    fn replica_id(&mut self) -> Result<(), Stop> {
        let mut from = self.cursor();
        let node_id = i32::from_be_bytes(from.array()?);
        if node_id >= 0 {
            let with = self.by.replica_id(node_id);
            self.replace(self.walk.at..from.at, &with.to_be_bytes());
        }
        self.walk.at = from.at;
        Ok(())
    }

    /// The id begins at `id_at`.
    fn topic_id(&mut self, id_at: usize, topic_id: Uuid, other: impl FnOnce(&mut R) -> Uuid) {
        // Zero: there is none, such as in a request that names the topic.
        if !topic_id.is_nil() {
            let with = other(self.by);
            if with != topic_id {
                self.replace(id_at..id_at + 16, with.as_bytes());
            }
        }
    }

    /// `org.apache.kafka.common.config.ConfigResource.Type`: 4 is a broker, 8 a broker's logger; an empty name means all brokers.
    fn resource(&mut self, from: &mut Cursor<'a>) -> Result<(), Stop> {
        let [kind] = from.array()?;
        let name_at = from.at;
        let resource = from.text()?.unwrap_or_default();
        // What is no node id is for the broker to refuse.
        if matches!(kind, 4 | 8)
            && let Some(node_id) = utf8(resource).ok().and_then(|resource| resource.parse().ok())
            && node_id >= 0
        {
            let with = self.by.node_id(node_id)?;
            let with = self.encoded(&with.to_string());
            self.replace(name_at..from.at, &with);
        }
        Ok(())
    }

    fn config_value(&mut self, from: &mut Cursor<'a>, node_ids: NodeIds) -> Result<(), Stop> {
        // What is too long or no text is for the broker to refuse.
        if let Some(value) = from.text_up_to(MAX_TEXT)?.and_then(|value| utf8(value).ok()) {
            let with = node_ids.rewrite(value, |node_id| self.by.replica_id(node_id));
            // Other ids may be longer, and a list of thousands of replicas then has no room in Kafka's messages: it is told as a value that
            // cannot be shown, and in a request the broker refuses it.
            if with != value {
                let with = if with.len() > MAX_TEXT { self.encoded_null() } else { self.encoded(&with) };
                self.replace(self.walk.at..from.at, &with);
            }
        }
        Ok(())
    }

    fn cursor(&self) -> Cursor<'a> {
        let Walk { at, left, flexible, .. } = *self.walk;
        Cursor { arrived: self.arrived, at, left, flexible }
    }

    /// Goes behind what `read` reads, once that has arrived.
    fn read<T>(&mut self, read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Stop>) -> Result<T, Stop> {
        let mut from = self.cursor();
        let value = read(&mut from)?;
        self.walk.at = from.at;
        Ok(value)
    }

    /// Puts `with` in the place of these bytes, which have arrived and are behind those that were replaced before.
    #[inline]
    fn replace(&mut self, bytes: Range<usize>, with: &[u8]) {
        let Walk { change, with: out, .. } = &mut *self.walk;
        if change.end == 0 {
            out.clear();
            // By what has arrived, since more of it will follow.
            out.reserve(self.arrived.len() - bytes.start + 64);
            *change = bytes.start..bytes.start;
        }
        // Most are node ids, one right behind the other.
        if change.end < bytes.start {
            out.extend_from_slice(&self.arrived[change.end..bytes.start]);
        }
        out.extend_from_slice(with);
        change.end = bytes.end;
    }

    fn encoded(&self, text: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(text.len() + 3);
        if self.walk.flexible {
            put_uvarint(&mut bytes, text.len() as u32 + 1);
        } else {
            bytes.extend_from_slice(&(text.len() as i16).to_be_bytes());
        }
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn encoded_null(&self) -> Vec<u8> {
        if self.walk.flexible { vec![0] } else { (-1i16).to_be_bytes().to_vec() }
    }
}

/// Reads ahead of the walk: nothing is done before it is all there.
struct Cursor<'a> {
    arrived: &'a [u8],
    /// As the walk's `at`, `left` and `flexible`.
    at: usize,
    left: usize,
    flexible: bool,
}

impl<'a> Cursor<'a> {
    /// Goes behind bytes that need not have arrived.
    fn skip(&mut self, len: usize) -> Result<(), Stop> {
        if len > self.left - self.at {
            return Err(Stop::Malformed);
        }
        self.at += len;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let from = self.at;
        self.skip(N)?;
        self.arrived.get(from..).and_then(<[u8]>::first_chunk).copied().ok_or(Stop::Need(self.at))
    }

    fn uvarint(&mut self) -> Result<u32, Stop> {
        let arrived = self.arrived.get(self.at..).unwrap_or_default();
        let mut reader = Reader::new(arrived);
        match reader.uvarint() {
            Ok(value) => {
                self.at += arrived.len() - reader.rest().len();
                Ok(value)
            }
            // It has one byte more than have arrived, at least.
            Err(Malformed::Short) if self.at.max(self.arrived.len()) < self.left => Err(Stop::Need(self.at.max(self.arrived.len()) + 1)),
            Err(malformed) => Err(malformed.into()),
        }
    }

    /// The length of a text that may be null: any negative one is, as brokers read it.
    fn text_len(&mut self) -> Result<Option<usize>, Stop> {
        if self.flexible {
            return Ok(self.uvarint()?.checked_sub(1).map(|len| len as usize));
        }
        Ok(usize::try_from(i16::from_be_bytes(self.array()?)).ok())
    }

    fn skip_text(&mut self) -> Result<(), Stop> {
        let len = self.text_len()?.unwrap_or_default();
        self.skip(len)
    }

    fn skip_tagged_field(&mut self) -> Result<(), Stop> {
        self.uvarint()?;
        let len = self.uvarint()?;
        self.skip(len as usize)
    }

    /// A text that may be null, once it is there.
    fn text(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        let at = self.at;
        match self.text_up_to(MAX_TEXT)? {
            None if self.at - at > MAX_TEXT => Err(Stop::TooLong),
            text => Ok(text),
        }
    }

    /// A text of so many bytes at most, once it is there. `None`: it is null; or it is longer, and need not have arrived.
    fn text_up_to(&mut self, most: usize) -> Result<Option<&'a [u8]>, Stop> {
        let Some(len) = self.text_len()? else { return Ok(None) };
        let from = self.at;
        self.skip(len)?;
        if len > most {
            return Ok(None);
        }
        self.arrived.get(from..self.at).map(Some).ok_or(Stop::Need(self.at))
    }

    /// The elements of an array, or the bytes of records; 0 for null, which is any negative length, as brokers read it.
    fn len(&mut self) -> Result<usize, Stop> {
        if self.flexible {
            return Ok(self.uvarint()?.saturating_sub(1) as usize);
        }
        Ok(usize::try_from(i32::from_be_bytes(self.array()?)).unwrap_or(0))
    }

    /// The elements of an array that may be null. Each has `least` bytes or more, so that they cannot be more than the body has room for.
    fn elements(&mut self, least: usize) -> Result<usize, Stop> {
        let count = self.len()?;
        if count <= (self.left - self.at) / least { Ok(count) } else { Err(Stop::Malformed) }
    }
}

//! Bodies that arrive in pieces.

use std::hash::{DefaultHasher, Hash, Hasher};

use uuid::Uuid;

use super::Shifted;
use super::messages::Dice;
use crate::api::{Field, Kind, MAX_TEXT, PRODUCE_REQUEST, Rewrite, RewriteError, Step, Unmapped, Walk, put_uvarint, rewrite};

/// How a message is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema {
    pub(super) fields: &'static [Field],
    pub(super) version: i16,
    pub(super) flexible: bool,
}

impl Schema {
    /// However a body is cut, the same comes out of it, and [`Rewrite`] is asked the same in the same order.
    pub(super) fn is_the_same_in_pieces(self, body: &[u8], dice: &mut Dice) {
        let Self { fields, version, flexible } = self;
        let mut by = Heard::default();
        let whole = rewrite(fields, version, flexible, body, &mut by).map(|rewritten| rewritten.unwrap_or_else(|| body.to_vec()));
        let is_the_same = |piece: &mut dyn FnMut() -> usize| {
            let mut heard = Heard::default();
            assert_eq!(self.walk(body, &mut heard, piece), whole, "{self:?} {:?}", body.escape_ascii().to_string());
            assert_eq!(heard.asked.finish(), by.asked.finish(), "{self:?} {:?}", body.escape_ascii().to_string());
        };
        // Beyond some hundred bytes there are only longer texts.
        is_the_same(&mut || if body.len() < 1_000 { 1 } else { 97 });
        is_the_same(&mut || dice.piece());
        is_the_same(&mut || usize::MAX);
    }

    /// What comes out of a body of which `piece` says how many bytes arrive next.
    fn walk(self, body: &[u8], by: &mut impl Rewrite, mut piece: impl FnMut() -> usize) -> Result<Vec<u8>, RewriteError> {
        let mut walk = Walk::new(self.fields, self.version, self.flexible, body.len());
        let (mut told, mut arrived, mut out) = (0, 0, Vec::new());
        loop {
            match walk.step(&body[told..arrived], by)? {
                Step::Need(len) => {
                    assert!(told + len > arrived && told + len <= body.len() && len <= MAX_TEXT + 32, "{len} at {told}");
                    arrived = piece().saturating_add(arrived).min(body.len());
                }
                Step::Pass(len) | Step::Records(len) => {
                    assert!(len > 0);
                    out.extend_from_slice(&body[told..told + len]);
                    told += len;
                    arrived = arrived.max(told);
                }
                Step::Replace { len, with } => {
                    assert!(len > 0 && told + len <= arrived);
                    out.extend_from_slice(with);
                    told += len;
                }
                Step::End => {
                    assert_eq!(told, body.len());
                    return Ok(out);
                }
            }
        }
    }
}

/// [`Shifted`], and all that it was asked.
#[derive(Default)]
struct Heard {
    by: Shifted,
    asked: DefaultHasher,
}

impl Rewrite for Heard {
    fn node_id(&mut self, node_id: i32) -> Result<i32, Unmapped> {
        ("node_id", node_id).hash(&mut self.asked);
        self.by.node_id(node_id)
    }

    fn replica_id(&mut self, node_id: i32) -> i32 {
        ("replica_id", node_id).hash(&mut self.asked);
        self.by.replica_id(node_id)
    }

    fn address(&mut self, node_id: i32, host: &str, port: i32) -> Result<(String, u16), Unmapped> {
        ("address", node_id, host, port).hash(&mut self.asked);
        self.by.address(node_id, host, port)
    }

    fn error_message(&mut self, message: &str) -> Option<String> {
        ("error_message", message).hash(&mut self.asked);
        self.by.error_message(message)
    }

    fn cluster_id(&mut self, cluster_id: &str) -> String {
        ("cluster_id", cluster_id).hash(&mut self.asked);
        self.by.cluster_id(cluster_id)
    }

    fn producer_id(&mut self, producer_id: i64) -> i64 {
        ("producer_id", producer_id).hash(&mut self.asked);
        self.by.producer_id(producer_id)
    }

    fn topic_id(&mut self, topic_id: Uuid) -> Uuid {
        ("topic_id", topic_id).hash(&mut self.asked);
        self.by.topic_id(topic_id)
    }

    fn named_topic_id(&mut self, topic_id: Uuid, name: Option<&str>) -> Uuid {
        ("named_topic_id", topic_id, name).hash(&mut self.asked);
        self.by.named_topic_id(topic_id, name)
    }

    fn group(&mut self, group_id: &str) {
        ("group", group_id).hash(&mut self.asked);
        self.by.group(group_id);
    }

    fn topic(&mut self, name: &str) {
        ("topic", name).hash(&mut self.asked);
        self.by.topic(name);
    }

    fn partition(&mut self, partition: i32) -> i32 {
        ("partition", partition).hash(&mut self.asked);
        self.by.partition(partition)
    }

    fn partition_error(&mut self, error_code: i16) -> i16 {
        ("partition_error", error_code).hash(&mut self.asked);
        self.by.partition_error(error_code)
    }
}

/// A [`Step`] with bytes of its own.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Need(usize),
    Pass(usize),
    Records(usize),
    Replace(usize, Vec<u8>),
    End,
}

/// A world that is the same on both sides.
struct Unchanged;

impl Rewrite for Unchanged {}

fn say(walk: &mut Walk, arrived: &[u8]) -> Said {
    say_by(walk, arrived, &mut Shifted::default())
}

fn say_by(walk: &mut Walk, arrived: &[u8], by: &mut impl Rewrite) -> Said {
    match walk.step(arrived, by).expect("it is a message") {
        Step::Need(len) => Said::Need(len),
        Step::Pass(len) => Said::Pass(len),
        Step::Records(len) => Said::Records(len),
        Step::Replace { len, with } => Said::Replace(len, with.to_vec()),
        Step::End => Said::End,
    }
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, since: 0, until: i16::MAX, kind }
}

#[test]
fn what_only_passes_need_not_have_arrived_and_records_pass_by_themselves() {
    const GIB: usize = 1 << 30;
    // No transactional_id, acks, timeout_ms; one topic; "orders"; two partitions; the first one's index.
    let head = [&[0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 1, 0, 6][..], b"orders", &[0, 0, 0, 2, 0, 0, 0, 0]].concat();
    let second = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
    let say = |walk: &mut Walk, arrived: &[u8]| say_by(walk, arrived, &mut Unchanged);
    let mut walk = Walk::new(PRODUCE_REQUEST, 3, false, head.len() + 4 + GIB + second.len());

    assert_eq!(say(&mut walk, &[]), Said::Need(2));
    assert_eq!(say(&mut walk, &head[..2]), Said::Pass(8));
    assert_eq!(say(&mut walk, &head[8..10]), Said::Need(4));
    // The name of a topic is asked about.
    assert_eq!(say(&mut walk, &head[8..14]), Said::Pass(4));
    assert_eq!(say(&mut walk, &head[12..14]), Said::Need(8));
    assert_eq!(say(&mut walk, &[&head[12..], &(GIB as i32).to_be_bytes()].concat()), Said::Pass(16));
    assert_eq!(say(&mut walk, &(GIB as i32).to_be_bytes()), Said::Records(4 + GIB));
    assert_eq!(say(&mut walk, &second), Said::Pass(4));
    assert_eq!(say(&mut walk, &second[4..]), Said::Records(4));
    assert_eq!(say(&mut walk, b"the next frame"), Said::End);
}

#[test]
fn changes_are_one_replacement_up_to_records() {
    const FIELDS: &[Field] = &[
        field("node_id", Kind::NodeId),
        field("error_code", Kind::Fixed(2)),
        field("leader_epoch", Kind::LeaderEpoch),
        field("records", Kind::Records),
        field("leader_id", Kind::NodeId),
    ];
    let body = [0, 0, 0, 7, 5, 5, 0, 0, 0, 9, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 8, 4, 4];
    let mut walk = Walk::new(FIELDS, 0, false, body.len());
    assert_eq!(say(&mut walk, &body), Said::Replace(10, [&1_000_007i32.to_be_bytes()[..], &[5, 5], &[0xff; 4]].concat()));
    assert_eq!(say(&mut walk, &body[10..]), Said::Records(7));
    assert_eq!(say(&mut walk, &body[17..]), Said::Replace(4, 1_000_008i32.to_be_bytes().to_vec()));
    assert_eq!(say(&mut walk, &body[21..]), Said::Pass(2));
    assert_eq!(say(&mut walk, &[]), Said::End);
}

#[test]
fn a_text_is_waited_for_up_to_kafkas_limit_and_passes_beyond_it() {
    const CLUSTER_ID: &[Field] = &[field("cluster_id", Kind::ClusterId)];
    const MESSAGE: &[Field] = &[field("error_message", Kind::Text)];
    let text = |len: usize| {
        let mut body = Vec::new();
        put_uvarint(&mut body, len as u32 + 1);
        body.resize(body.len() + len, b'a');
        body
    };
    let longest = text(MAX_TEXT);
    let mut walk = Walk::new(CLUSTER_ID, 0, true, longest.len());
    assert_eq!(say(&mut walk, &longest[..3]), Said::Need(longest.len()));
    assert!(matches!(say(&mut walk, &longest), Said::Replace(len, _) if len == longest.len()));

    // It is an error as soon as its length is there.
    let longer = text(MAX_TEXT + 1);
    let error = Walk::new(CLUSTER_ID, 0, true, longer.len()).step(&longer[..3], &mut Shifted::default()).expect_err("it is too long");
    assert_eq!(error, RewriteError::TooLong("cluster_id"));
    assert_eq!(error.to_string(), "its field cluster_id has a text of more than 32767 bytes, which Kafka allows nowhere");
    let mut walk = Walk::new(MESSAGE, 0, true, longer.len());
    assert_eq!(say(&mut walk, &longer[..3]), Said::Pass(longer.len()));

    // So is one that is longer than the body has room for.
    let error = Walk::new(CLUSTER_ID, 0, true, longer.len() - 1).step(&longer[..3], &mut Shifted::default()).expect_err("it is cut");
    assert_eq!(error, RewriteError::Broken("cluster_id"));
}

#[test]
fn every_partition_of_a_topic_is_asked_about() {
    struct Masking(bool);
    impl Rewrite for Masking {
        fn topic(&mut self, name: &str) {
            self.0 = name == "payments";
        }
        fn partition(&mut self, partition: i32) -> i32 {
            if self.0 { partition | 1 << 30 } else { partition }
        }
    }
    let body = |mask: u8| {
        let mut body = vec![0xff, 0xff, 0, 1, 0, 0, 0, 9, 0, 0, 0, 2, 0, 8];
        body.extend_from_slice(b"payments");
        body.extend_from_slice(&[0, 0, 0, 2, mask, 0, 0, 0, 0, 0, 0, 2, 7, 7, mask, 0, 0, 3, 0, 0, 0, 1, 7, 0, 6]);
        body.extend_from_slice(b"orders");
        body.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 7]);
        body
    };
    let mut body_now = body(0);
    let mut walk = Walk::new(PRODUCE_REQUEST, 3, false, body_now.len());
    let mut by = Masking(false);
    let mut at = 0;
    loop {
        match walk.step(&body_now[at..], &mut by).unwrap() {
            Step::Replace { len, with } => {
                let with = with.to_vec();
                body_now[at..at + len].copy_from_slice(&with);
                at += len;
            }
            Step::Pass(len) | Step::Records(len) => at += len,
            Step::Need(len) => panic!("{len}"),
            Step::End => break,
        }
    }
    assert_eq!(body_now, body(0x40));
}

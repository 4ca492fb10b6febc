//! Versions that kafka-protocol does not know (any more), byte by byte.

use kafka_protocol::messages::ApiKey;

use super::messages::Dice;
use super::{Example, ListOffsetsRequest, ListOffsetsResponse, Side, encoded};

/// A message in a version, and what it should become.
type ByHand = (ApiKey, Side, i16, Vec<u8>, Vec<u8>);

pub(super) fn messages() -> Vec<ByHand> {
    use Side::{Request, Response};
    let mut all = Vec::new();
    for version in 0..=2 {
        let body = |partitions: [i32; 2]| {
            let body = Body::default().i16(-1).i32(500).i32(1).text("orders").i32(2);
            body.i32(partitions[0]).i32(3).bytes(&[1, 2, 3]).i32(partitions[1]).i32(-1).0
        };
        all.push((ApiKey::Produce, Request, version, body([0, 1]), body([1_000_006, 1_000_007])));
    }
    for version in 0..=2 {
        let body = |partitions: [i32; 3], errors: [i16; 3]| {
            let partition = |body: Body, n: usize| {
                let body = body.i32(partitions[n]).i16(errors[n]).i64(99);
                body.if_since(version, 2, |body| body.i64(-1))
            };
            let body = Body::default().i32(2).text("orders").i32(2).with(|body| partition(body, 0)).with(|body| partition(body, 1));
            let body = body.text("").i32(1).with(|body| partition(body, 2));
            body.if_since(version, 1, |body| body.i32(7)).0
        };
        let meant = body([1_000_006, 1_000_007, 1_000_000], [100, 106, 99]);
        all.push((ApiKey::Produce, Response, version, body([0, 1, 0], [0, 6, -1]), meant));
    }
    for version in 0..=3 {
        let body = |partitions: [i32; 2], errors: [i16; 2]| {
            let body = Body::default().if_since(version, 1, |body| body.i32(7)).i32(1).text("orders").i32(2);
            let body = body.i32(partitions[0]).i16(errors[0]).i64(99).i32(3).bytes(&[1, 2, 3]);
            body.i32(partitions[1]).i16(errors[1]).i64(-1).i32(-1).0
        };
        all.push((ApiKey::Fetch, Response, version, body([0, 1], [0, 3]), body([1_000_006, 1_000_007], [100, 103])));
    }
    for version in 0..=3 {
        // No leader epochs and no rack yet.
        let body = Body::default().i32(-1).i32(500).i32(1).if_since(version, 3, |body| body.i32(1 << 20));
        let partition = |body: Body, index| body.i32(index).i64(77).i32(1 << 20);
        let body = body.i32(2).text("orders").i32(2).with(|body| partition(body, 0)).with(|body| partition(body, 1)).text("").i32(0);
        all.push((ApiKey::Fetch, Request, version, body.0.clone(), body.0));
    }

    let body = |partitions: [i32; 2]| {
        let body = Body::default().i32(-1).i32(1).text("orders").i32(2);
        body.i32(partitions[0]).i64(-1).i32(5).i32(partitions[1]).i64(-2).i32(1).0
    };
    all.push((ApiKey::ListOffsets, Request, 0, body([0, 1]), body([1_000_006, 1_000_007])));
    let body = |partitions: [i32; 2], errors: [i16; 2]| {
        let body = Body::default().i32(1).text("orders").i32(2).i32(partitions[0]).i16(errors[0]).i32(2).i64(9).i64(0);
        body.i32(partitions[1]).i16(errors[1]).i32(0).0
    };
    all.push((ApiKey::ListOffsets, Response, 0, body([0, 1], [0, 3]), body([1_000_006, 1_000_007], [100, 103])));
    // 11 has 10's form, only a timestamp more that has a meaning (KIP-1023).
    for seed in 0..50 {
        let (body, meant) = as_in_10::<ListOffsetsRequest>(seed);
        all.push((ApiKey::ListOffsets, Request, 11, body, meant));
        let (body, meant) = as_in_10::<ListOffsetsResponse>(seed);
        all.push((ApiKey::ListOffsets, Response, 11, body, meant));
    }

    for version in 0..=1 {
        let body = Body::default().text("group").if_since(version, 1, |body| body.i32(4).text("member"));
        let body = body.i32(1).text("orders").i32(1).i32(0).i64(77).if_since(version, 1, |body| body.i64(1_700_000_000_000)).null();
        all.push((ApiKey::OffsetCommit, Request, version, body.0.clone(), body.0));
    }

    let body = Body::default().i32(1).text("orders").i32(2).i32(0).i64(77).text("here").i16(0).i32(1).i64(-1).null().i16(3);
    all.push((ApiKey::OffsetFetch, Response, 0, body.0.clone(), body.0));

    for version in 0..=1 {
        let body = |node_ids: [i32; 3]| {
            let assignments = Body::default().i32(2).i32(0).i32(2).i32(node_ids[0]).i32(node_ids[1]).i32(1).i32(1).i32(node_ids[2]);
            let body = Body::default().i32(2).text("orders").i32(-1).i16(-1).bytes(&assignments.0).i32(1).text("cleanup.policy").null();
            let body = body.text("payments").i32(6).i16(3).i32(0).i32(0).i32(30_000);
            body.if_since(version, 1, |body| body.bytes(&[1])).0
        };
        all.push((ApiKey::CreateTopics, Request, version, body([1, 2, 3]), body([1_000_001, 1_000_002, 1_000_003])));
    }

    let body = Body::default().i32(1).text("orders").i16(36).0;
    all.push((ApiKey::CreateTopics, Response, 0, body.clone(), body));
    let body = |message: &str| Body::default().i32(2).text("orders").i16(39).text(message).text("payments").i16(0).null().0;
    all.push((ApiKey::CreateTopics, Response, 1, body("no ż7"), body("no n7")));

    let body = Body::default().i32(2).text("orders").text("").i32(30_000).0;
    all.push((ApiKey::DeleteTopics, Request, 0, body.clone(), body));

    let body = |broker: &str| {
        let body = Body::default().i32(3).bytes(&[2]).text("1").i32(-1).bytes(&[4]).text(broker).i32(2).text("a").text("");
        body.bytes(&[4]).text("").i32(0).0
    };
    all.push((ApiKey::DescribeConfigs, Request, 0, body("1"), body("1000001")));
    let body = |broker: &str| {
        let body = Body::default().i32(0).i32(2).i16(0).null().bytes(&[8]).text(broker).i32(2);
        let body = body.text("node.id").text(broker).bytes(&[0, 1, 0]).text("password").null().bytes(&[1, 0, 1]);
        body.i16(40).text("no such topic").bytes(&[2]).text("1").i32(0).0
    };
    all.push((ApiKey::DescribeConfigs, Response, 0, body("1"), body("1000001")));
    all
}

fn as_in_10<M: Example>(seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut message = M::throw(&mut Dice::new(seed, 10, true));
    let body = encoded(&message, 10);
    message.change(10);
    (body, encoded(&message, 10))
}

/// Fields one after the other, none of them compact.
#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn i16(self, value: i16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i32(self, value: i32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn i64(self, value: i64) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    fn text(self, text: &str) -> Self {
        self.i16(text.len() as i16).bytes(text.as_bytes())
    }

    fn null(self) -> Self {
        self.i16(-1)
    }

    fn with(self, then: impl FnOnce(Self) -> Self) -> Self {
        then(self)
    }

    fn if_since(self, version: i16, since: i16, then: impl FnOnce(Self) -> Self) -> Self {
        if version >= since { then(self) } else { self }
    }
}

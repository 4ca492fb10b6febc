//! Writing to a copy by mistake is impossible, however a Produce request is made and cut: what comes to the wrong cluster is carried to its leader.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use harness::kafka::Record;
use harness::raw::{self, Raw, ask, until};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DescribeProducersRequest, InitProducerIdRequest, ListOffsetsRequest, ProduceRequest, ProduceResponse, ProducerId,
    WriteTxnMarkersRequest,
};
use kferry_wire::batch::{self, Codec, Sequence};

use crate::{NOT_LEADER_OR_FOLLOWER, Names, Side, Stage, calm, topic_name};

/// A batch of one record. With a producer's id and a sequence it is idempotent.
pub(crate) fn batch_of(value: &str, id: Option<(i64, i32)>) -> Result<Bytes> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as i64;
    let record = batch::Record { offset: 0, timestamp: now, key: None, value: Some(Bytes::from(value.to_owned())), headers: Vec::new() };
    let sequence = match id {
        Some((producer_id, base_sequence)) => Sequence { producer_id, producer_epoch: 0, base_sequence },
        None => Sequence::NONE,
    };
    Ok(batch::encode(&[record], Codec::None, sequence)?)
}

pub(crate) fn produce(acks: i16, entries: &[(&str, i32, Bytes)]) -> ProduceRequest {
    let mut topics = Vec::<TopicProduceData>::new();
    for (topic, partition, records) in entries {
        let data = PartitionProduceData::default().with_index(*partition).with_records(Some(records.clone()));
        match topics.last_mut() {
            Some(last) if last.name.as_str() == *topic => last.partition_data.push(data),
            _ => topics.push(TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data])),
        }
    }
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(topics)
}

/// Error and base offset of each partition.
pub(crate) fn outcomes(answer: &ProduceResponse) -> Result<BTreeMap<(String, i32), (i16, i64)>> {
    let mut all = BTreeMap::new();
    for topic in &answer.responses {
        for partition in &topic.partition_responses {
            let twice = all.insert((topic.name.to_string(), partition.index), (partition.error_code, partition.base_offset));
            ensure!(twice.is_none(), "answered twice: {answer:?}");
        }
    }
    Ok(all)
}

/// An id for an idempotent producer. Just after its start a broker may not know which ones are its own.
pub(crate) fn producer_id(client: &mut Raw, client_id: &str) -> Result<i64> {
    let mut id = -1;
    until("there is a producer id", || {
        let answer = ask(client, 4, client_id, &InitProducerIdRequest::default().with_transactional_id(None))?;
        id = answer.producer_id.0;
        Ok(answer.error_code == 0)
    })?;
    Ok(id)
}

/// A broker that leads partitions of two topics in its own cluster: of one that leads there, and of the copy of one that does not. Only such a broker would
/// write what is not to be written.
struct Tempted<'a> {
    stage: &'a Stage,
    side: Side,
    node_id: i32,
    /// Leads elsewhere.
    foreign: String,
    foreign_partitions: Vec<i32>,
    /// Leads here.
    own: String,
    own_partition: i32,
    /// What was written to the own partition so far.
    written: Vec<String>,
    /// What was carried to each foreign partition so far.
    carried: BTreeMap<i32, Vec<String>>,
}

impl<'a> Tempted<'a> {
    fn find(stage: &'a Stage, side: Side, what: &str) -> Result<Self> {
        let (foreign, own) = (side.other().leads(what), side.leads(what));
        let of_each = |topic: &str| -> Result<BTreeMap<i32, Vec<i32>>> {
            let mut all = BTreeMap::<_, Vec<i32>>::new();
            for (index, partition) in (0..).zip(stage.cluster(side).partitions(topic)?) {
                all.entry(partition.leader).or_default().push(index);
            }
            Ok(all)
        };
        let (of_foreign, mut of_own) = (of_each(&foreign)?, of_each(&own)?);
        for (node_id, foreign_partitions) in of_foreign {
            if let Some(own_partition) = of_own.remove(&node_id).and_then(|partitions| partitions.first().copied()) {
                let carried = foreign_partitions.iter().map(|partition| (*partition, Vec::new())).collect();
                return Ok(Self { stage, side, node_id, foreign, foreign_partitions, own, own_partition, written: Vec::new(), carried });
            }
        }
        bail!("no broker of {side:?} leads partitions of both {foreign} and {own}")
    }

    fn client(&self) -> Result<Raw> {
        self.stage.at(self.side, self.node_id)
    }

    /// One entry for what leads here, one for each foreign partition.
    fn entries(&self, value: &str, id: Option<(i64, i32)>, foreign_first: bool) -> Result<Vec<(&str, i32, Bytes)>> {
        let mut entries = vec![(&*self.own, self.own_partition, batch_of(value, id)?)];
        for &partition in &self.foreign_partitions {
            let entry = (&*self.foreign, partition, batch_of(value, id)?);
            if foreign_first { entries.insert(entries.len() - 1, entry) } else { entries.push(entry) }
        }
        Ok(entries)
    }

    /// Each entry was appended where it belongs.
    fn is_answered(&mut self, answer: &ProduceResponse, value: &str) -> Result<()> {
        let mut expected: BTreeMap<_, _> = self.is_carried(value).into_iter().collect();
        expected.insert((self.own.clone(), self.own_partition), (0, self.written.len() as i64));
        let found = outcomes(answer)?;
        ensure!(found == expected, "answered {found:?}, and not {expected:?}");
        self.written.push(value.to_owned());
        Ok(())
    }

    /// A record more in each foreign partition. Returns what is to be answered.
    fn is_carried(&mut self, value: &str) -> Vec<((String, i32), (i16, i64))> {
        let append = |(partition, records): (&i32, &mut Vec<String>)| {
            records.push(value.to_owned());
            ((self.foreign.clone(), *partition), (0, records.len() as i64 - 1))
        };
        self.carried.iter_mut().map(append).collect()
    }

    fn sends_mixed_frames(&mut self, home: Side) -> Result<()> {
        let client_id = home.client("masked");
        let mut client = self.client()?;
        for version in [3, 7, 8, 9] {
            for is_idempotent in [false, true] {
                let id = if is_idempotent { Some(producer_id(&mut client, &client_id)?) } else { None };
                for (sequence, foreign_first) in [(0, true), (1, false), (2, true)] {
                    let value = format!("{home:?} v{version} {is_idempotent} {sequence}");
                    let request = produce(-1, &self.entries(&value, id.map(|id| (id, sequence)), foreign_first)?);
                    let answer = ask(&mut client, version, &client_id, &request)?;
                    self.is_answered(&answer, &value).with_context(|| value.clone())?;
                }
                self.has_no_producer(id)?;
            }
            // Nothing but foreign entries.
            let foreign: Vec<_> = self.entries("alone", None, true)?.into_iter().filter(|(topic, ..)| *topic == self.foreign).collect();
            let answer = ask(&mut client, version, &client_id, &produce(1, &foreign))?;
            let (found, expected) = (outcomes(&answer)?, self.is_carried("alone").into_iter().collect());
            ensure!(found == expected, "v{version}: answered {found:?}, and not {expected:?}");
        }
        Ok(())
    }

    /// The copy's broker has never heard of this producer.
    fn has_no_producer(&self, id: Option<i64>) -> Result<()> {
        let Some(id) = id else { return Ok(()) };
        let mut broker = self.stage.directly_at(self.side, self.node_id)?;
        let topics = [(&self.foreign, &self.foreign_partitions), (&self.own, &vec![self.own_partition])]
            .map(|(topic, partitions)| TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(partitions.clone()));
        let answer = ask(&mut broker, 0, "direct", &DescribeProducersRequest::default().with_topics(topics.into()))?;
        for topic in answer.topics {
            for partition in topic.partitions {
                let is_known = partition.active_producers.iter().any(|producer| producer.producer_id.0 == id);
                let is_own = topic.name.as_str() == self.own;
                ensure!(partition.error_code == 0 && is_known == is_own, "{}: {partition:?}", topic.name.as_str());
            }
        }
        Ok(())
    }

    /// Pieces of a frame may end anywhere.
    fn sends_frames_in_pieces(&mut self, version: i16, home: Side) -> Result<()> {
        let client_id = home.client("cut");
        let mut client = self.client()?;
        let whole = raw::request(version, 0, &client_id, &produce(1, &self.entries("piece 000", None, true)?))?.len();
        for cut in 1..=whole {
            let value = format!("piece {cut:03}");
            let frame = raw::request(version, cut as i32, &client_id, &produce(1, &self.entries(&value, None, cut % 2 == 0)?))?;
            ensure!(frame.len() == whole, "frames of two lengths");
            client.send(&frame[..cut])?;
            // Long enough that the proxy mostly reads what is there.
            thread::sleep(Duration::from_millis(1));
            client.send(&frame[cut..])?;
            self.takes_answer(&mut client, version, cut as i32, &value).with_context(|| format!("cut after {cut} bytes of {whole}"))?;
        }
        let value = "byte by byte";
        for byte in raw::request(version, 0, &client_id, &produce(1, &self.entries(value, None, true)?))? {
            client.send(&[byte])?;
        }
        self.takes_answer(&mut client, version, 0, value).context("byte by byte")?;
        // All at once: the frames, in one piece.
        let values: Vec<String> = (0..20).map(|n| format!("at once {n}")).collect();
        let mut frames = Vec::new();
        for (n, value) in (0..).zip(&values) {
            frames.extend(raw::request(version, n, &client_id, &produce(1, &self.entries(value, None, n % 2 == 0)?))?);
        }
        client.send(&frames)?;
        for (n, value) in (0..).zip(&values) {
            self.takes_answer(&mut client, version, n, value).with_context(|| value.clone())?;
        }
        Ok(())
    }

    /// The leader's log has these records, once and in order.
    fn has_all_in_order(&self, log: &[Record], partition: i32, expected: &[String]) -> Result<()> {
        let of = log.iter().filter(|record| record.partition == partition);
        let found = of.map(|record| Ok(String::from_utf8(record.value.clone().context("a value")?)?)).collect::<Result<Vec<_>>>()?;
        ensure!(
            found == expected,
            "partition {partition} at {:?} has {} records, {} were acknowledged",
            self.side,
            found.len(),
            expected.len()
        );
        Ok(())
    }

    fn takes_answer(&mut self, client: &mut Raw, version: i16, correlation_id: i32, value: &str) -> Result<()> {
        let answer = raw::answer::<ProduceRequest>(client, version, correlation_id)?;
        self.is_answered(&answer, value)
    }

    /// The connection goes on, and nothing is answered.
    fn sends_without_asking_for_an_answer(&mut self, home: Side) -> Result<()> {
        let client_id = home.client("acks-0");
        for version in [3, 9] {
            let mut client = self.client()?;
            let value = format!("{home:?} v{version} acks 0");
            for is_idempotent in [false, true] {
                // Which is no idempotent producer, but may come all the same.
                let id = if is_idempotent { Some((producer_id(&mut client, &client_id)?, 0)) } else { None };
                client.send(&raw::request(version, 7, &client_id, &produce(0, &self.entries(&value, id, version == 3)?))?)?;
                self.written.push(value.clone());
                self.is_carried(&value);
            }
            let answer = ask(&mut client, version, &client_id, &produce(1, &self.entries("after acks 0", None, false)?))?;
            self.is_answered(&answer, "after acks 0")?;
        }
        Ok(())
    }

    /// What else is the leader's alone: where the log ends, and what is deleted of it.
    fn asks_for_what_is_the_leaders(&self, home: Side) -> Result<()> {
        let client_id = home.client("asking");
        let mut client = self.client()?;
        let theirs = self.foreign_partitions[0];
        for version in [1, 5, 7] {
            let topics = [(&self.foreign, theirs), (&self.own, self.own_partition)].map(|(topic, partition)| {
                let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
                ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])
            });
            let answer = ask(
                &mut client,
                version,
                &client_id,
                &ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(topics.into()),
            )?;
            for topic in answer.topics {
                let partition = &topic.partitions[0];
                let found = (partition.partition_index, partition.error_code, partition.offset);
                let is_own = topic.name.as_str() == self.own;
                let expected =
                    if is_own { (self.own_partition, 0, self.written.len() as i64) } else { (theirs, NOT_LEADER_OR_FOLLOWER, -1) };
                ensure!(found == expected, "ListOffsets v{version} of {}: {partition:?}", topic.name.as_str());
            }
        }
        for version in [1, 2] {
            let topics = [(&self.foreign, theirs, 2), (&self.own, self.own_partition, 0)].map(|(topic, partition, offset)| {
                let partition = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
                DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])
            });
            let request = DeleteRecordsRequest::default().with_topics(topics.into()).with_timeout_ms(30_000);
            let answer = ask(&mut client, version, &client_id, &request)?;
            for topic in answer.topics {
                let partition = &topic.partitions[0];
                let (index, error) =
                    if topic.name.as_str() == self.own { (self.own_partition, 0) } else { (theirs, NOT_LEADER_OR_FOLLOWER) };
                ensure!(
                    (partition.partition_index, partition.error_code) == (index, error),
                    "DeleteRecords v{version} of {}: {partition:?}",
                    topic.name.as_str()
                );
            }
        }
        let starts = self.stage.cluster(self.side).log_starts(&self.foreign)?;
        ensure!(starts.iter().all(|start| *start == 0), "the copy begins at {starts:?}");
        let topics = [(&self.foreign, theirs), (&self.own, self.own_partition)]
            .map(|(topic, partition)| TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]));
        let answer = ask(&mut client, 0, &client_id, &DescribeProducersRequest::default().with_topics(topics.into()))?;
        for topic in answer.topics {
            let expected = if topic.name.as_str() == self.own { 0 } else { NOT_LEADER_OR_FOLLOWER };
            ensure!(topic.partitions[0].error_code == expected, "DescribeProducers of {}: {:?}", topic.name.as_str(), topic.partitions);
        }
        // As `kafka-transactions.sh abort` does it; one in the copy would be seen in the end, when it is compared.
        let topic = WritableTxnMarkerTopic::default().with_name(topic_name(&self.foreign)).with_partition_indexes(vec![theirs]);
        let marker = WritableTxnMarker::default().with_producer_id(ProducerId(4_711)).with_topics(vec![topic]);
        let answer = ask(&mut client, 1, &client_id, &WriteTxnMarkersRequest::default().with_markers(vec![marker]))?;
        let told: Vec<_> = answer.markers.iter().flat_map(|of| &of.topics).flat_map(|topic| &topic.partitions).collect();
        ensure!(
            told.len() == 1 && (told[0].partition_index, told[0].error_code) == (theirs, NOT_LEADER_OR_FOLLOWER),
            "WriteTxnMarkers: {answer:?}"
        );
        Ok(())
    }
}

#[test]
fn writes_reach_the_leader_and_never_the_copy() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            for what in ["masked", "masked-legacy", "masked-new"] {
                stage.create_copied(side, &side.leads(what), 6)?;
            }
        }
        for side in Side::BOTH {
            let what = format!("masked-{}", side.name());
            let mut tempted = Tempted::find(stage, side, &what)?;
            for home in Side::BOTH {
                let context = || format!("a client of {home:?} at a broker of {side:?}");
                tempted.sends_mixed_frames(home).with_context(context)?;
                tempted.sends_without_asking_for_an_answer(home).with_context(context)?;
            }
            for (version, home) in [(3, Side::Legacy), (9, Side::New)] {
                tempted.sends_frames_in_pieces(version, home).with_context(|| format!("v{version} at a broker of {side:?}"))?;
            }
            for side in Side::BOTH {
                stage.is_copied(side, &side.leads(&what))?;
            }
            let own = stage.cluster(side).read_all(&tempted.own)?;
            tempted.has_all_in_order(&own, tempted.own_partition, &tempted.written)?;
            let foreign = stage.cluster(side.other()).read_all(&tempted.foreign)?;
            for (partition, expected) in &tempted.carried {
                tempted.has_all_in_order(&foreign, *partition, expected)?;
            }
            let carried = tempted.carried.values().map(Vec::len).sum::<usize>();
            println!("{side:?}: {} records to {} at its leader, {carried} carried to {:?}", own.len(), tempted.own, tempted.foreign);
        }
        for side in Side::BOTH {
            // Something that could be deleted of the copy.
            let foreign = side.other().leads("masked");
            let records: Vec<Record> =
                (0..6).flat_map(|partition| (0..5).map(move |n| Record::new("k", format!("{n}")).to_partition(partition))).collect();
            stage.cluster(side.other()).produce(&foreign, &records)?;
            stage.is_copied(side.other(), &foreign)?;
        }
        for side in Side::BOTH {
            let mut tempted = Tempted::find(stage, side, "masked")?;
            let end = stage.cluster(side).log_ends(&tempted.own)?[tempted.own_partition as usize];
            tempted.written = vec![String::new(); end as usize];
            for home in Side::BOTH {
                tempted.asks_for_what_is_the_leaders(home).with_context(|| format!("a client of {home:?} at a broker of {side:?}"))?;
            }
        }
        stage.no_copy_has_diverged(".masked")
    })
}

//! Messages with everything in them that a schema must find its way past.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse, AlterConfigsRequest, AlterConfigsResponse,
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, BrokerId, ConsumerGroupDescribeRequest,
    ConsumerGroupDescribeResponse, ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, CreatePartitionsRequest,
    CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteGroupsRequest, DeleteRecordsRequest, DeleteRecordsResponse,
    DeleteTopicsRequest, DeleteTopicsResponse, DescribeClusterResponse, DescribeConfigsRequest, DescribeConfigsResponse,
    DescribeGroupsRequest, DescribeProducersRequest, DescribeProducersResponse, DescribeTransactionsRequest, ElectLeadersRequest,
    FetchRequest, FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, GroupId, HeartbeatRequest,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, InitProducerIdResponse, JoinGroupRequest, LeaveGroupRequest,
    ListOffsetsRequest, ListOffsetsResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, MetadataRequest,
    MetadataResponse, OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, OffsetFetchResponse, ProduceRequest, ProduceResponse,
    ProducerId, SyncGroupRequest, TopicName, TransactionalId, TxnOffsetCommitRequest, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
    add_partitions_to_txn_request, add_partitions_to_txn_response, alter_configs_request, alter_configs_response,
    alter_partition_reassignments_request, alter_partition_reassignments_response, consumer_group_describe_response,
    consumer_group_heartbeat_request, consumer_group_heartbeat_response, create_partitions_request, create_partitions_response,
    create_topics_request, create_topics_response, delete_records_request, delete_records_response, delete_topics_request,
    delete_topics_response, describe_cluster_response, describe_configs_request, describe_configs_response, describe_producers_request,
    describe_producers_response, elect_leaders_request, fetch_request, fetch_response, find_coordinator_response,
    incremental_alter_configs_request, incremental_alter_configs_response, join_group_request, leave_group_request, list_offsets_request,
    list_offsets_response, list_partition_reassignments_request, list_partition_reassignments_response, metadata_request,
    metadata_response, offset_commit_request, offset_delete_request, offset_fetch_request, offset_fetch_response, produce_request,
    produce_response, sync_group_request, txn_offset_commit_request, write_txn_markers_request, write_txn_markers_response,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

/// What proptest's seed becomes.
pub(super) struct Dice {
    state: u64,
    version: i16,
    flexible: bool,
}

impl Dice {
    pub(super) fn new(seed: u64, version: i16, flexible: bool) -> Self {
        Self { state: seed, version, flexible }
    }

    /// `SplitMix64`.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.state;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn int<T: TryFrom<u64>>(&mut self) -> T
    where
        T::Error: Debug,
    {
        T::try_from(self.below(100)).expect("small")
    }

    /// Empty, short, with a length of two bytes, of three.
    fn text(&mut self) -> StrBytes {
        let len = match self.below(16) {
            0..4 => 0,
            4..14 => self.below(12),
            14 => 100 + self.below(60),
            _ => 16_380 + self.below(9),
        };
        StrBytes::from_string("żółw-".chars().cycle().take(len as usize).collect())
    }

    fn maybe<T>(&mut self, some: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(4) > 0).then(|| some(self))
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    fn epoch(&mut self) -> i32 {
        self.below(20) as i32 - 1
    }

    /// Sometimes -1, never [`NOBODY`].
    fn node(&mut self) -> BrokerId {
        BrokerId(self.below(300) as i32 - 1)
    }

    fn nodes(&mut self) -> Vec<BrokerId> {
        self.list(Self::node)
    }

    /// Sometimes zero.
    fn topic_id(&mut self) -> Uuid {
        if self.below(4) == 0 { Uuid::nil() } else { Uuid::from_u64_pair(self.next(), self.next()) }
    }

    /// A broker's name, or something else; the empty name stands for all brokers.
    fn resource(&mut self) -> (i8, StrBytes) {
        let kind = [2, 4, 8, 16, 32][self.below(5) as usize];
        let name = match self.below(6) {
            0 => "",
            1 => "-1",
            2 => "orders",
            3 => "99999999999",
            4 => "0",
            _ => return (kind, StrBytes::from_string(self.below(300).to_string())),
        };
        (kind, StrBytes::from_static_str(name))
    }

    /// The name and value of a setting, with node ids in it or not.
    fn config(&mut self) -> (StrBytes, Option<StrBytes>) {
        let (name, value) = match self.below(6) {
            0 => ("leader.replication.throttled.replicas", "0:1,11:2,2:3"),
            1 => ("follower.replication.throttled.replicas", "*"),
            2 => ("node.id", "7"),
            3 => ("broker.id", ""),
            _ => return (self.text(), self.maybe(Self::text)),
        };
        (StrBytes::from_static_str(name), self.maybe(|_| StrBytes::from_static_str(value)))
    }

    /// Null, empty, with a length of one to three bytes.
    fn records(&mut self) -> Option<Bytes> {
        let len = [0, 1, 61, 127, 128, 20_000][self.below(6) as usize];
        self.maybe(|dice| Bytes::from(vec![dice.next() as u8; len]))
    }

    /// Tags that Kafka has not given away yet.
    fn tags(&mut self) -> BTreeMap<i32, Bytes> {
        if !self.flexible {
            return BTreeMap::new();
        }
        self.list(|dice| (20_000 + dice.int::<i32>(), Bytes::from(vec![9; dice.below(200) as usize]))).into_iter().collect()
    }

    /// Bytes that arrive at once: few most times.
    pub(super) fn piece(&mut self) -> usize {
        1 + if self.below(4) > 0 { self.below(20) } else { self.below(20_000) } as usize
    }

    pub(super) fn mutated(&mut self, body: &[u8]) -> Vec<u8> {
        let mut body = body.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(body.len().max(1) as u64) as usize;
            match self.below(5) {
                0 => body.truncate(at),
                1 => body.insert(at, self.next() as u8),
                2 => body.extend_from_slice(&self.next().to_be_bytes()),
                3 => {
                    // The largest lengths there are, of every width.
                    let edge: &[u8] =
                        [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff; 5], &[0x7f, 0xff], &[0x80, 0], &[0xff, 0xff, 0xff, 0xff, 0x0f]]
                            [self.below(5) as usize];
                    let end = (at + edge.len()).min(body.len());
                    body[at..end].copy_from_slice(&edge[..end - at]);
                }
                _ => {
                    if let Some(byte) = body.get_mut(at) {
                        *byte = self.next() as u8;
                    }
                }
            }
        }
        body
    }
}

pub(super) fn produce_request(dice: &mut Dice) -> ProduceRequest {
    let mut it = ProduceRequest::default();
    it.transactional_id = dice.maybe(|dice| TransactionalId(dice.text()));
    it.acks = dice.int();
    it.timeout_ms = dice.int();
    it.topic_data = dice.list(|dice| {
        let mut it = produce_request::TopicProduceData::default();
        it.name = TopicName(dice.text());
        it.partition_data = dice.list(|dice| {
            let mut it = produce_request::PartitionProduceData::default();
            it.index = dice.int();
            it.records = dice.records();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn produce_response(dice: &mut Dice) -> ProduceResponse {
    let mut it = ProduceResponse::default();
    it.responses = dice.list(|dice| {
        let mut it = produce_response::TopicProduceResponse::default();
        it.name = TopicName(dice.text());
        it.partition_responses = dice.list(|dice| {
            let mut it = produce_response::PartitionProduceResponse::default();
            it.index = dice.int();
            it.error_code = dice.int();
            it.base_offset = dice.int();
            it.log_append_time_ms = dice.int();
            if dice.version >= 5 {
                it.log_start_offset = dice.int();
            }
            if dice.version >= 8 {
                it.record_errors = dice.list(|dice| {
                    let mut it = produce_response::BatchIndexAndErrorMessage::default();
                    it.batch_index = dice.int();
                    it.batch_index_error_message = dice.maybe(Dice::text);
                    it.unknown_tagged_fields = dice.tags();
                    it
                });
                it.error_message = dice.maybe(Dice::text);
            }
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.throttle_time_ms = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn fetch_response(dice: &mut Dice) -> FetchResponse {
    let mut it = FetchResponse::default();
    it.throttle_time_ms = dice.int();
    if dice.version >= 7 {
        it.error_code = dice.int();
        it.session_id = dice.int();
    }
    it.responses = dice.list(|dice| {
        let mut it = fetch_response::FetchableTopicResponse::default();
        it.topic = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = fetch_response::PartitionData::default();
            it.partition_index = dice.int();
            it.error_code = dice.int();
            it.high_watermark = dice.int();
            it.last_stable_offset = dice.int();
            if dice.version >= 5 {
                it.log_start_offset = dice.int();
            }
            it.aborted_transactions = dice.maybe(|dice| {
                dice.list(|dice| {
                    let mut it = fetch_response::AbortedTransaction::default();
                    it.producer_id = ProducerId(dice.int());
                    it.first_offset = dice.int();
                    it.unknown_tagged_fields = dice.tags();
                    it
                })
            });
            if dice.version >= 11 {
                it.preferred_read_replica = dice.node();
            }
            it.records = dice.records();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn fetch_request(dice: &mut Dice) -> FetchRequest {
    let mut it = FetchRequest::default();
    it.replica_id = BrokerId(-1);
    it.max_wait_ms = dice.int();
    it.min_bytes = dice.int();
    if dice.version >= 3 {
        it.max_bytes = dice.int();
    }
    if dice.version >= 4 {
        it.isolation_level = dice.int();
    }
    if dice.version >= 7 {
        it.session_id = dice.int();
    }
    if dice.version >= 7 {
        it.session_epoch = dice.int();
    }
    it.topics = dice.list(|dice| {
        let mut it = fetch_request::FetchTopic::default();
        it.topic = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = fetch_request::FetchPartition::default();
            it.partition = dice.int();
            if dice.version >= 9 {
                it.current_leader_epoch = dice.epoch();
            }
            it.fetch_offset = dice.int();
            if dice.version >= 12 {
                it.last_fetched_epoch = dice.epoch();
            }
            if dice.version >= 5 {
                it.log_start_offset = dice.int();
            }
            it.partition_max_bytes = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if dice.version >= 7 {
        it.forgotten_topics_data = dice.list(|dice| {
            let mut it = fetch_request::ForgottenTopic::default();
            it.topic = TopicName(dice.text());
            it.partitions = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    if dice.version >= 11 {
        it.rack_id = dice.text();
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn list_offsets_request(dice: &mut Dice) -> ListOffsetsRequest {
    let mut it = ListOffsetsRequest::default();
    it.replica_id = BrokerId(-1);
    if dice.version >= 2 {
        it.isolation_level = dice.int();
    }
    it.topics = dice.list(|dice| {
        let mut it = list_offsets_request::ListOffsetsTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = list_offsets_request::ListOffsetsPartition::default();
            it.partition_index = dice.int();
            if dice.version >= 4 {
                it.current_leader_epoch = dice.epoch();
            }
            it.timestamp = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if dice.version >= 10 {
        it.timeout_ms = dice.int();
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn list_offsets_response(dice: &mut Dice) -> ListOffsetsResponse {
    let mut it = ListOffsetsResponse::default();
    if dice.version >= 2 {
        it.throttle_time_ms = dice.int();
    }
    it.topics = dice.list(|dice| {
        let mut it = list_offsets_response::ListOffsetsTopicResponse::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = list_offsets_response::ListOffsetsPartitionResponse::default();
            it.partition_index = dice.int();
            it.error_code = dice.int();
            if dice.version >= 1 {
                it.timestamp = dice.int();
            }
            if dice.version >= 1 {
                it.offset = dice.int();
            }
            if dice.version >= 4 {
                it.leader_epoch = dice.epoch();
            }
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn delete_records_request(dice: &mut Dice) -> DeleteRecordsRequest {
    let mut it = DeleteRecordsRequest::default();
    it.topics = dice.list(|dice| {
        let mut it = delete_records_request::DeleteRecordsTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = delete_records_request::DeleteRecordsPartition::default();
            it.partition_index = dice.int();
            it.offset = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.timeout_ms = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn delete_records_response(dice: &mut Dice) -> DeleteRecordsResponse {
    let mut it = DeleteRecordsResponse::default();
    it.throttle_time_ms = dice.int();
    it.topics = dice.list(|dice| {
        let mut it = delete_records_response::DeleteRecordsTopicResult::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = delete_records_response::DeleteRecordsPartitionResult::default();
            it.partition_index = dice.int();
            it.low_watermark = dice.int();
            it.error_code = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_producers_request(dice: &mut Dice) -> DescribeProducersRequest {
    let mut it = DescribeProducersRequest::default();
    it.topics = dice.list(|dice| {
        let mut it = describe_producers_request::TopicRequest::default();
        it.name = TopicName(dice.text());
        it.partition_indexes = dice.list(Dice::int);
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_producers_response(dice: &mut Dice) -> DescribeProducersResponse {
    let mut it = DescribeProducersResponse::default();
    it.throttle_time_ms = dice.int();
    it.topics = dice.list(|dice| {
        let mut it = describe_producers_response::TopicResponse::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = describe_producers_response::PartitionResponse::default();
            it.partition_index = dice.int();
            it.error_code = dice.int();
            it.error_message = dice.maybe(Dice::text);
            it.active_producers = dice.list(|dice| {
                let mut it = describe_producers_response::ProducerState::default();
                it.producer_id = ProducerId(dice.int());
                it.producer_epoch = dice.int();
                it.last_sequence = dice.int();
                it.last_timestamp = dice.int();
                it.coordinator_epoch = dice.int();
                it.current_txn_start_offset = dice.int();
                it.unknown_tagged_fields = dice.tags();
                it
            });
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

/// Before version 4.
pub(super) fn add_partitions_to_txn_request(dice: &mut Dice) -> AddPartitionsToTxnRequest {
    let mut it = AddPartitionsToTxnRequest::default();
    it.v3_and_below_transactional_id = TransactionalId(dice.text());
    it.v3_and_below_producer_id = ProducerId(dice.int());
    it.v3_and_below_producer_epoch = dice.int();
    it.v3_and_below_topics = dice.list(|dice| {
        let mut it = add_partitions_to_txn_request::AddPartitionsToTxnTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(Dice::int);
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

/// Before version 4.
pub(super) fn add_partitions_to_txn_response(dice: &mut Dice) -> AddPartitionsToTxnResponse {
    let mut it = AddPartitionsToTxnResponse::default();
    it.throttle_time_ms = dice.int();
    it.results_by_topic_v3_and_below = dice.list(|dice| {
        let mut it = add_partitions_to_txn_response::AddPartitionsToTxnTopicResult::default();
        it.name = TopicName(dice.text());
        it.results_by_partition = dice.list(|dice| {
            let mut it = add_partitions_to_txn_response::AddPartitionsToTxnPartitionResult::default();
            it.partition_index = dice.int();
            it.partition_error_code = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn write_txn_markers_request(dice: &mut Dice) -> WriteTxnMarkersRequest {
    let mut it = WriteTxnMarkersRequest::default();
    it.markers = dice.list(|dice| {
        let mut it = write_txn_markers_request::WritableTxnMarker::default();
        it.producer_id = ProducerId(dice.int());
        it.producer_epoch = dice.int();
        it.transaction_result = dice.int::<u8>() % 2 == 0;
        it.topics = dice.list(|dice| {
            let mut it = write_txn_markers_request::WritableTxnMarkerTopic::default();
            it.name = TopicName(dice.text());
            it.partition_indexes = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.coordinator_epoch = dice.int();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn write_txn_markers_response(dice: &mut Dice) -> WriteTxnMarkersResponse {
    let mut it = WriteTxnMarkersResponse::default();
    it.markers = dice.list(|dice| {
        let mut it = write_txn_markers_response::WritableTxnMarkerResult::default();
        it.producer_id = ProducerId(dice.int());
        it.topics = dice.list(|dice| {
            let mut it = write_txn_markers_response::WritableTxnMarkerTopicResult::default();
            it.name = TopicName(dice.text());
            it.partitions = dice.list(|dice| {
                let mut it = write_txn_markers_response::WritableTxnMarkerPartitionResult::default();
                it.partition_index = dice.int();
                it.error_code = dice.int();
                it.unknown_tagged_fields = dice.tags();
                it
            });
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_transactions_request(dice: &mut Dice) -> DescribeTransactionsRequest {
    let mut it = DescribeTransactionsRequest::default();
    it.transactional_ids = dice.list(|dice| TransactionalId(dice.text()));
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn metadata_request(dice: &mut Dice) -> MetadataRequest {
    let mut it = MetadataRequest::default();
    it.topics = Some(dice.list(|dice| {
        let mut it = metadata_request::MetadataRequestTopic::default();
        it.name = Some(TopicName(dice.text()));
        if dice.version >= 10 {
            it.topic_id = dice.topic_id();
            it.name = dice.maybe(|dice| TopicName(dice.text()));
        }
        it.unknown_tagged_fields = dice.tags();
        it
    }));
    if dice.version >= 1 && dice.below(4) == 0 {
        it.topics = None;
    }
    if dice.version >= 4 {
        it.allow_auto_topic_creation = dice.below(2) == 1;
    }
    if (8..=10).contains(&dice.version) {
        it.include_cluster_authorized_operations = dice.below(2) == 1;
    }
    if dice.version >= 8 {
        it.include_topic_authorized_operations = dice.below(2) == 1;
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn metadata_response(dice: &mut Dice) -> MetadataResponse {
    let mut it = MetadataResponse::default();
    if dice.version >= 3 {
        it.throttle_time_ms = dice.int();
    }
    it.brokers = dice.list(|dice| {
        let mut it = metadata_response::MetadataResponseBroker::default();
        it.node_id = dice.node();
        it.host = dice.text();
        it.port = dice.int();
        if dice.version >= 1 {
            it.rack = dice.maybe(Dice::text);
        }
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if dice.version >= 2 {
        it.cluster_id = dice.maybe(Dice::text);
    }
    if dice.version >= 1 {
        it.controller_id = dice.node();
    }
    it.topics = dice.list(|dice| {
        let mut it = metadata_response::MetadataResponseTopic::default();
        it.error_code = dice.int();
        it.name = Some(TopicName(dice.text()));
        if dice.version >= 12 {
            it.name = dice.maybe(|dice| TopicName(dice.text()));
        }
        if dice.version >= 10 {
            it.topic_id = dice.topic_id();
        }
        if dice.version >= 1 {
            it.is_internal = dice.below(2) == 1;
        }
        it.partitions = dice.list(|dice| {
            let mut it = metadata_response::MetadataResponsePartition::default();
            it.error_code = dice.int();
            it.partition_index = dice.int();
            it.leader_id = dice.node();
            if dice.version >= 7 {
                it.leader_epoch = dice.epoch();
            }
            it.replica_nodes = dice.nodes();
            it.isr_nodes = dice.nodes();
            if dice.version >= 5 {
                it.offline_replicas = dice.nodes();
            }
            it.unknown_tagged_fields = dice.tags();
            it
        });
        if dice.version >= 8 {
            it.topic_authorized_operations = dice.int();
        }
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if (8..=10).contains(&dice.version) {
        it.cluster_authorized_operations = dice.int();
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn offset_commit_request(dice: &mut Dice) -> OffsetCommitRequest {
    let mut it = OffsetCommitRequest::default();
    it.group_id = GroupId(dice.text());
    if dice.version >= 1 {
        it.generation_id_or_member_epoch = dice.int();
    }
    if dice.version >= 1 {
        it.member_id = dice.text();
    }
    if dice.version >= 7 {
        it.group_instance_id = dice.maybe(Dice::text);
    }
    if (2..=4).contains(&dice.version) {
        it.retention_time_ms = dice.int();
    }
    it.topics = dice.list(|dice| {
        let mut it = offset_commit_request::OffsetCommitRequestTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = offset_commit_request::OffsetCommitRequestPartition::default();
            it.partition_index = dice.int();
            it.committed_offset = dice.int();
            if dice.version >= 6 {
                it.committed_leader_epoch = dice.epoch();
            }
            it.committed_metadata = dice.maybe(Dice::text);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn offset_fetch_response(dice: &mut Dice) -> OffsetFetchResponse {
    let mut it = OffsetFetchResponse::default();
    if dice.version >= 3 {
        it.throttle_time_ms = dice.int();
    }
    if dice.version <= 7 {
        it.topics = dice.list(|dice| {
            let mut it = offset_fetch_response::OffsetFetchResponseTopic::default();
            it.name = TopicName(dice.text());
            it.partitions = dice.list(|dice| {
                let mut it = offset_fetch_response::OffsetFetchResponsePartition::default();
                it.partition_index = dice.int();
                it.committed_offset = dice.int();
                if dice.version >= 5 {
                    it.committed_leader_epoch = dice.epoch();
                }
                it.metadata = dice.maybe(Dice::text);
                it.error_code = dice.int();
                it.unknown_tagged_fields = dice.tags();
                it
            });
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    if (2..=7).contains(&dice.version) {
        it.error_code = dice.int();
    }
    if dice.version >= 8 {
        it.groups = dice.list(|dice| {
            let mut it = offset_fetch_response::OffsetFetchResponseGroup::default();
            it.group_id = GroupId(dice.text());
            it.topics = dice.list(|dice| {
                let mut it = offset_fetch_response::OffsetFetchResponseTopics::default();
                it.name = TopicName(dice.text());
                it.partitions = dice.list(|dice| {
                    let mut it = offset_fetch_response::OffsetFetchResponsePartitions::default();
                    it.partition_index = dice.int();
                    it.committed_offset = dice.int();
                    if dice.version >= 5 {
                        it.committed_leader_epoch = dice.epoch();
                    }
                    it.metadata = dice.maybe(Dice::text);
                    it.error_code = dice.int();
                    it.unknown_tagged_fields = dice.tags();
                    it
                });
                it.unknown_tagged_fields = dice.tags();
                it
            });
            it.error_code = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn find_coordinator_request(dice: &mut Dice) -> FindCoordinatorRequest {
    let mut it = FindCoordinatorRequest::default();
    if dice.version <= 3 {
        it.key = dice.text();
    }
    if dice.version >= 1 {
        it.key_type = dice.int();
    }
    if dice.version >= 4 {
        it.coordinator_keys = dice.list(Dice::text);
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn find_coordinator_response(dice: &mut Dice) -> FindCoordinatorResponse {
    let mut it = FindCoordinatorResponse::default();
    if dice.version >= 1 {
        it.throttle_time_ms = dice.int();
    }
    if dice.version <= 3 {
        it.error_code = dice.int();
    }
    if (1..=3).contains(&dice.version) {
        it.error_message = dice.maybe(Dice::text);
    }
    if dice.version <= 3 {
        it.node_id = dice.node();
    }
    if dice.version <= 3 {
        it.host = dice.text();
    }
    if dice.version <= 3 {
        it.port = dice.int();
    }
    if dice.version >= 4 {
        it.coordinators = dice.list(|dice| {
            let mut it = find_coordinator_response::Coordinator::default();
            it.key = dice.text();
            it.node_id = dice.node();
            it.host = dice.text();
            it.port = dice.int();
            it.error_code = dice.int();
            it.error_message = dice.maybe(Dice::text);
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_cluster_response(dice: &mut Dice) -> DescribeClusterResponse {
    let mut it = DescribeClusterResponse::default();
    it.throttle_time_ms = dice.int();
    it.error_code = dice.int();
    it.error_message = dice.maybe(Dice::text);
    if dice.version >= 1 {
        it.endpoint_type = dice.int();
    }
    it.cluster_id = dice.text();
    it.controller_id = dice.node();
    it.brokers = dice.list(|dice| {
        let mut it = describe_cluster_response::DescribeClusterBroker::default();
        it.broker_id = dice.node();
        it.host = dice.text();
        it.port = dice.int();
        it.rack = dice.maybe(Dice::text);
        if dice.version >= 2 {
            it.is_fenced = dice.below(2) == 1;
        }
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.cluster_authorized_operations = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn create_topics_request(dice: &mut Dice) -> CreateTopicsRequest {
    let mut it = CreateTopicsRequest::default();
    it.topics = dice.list(|dice| {
        let mut it = create_topics_request::CreatableTopic::default();
        it.name = TopicName(dice.text());
        it.num_partitions = dice.int();
        it.replication_factor = dice.int();
        it.assignments = dice.list(|dice| {
            let mut it = create_topics_request::CreatableReplicaAssignment::default();
            it.partition_index = dice.int();
            it.broker_ids = dice.nodes();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.configs = dice.list(|dice| {
            let mut it = create_topics_request::CreatableTopicConfig::default();
            (it.name, it.value) = dice.config();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.timeout_ms = dice.int();
    if dice.version >= 1 {
        it.validate_only = dice.below(2) == 1;
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn create_topics_response(dice: &mut Dice) -> CreateTopicsResponse {
    let mut it = CreateTopicsResponse::default();
    if dice.version >= 2 {
        it.throttle_time_ms = dice.int();
    }
    it.topics = dice.list(|dice| {
        let mut it = create_topics_response::CreatableTopicResult::default();
        it.name = TopicName(dice.text());
        if dice.version >= 7 {
            it.topic_id = dice.topic_id();
        }
        it.error_code = dice.int();
        if dice.version >= 1 {
            it.error_message = dice.maybe(Dice::text);
        }
        if dice.version >= 5 {
            it.num_partitions = dice.int();
            it.replication_factor = dice.int();
            it.configs = dice.maybe(|dice| {
                dice.list(|dice| {
                    let mut it = create_topics_response::CreatableTopicConfigs::default();
                    (it.name, it.value) = dice.config();
                    it.read_only = dice.below(2) == 1;
                    it.config_source = dice.int();
                    it.is_sensitive = dice.below(2) == 1;
                    it.unknown_tagged_fields = dice.tags();
                    it
                })
            });
            it.unknown_tagged_fields = dice.tags();
        }
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

/// Before version 6.
pub(super) fn delete_topics_request(dice: &mut Dice) -> DeleteTopicsRequest {
    let mut it = DeleteTopicsRequest::default();
    if dice.version >= 6 {
        it.topics = dice.list(|dice| {
            let mut it = delete_topics_request::DeleteTopicState::default();
            it.name = dice.maybe(|dice| TopicName(dice.text()));
            it.topic_id = dice.topic_id();
            it.unknown_tagged_fields = dice.tags();
            it
        });
    } else {
        it.topic_names = dice.list(|dice| TopicName(dice.text()));
    }
    it.timeout_ms = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn delete_topics_response(dice: &mut Dice) -> DeleteTopicsResponse {
    let mut it = DeleteTopicsResponse::default();
    if dice.version >= 1 {
        it.throttle_time_ms = dice.int();
    }
    it.responses = dice.list(|dice| {
        let mut it = delete_topics_response::DeletableTopicResult::default();
        it.name = Some(TopicName(dice.text()));
        it.error_code = dice.int();
        if dice.version >= 5 {
            it.error_message = dice.maybe(Dice::text);
        }
        if dice.version >= 6 {
            it.name = dice.maybe(|dice| TopicName(dice.text()));
            it.topic_id = dice.topic_id();
        }
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn create_partitions_response(dice: &mut Dice) -> CreatePartitionsResponse {
    let mut it = CreatePartitionsResponse::default();
    it.throttle_time_ms = dice.int();
    it.results = dice.list(|dice| {
        let mut it = create_partitions_response::CreatePartitionsTopicResult::default();
        it.name = TopicName(dice.text());
        it.error_code = dice.int();
        it.error_message = dice.maybe(Dice::text);
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn alter_partition_reassignments_response(dice: &mut Dice) -> AlterPartitionReassignmentsResponse {
    let mut it = AlterPartitionReassignmentsResponse::default();
    it.throttle_time_ms = dice.int();
    if dice.version >= 1 {
        it.allow_replication_factor_change = dice.below(2) == 1;
    }
    it.error_code = dice.int();
    it.error_message = dice.maybe(Dice::text);
    it.responses = dice.list(|dice| {
        let mut it = alter_partition_reassignments_response::ReassignableTopicResponse::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = alter_partition_reassignments_response::ReassignablePartitionResponse::default();
            it.partition_index = dice.int();
            it.error_code = dice.int();
            it.error_message = dice.maybe(Dice::text);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn create_partitions_request(dice: &mut Dice) -> CreatePartitionsRequest {
    let mut it = CreatePartitionsRequest::default();
    it.topics = dice.list(|dice| {
        let mut it = create_partitions_request::CreatePartitionsTopic::default();
        it.name = TopicName(dice.text());
        it.count = dice.int();
        it.assignments = dice.maybe(|dice| {
            dice.list(|dice| {
                let mut it = create_partitions_request::CreatePartitionsAssignment::default();
                it.broker_ids = dice.nodes();
                it.unknown_tagged_fields = dice.tags();
                it
            })
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.timeout_ms = dice.int();
    it.validate_only = dice.below(2) == 1;
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn elect_leaders_request(dice: &mut Dice) -> ElectLeadersRequest {
    let mut it = ElectLeadersRequest::default();
    if dice.version >= 1 {
        it.election_type = dice.below(2) as i8;
    }
    it.topic_partitions = dice.maybe(|dice| {
        dice.list(|dice| {
            let mut it = elect_leaders_request::TopicPartitions::default();
            it.topic = TopicName(dice.text());
            it.partitions = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        })
    });
    it.timeout_ms = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn alter_partition_reassignments_request(dice: &mut Dice) -> AlterPartitionReassignmentsRequest {
    let mut it = AlterPartitionReassignmentsRequest::default();
    it.timeout_ms = dice.int();
    if dice.version >= 1 {
        it.allow_replication_factor_change = dice.below(2) == 1;
    }
    it.topics = dice.list(|dice| {
        let mut it = alter_partition_reassignments_request::ReassignableTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = alter_partition_reassignments_request::ReassignablePartition::default();
            it.partition_index = dice.int();
            it.replicas = dice.maybe(Dice::nodes);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn list_partition_reassignments_request(dice: &mut Dice) -> ListPartitionReassignmentsRequest {
    let mut it = ListPartitionReassignmentsRequest::default();
    it.timeout_ms = dice.int();
    it.topics = dice.maybe(|dice| {
        dice.list(|dice| {
            let mut it = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default();
            it.name = TopicName(dice.text());
            it.partition_indexes = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        })
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn list_partition_reassignments_response(dice: &mut Dice) -> ListPartitionReassignmentsResponse {
    let mut it = ListPartitionReassignmentsResponse::default();
    it.throttle_time_ms = dice.int();
    it.error_code = dice.int();
    it.error_message = dice.maybe(Dice::text);
    it.topics = dice.list(|dice| {
        let mut it = list_partition_reassignments_response::OngoingTopicReassignment::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = list_partition_reassignments_response::OngoingPartitionReassignment::default();
            it.partition_index = dice.int();
            it.replicas = dice.nodes();
            it.adding_replicas = dice.nodes();
            it.removing_replicas = dice.nodes();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn init_producer_id_response(dice: &mut Dice) -> InitProducerIdResponse {
    let mut it = InitProducerIdResponse::default();
    it.throttle_time_ms = dice.int();
    it.error_code = dice.int();
    it.producer_id = ProducerId(dice.below(4) as i64 - 1);
    it.producer_epoch = dice.int();
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn txn_offset_commit_request(dice: &mut Dice) -> TxnOffsetCommitRequest {
    let mut it = TxnOffsetCommitRequest::default();
    it.transactional_id = TransactionalId(dice.text());
    it.group_id = GroupId(dice.text());
    it.producer_id = ProducerId(dice.int());
    it.producer_epoch = dice.int();
    if dice.version >= 3 {
        it.generation_id = dice.int();
    }
    if dice.version >= 3 {
        it.member_id = dice.text();
    }
    if dice.version >= 3 {
        it.group_instance_id = dice.maybe(Dice::text);
    }
    it.topics = dice.list(|dice| {
        let mut it = txn_offset_commit_request::TxnOffsetCommitRequestTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = txn_offset_commit_request::TxnOffsetCommitRequestPartition::default();
            it.partition_index = dice.int();
            it.committed_offset = dice.int();
            if dice.version >= 2 {
                it.committed_leader_epoch = dice.epoch();
            }
            it.committed_metadata = dice.maybe(Dice::text);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_configs_request(dice: &mut Dice) -> DescribeConfigsRequest {
    let mut it = DescribeConfigsRequest::default();
    it.resources = dice.list(|dice| {
        let mut it = describe_configs_request::DescribeConfigsResource::default();
        (it.resource_type, it.resource_name) = dice.resource();
        it.configuration_keys = dice.maybe(|dice| dice.list(Dice::text));
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if dice.version >= 1 {
        it.include_synonyms = dice.below(2) == 1;
    }
    if dice.version >= 3 {
        it.include_documentation = dice.below(2) == 1;
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_configs_response(dice: &mut Dice) -> DescribeConfigsResponse {
    let mut it = DescribeConfigsResponse::default();
    it.throttle_time_ms = dice.int();
    it.results = dice.list(|dice| {
        let mut it = describe_configs_response::DescribeConfigsResult::default();
        it.error_code = dice.int();
        it.error_message = dice.maybe(Dice::text);
        (it.resource_type, it.resource_name) = dice.resource();
        it.configs = dice.list(|dice| {
            let mut it = describe_configs_response::DescribeConfigsResourceResult::default();
            (it.name, it.value) = dice.config();
            it.read_only = dice.below(2) == 1;
            if dice.version >= 1 {
                it.config_source = dice.int();
            }
            it.is_sensitive = dice.below(2) == 1;
            if dice.version >= 1 {
                it.synonyms = dice.list(|dice| {
                    let mut it = describe_configs_response::DescribeConfigsSynonym::default();
                    (it.name, it.value) = dice.config();
                    it.source = dice.int();
                    it.unknown_tagged_fields = dice.tags();
                    it
                });
            }
            if dice.version >= 3 {
                it.config_type = dice.int();
            }
            if dice.version >= 3 {
                it.documentation = dice.maybe(Dice::text);
            }
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn alter_configs_request(dice: &mut Dice) -> AlterConfigsRequest {
    let mut it = AlterConfigsRequest::default();
    it.resources = dice.list(|dice| {
        let mut it = alter_configs_request::AlterConfigsResource::default();
        (it.resource_type, it.resource_name) = dice.resource();
        it.configs = dice.list(|dice| {
            let mut it = alter_configs_request::AlterableConfig::default();
            (it.name, it.value) = dice.config();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.validate_only = dice.below(2) == 1;
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn alter_configs_response(dice: &mut Dice) -> AlterConfigsResponse {
    let mut it = AlterConfigsResponse::default();
    it.throttle_time_ms = dice.int();
    it.responses = dice.list(|dice| {
        let mut it = alter_configs_response::AlterConfigsResourceResponse::default();
        it.error_code = dice.int();
        it.error_message = dice.maybe(Dice::text);
        (it.resource_type, it.resource_name) = dice.resource();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn incremental_alter_configs_request(dice: &mut Dice) -> IncrementalAlterConfigsRequest {
    let mut it = IncrementalAlterConfigsRequest::default();
    it.resources = dice.list(|dice| {
        let mut it = incremental_alter_configs_request::AlterConfigsResource::default();
        (it.resource_type, it.resource_name) = dice.resource();
        it.configs = dice.list(|dice| {
            let mut it = incremental_alter_configs_request::AlterableConfig::default();
            (it.name, it.value) = dice.config();
            it.config_operation = dice.int();
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.validate_only = dice.below(2) == 1;
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn incremental_alter_configs_response(dice: &mut Dice) -> IncrementalAlterConfigsResponse {
    let mut it = IncrementalAlterConfigsResponse::default();
    it.throttle_time_ms = dice.int();
    it.responses = dice.list(|dice| {
        let mut it = incremental_alter_configs_response::AlterConfigsResourceResponse::default();
        it.error_code = dice.int();
        it.error_message = dice.maybe(Dice::text);
        (it.resource_type, it.resource_name) = dice.resource();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn consumer_group_heartbeat_request(dice: &mut Dice) -> ConsumerGroupHeartbeatRequest {
    let mut it = ConsumerGroupHeartbeatRequest::default();
    it.group_id = GroupId(dice.text());
    it.member_id = dice.text();
    it.member_epoch = dice.epoch();
    it.instance_id = dice.maybe(Dice::text);
    it.rack_id = dice.maybe(Dice::text);
    it.rebalance_timeout_ms = dice.int();
    it.subscribed_topic_names = dice.maybe(|dice| dice.list(|dice| TopicName(dice.text())));
    if dice.version >= 1 {
        it.subscribed_topic_regex = dice.maybe(Dice::text);
    }
    it.server_assignor = dice.maybe(Dice::text);
    it.topic_partitions = dice.maybe(|dice| {
        dice.list(|dice| {
            let mut it = consumer_group_heartbeat_request::TopicPartitions::default();
            it.topic_id = dice.topic_id();
            it.partitions = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        })
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn consumer_group_heartbeat_response(dice: &mut Dice) -> ConsumerGroupHeartbeatResponse {
    let mut it = ConsumerGroupHeartbeatResponse::default();
    it.throttle_time_ms = dice.int();
    it.error_code = dice.int();
    it.error_message = dice.maybe(Dice::text);
    it.member_id = dice.maybe(Dice::text);
    it.member_epoch = dice.epoch();
    it.heartbeat_interval_ms = dice.int();
    it.assignment = dice.maybe(|dice| {
        let mut it = consumer_group_heartbeat_response::Assignment::default();
        it.topic_partitions = dice.list(|dice| {
            let mut it = consumer_group_heartbeat_response::TopicPartitions::default();
            it.topic_id = dice.topic_id();
            it.partitions = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn consumer_group_describe_response(dice: &mut Dice) -> ConsumerGroupDescribeResponse {
    let mut it = ConsumerGroupDescribeResponse::default();
    it.throttle_time_ms = dice.int();
    it.groups = dice.list(|dice| {
        let mut it = consumer_group_describe_response::DescribedGroup::default();
        it.error_code = dice.int();
        it.error_message = dice.maybe(Dice::text);
        it.group_id = GroupId(dice.text());
        it.group_state = dice.text();
        it.group_epoch = dice.int();
        it.assignment_epoch = dice.int();
        it.assignor_name = dice.text();
        it.members = dice.list(consumer_group_member);
        it.authorized_operations = dice.int();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

fn consumer_group_member(dice: &mut Dice) -> consumer_group_describe_response::Member {
    let assignment = |dice: &mut Dice| {
        let mut it = consumer_group_describe_response::Assignment::default();
        it.topic_partitions = dice.list(|dice| {
            let mut it = consumer_group_describe_response::TopicPartitions::default();
            it.topic_id = dice.topic_id();
            it.topic_name = TopicName(dice.text());
            it.partitions = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        });
        it.unknown_tagged_fields = dice.tags();
        it
    };
    let mut it = consumer_group_describe_response::Member::default();
    it.member_id = dice.text();
    it.instance_id = dice.maybe(Dice::text);
    it.rack_id = dice.maybe(Dice::text);
    it.member_epoch = dice.epoch();
    it.client_id = dice.text();
    it.client_host = dice.text();
    it.subscribed_topic_names = dice.list(|dice| TopicName(dice.text()));
    it.subscribed_topic_regex = dice.maybe(Dice::text);
    it.assignment = assignment(dice);
    it.target_assignment = assignment(dice);
    if dice.version >= 1 {
        it.member_type = dice.int();
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn offset_fetch_request(dice: &mut Dice) -> OffsetFetchRequest {
    let mut it = OffsetFetchRequest::default();
    if dice.version <= 7 {
        it.group_id = GroupId(dice.text());
        it.topics = Some(dice.list(|dice| {
            let mut it = offset_fetch_request::OffsetFetchRequestTopic::default();
            it.name = TopicName(dice.text());
            it.partition_indexes = dice.list(Dice::int);
            it.unknown_tagged_fields = dice.tags();
            it
        }));
        if dice.version >= 2 && dice.below(4) == 0 {
            it.topics = None;
        }
    } else {
        it.groups = dice.list(|dice| {
            let mut it = offset_fetch_request::OffsetFetchRequestGroup::default();
            it.group_id = GroupId(dice.text());
            if dice.version >= 9 {
                it.member_id = dice.maybe(Dice::text);
                it.member_epoch = dice.epoch();
            }
            it.topics = dice.maybe(|dice| {
                dice.list(|dice| {
                    let mut it = offset_fetch_request::OffsetFetchRequestTopics::default();
                    it.name = TopicName(dice.text());
                    it.partition_indexes = dice.list(Dice::int);
                    it.unknown_tagged_fields = dice.tags();
                    it
                })
            });
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    if dice.version >= 7 {
        it.require_stable = dice.below(2) == 1;
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn join_group_request(dice: &mut Dice) -> JoinGroupRequest {
    let mut it = JoinGroupRequest::default();
    it.group_id = GroupId(dice.text());
    it.session_timeout_ms = dice.int();
    it.rebalance_timeout_ms = dice.int();
    it.member_id = dice.text();
    if dice.version >= 5 {
        it.group_instance_id = dice.maybe(Dice::text);
    }
    it.protocol_type = dice.text();
    it.protocols = dice.list(|dice| {
        let mut it = join_group_request::JoinGroupRequestProtocol::default();
        it.name = dice.text();
        it.metadata = dice.records().unwrap_or_default();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    if dice.version >= 8 {
        it.reason = dice.maybe(Dice::text);
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn heartbeat_request(dice: &mut Dice) -> HeartbeatRequest {
    let mut it = HeartbeatRequest::default();
    it.group_id = GroupId(dice.text());
    it.generation_id = dice.int();
    it.member_id = dice.text();
    if dice.version >= 3 {
        it.group_instance_id = dice.maybe(Dice::text);
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn leave_group_request(dice: &mut Dice) -> LeaveGroupRequest {
    let mut it = LeaveGroupRequest::default();
    it.group_id = GroupId(dice.text());
    if dice.version <= 2 {
        it.member_id = dice.text();
    } else {
        it.members = dice.list(|dice| {
            let mut it = leave_group_request::MemberIdentity::default();
            it.member_id = dice.text();
            it.group_instance_id = dice.maybe(Dice::text);
            if dice.version >= 5 {
                it.reason = dice.maybe(Dice::text);
            }
            it.unknown_tagged_fields = dice.tags();
            it
        });
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn sync_group_request(dice: &mut Dice) -> SyncGroupRequest {
    let mut it = SyncGroupRequest::default();
    it.group_id = GroupId(dice.text());
    it.generation_id = dice.int();
    it.member_id = dice.text();
    if dice.version >= 3 {
        it.group_instance_id = dice.maybe(Dice::text);
    }
    if dice.version >= 5 {
        it.protocol_type = dice.maybe(Dice::text);
        it.protocol_name = dice.maybe(Dice::text);
    }
    it.assignments = dice.list(|dice| {
        let mut it = sync_group_request::SyncGroupRequestAssignment::default();
        it.member_id = dice.text();
        it.assignment = dice.records().unwrap_or_default();
        it.unknown_tagged_fields = dice.tags();
        it
    });
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn describe_groups_request(dice: &mut Dice) -> DescribeGroupsRequest {
    let mut it = DescribeGroupsRequest::default();
    it.groups = dice.list(|dice| GroupId(dice.text()));
    if dice.version >= 3 {
        it.include_authorized_operations = dice.below(2) == 1;
    }
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn add_offsets_to_txn_request(dice: &mut Dice) -> AddOffsetsToTxnRequest {
    let mut it = AddOffsetsToTxnRequest::default();
    it.transactional_id = TransactionalId(dice.text());
    it.producer_id = ProducerId(dice.int());
    it.producer_epoch = dice.int();
    it.group_id = GroupId(dice.text());
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn delete_groups_request(dice: &mut Dice) -> DeleteGroupsRequest {
    let mut it = DeleteGroupsRequest::default();
    it.groups_names = dice.list(|dice| GroupId(dice.text()));
    it.unknown_tagged_fields = dice.tags();
    it
}

pub(super) fn offset_delete_request(dice: &mut Dice) -> OffsetDeleteRequest {
    let mut it = OffsetDeleteRequest::default();
    it.group_id = GroupId(dice.text());
    it.topics = dice.list(|dice| {
        let mut it = offset_delete_request::OffsetDeleteRequestTopic::default();
        it.name = TopicName(dice.text());
        it.partitions = dice.list(|dice| {
            let mut it = offset_delete_request::OffsetDeleteRequestPartition::default();
            it.partition_index = dice.int();
            it
        });
        it
    });
    it
}

pub(super) fn consumer_group_describe_request(dice: &mut Dice) -> ConsumerGroupDescribeRequest {
    let mut it = ConsumerGroupDescribeRequest::default();
    it.group_ids = dice.list(|dice| GroupId(dice.text()));
    it.include_authorized_operations = dice.below(2) == 1;
    it.unknown_tagged_fields = dice.tags();
    it
}

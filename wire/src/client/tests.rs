use super::*;
use crate::admin::configs::ConfigResource;
use crate::admin::groups::GroupFilter;
use crate::admin::partitions::{Position, TxnMarker};
use crate::admin::topics::{NewPartitions, NewTopic};
use crate::admin::transactions::Producer;
use kferry_config::Security;
use tokio::net::TcpListener;

fn cluster(bootstrap_servers: Vec<HostPort>) -> Arc<Cluster> {
    Arc::new(Cluster { name: "old".into(), id: 1, bootstrap_servers, brokers: None, security: Security::default() })
}

fn local(port: u16) -> HostPort {
    HostPort { host: "127.0.0.1".to_owned(), port }
}

/// Mirrors and tools run them in tasks.
#[test]
fn the_futures_can_be_spawned() {
    fn can_be_spawned(_: impl Send) {}
    let client = Client::new(cluster(vec![local(1)]), ConnectOptions::default());
    let partitions = [TopicPartition::new("orders", 0)];
    let producer = Producer { id: 1, epoch: 0 };
    let topic = NewTopic {
        name: "orders".to_owned(),
        partitions: NewPartitions::Count { partitions: None, replication_factor: None },
        configs: Vec::new(),
    };
    let marker = TxnMarker { partition: partitions[0].clone(), producer_id: 1, producer_epoch: 0, commit: true, coordinator_epoch: 0 };
    let (markers, topics, changes, users, quotas) = ([marker], [topic], BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (offsets, second) = (BTreeMap::new(), Duration::from_secs(1));
    can_be_spawned(client.metadata(Topics::Named(&["orders"])));
    can_be_spawned(client.controller());
    can_be_spawned(client.coordinator(CoordinatorKind::Group, "readers"));
    can_be_spawned(client.list_offsets(&partitions, Position::LogStart));
    can_be_spawned(client.offsets_for_times([(partitions[0].clone(), 0)]));
    can_be_spawned(client.log_end("orders", 0));
    can_be_spawned(client.describe_producers("orders", 0));
    can_be_spawned(client.delete_records("orders", 0, 7));
    can_be_spawned(client.write_txn_markers(&markers));
    can_be_spawned(client.create_topics(&topics, true));
    can_be_spawned(client.create_partitions("orders", 2, None, true));
    can_be_spawned(client.delete_topics(&["orders"]));
    can_be_spawned(client.topic_authorized_operations(&["orders"]));
    can_be_spawned(client.describe_configs(&[ConfigResource::AllBrokers], None));
    can_be_spawned(client.incremental_alter_configs(&changes, true));
    can_be_spawned(client.list_groups(GroupFilter::default()));
    can_be_spawned(client.offset_fetch(&["readers"], true));
    can_be_spawned(client.offset_commit("readers", &offsets, None));
    can_be_spawned(client.describe_groups(&["readers"]));
    can_be_spawned(client.init_producer_id("mirror", second));
    can_be_spawned(client.add_partitions_to_txn("mirror", producer, &partitions));
    can_be_spawned(client.end_txn("mirror", producer, true));
    can_be_spawned(client.describe_acls());
    can_be_spawned(client.create_acls(&[]));
    can_be_spawned(client.describe_cluster());
    can_be_spawned(client.describe_user_scram_credentials());
    can_be_spawned(client.alter_user_scram_credentials(&users));
    can_be_spawned(client.describe_client_quotas());
    can_be_spawned(client.alter_client_quotas(&quotas, true));
}

#[tokio::test]
async fn where_no_broker_answers_the_error_has_them_all_and_the_deadline_holds() {
    let (one, other) = (TcpListener::bind(("127.0.0.1", 0)).await.unwrap(), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let [one, other] = [one, other].map(|listener| listener.local_addr().unwrap().port());
    let client = Client::new(cluster(vec![local(one), local(other)]), ConnectOptions::default());
    let error = client.any().await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cluster old: no broker can be reached: "), "{text}");
    assert!(
        text.contains(&format!("127.0.0.1:{one}: cannot connect")) && text.contains(&format!("127.0.0.1:{other}: cannot connect")),
        "{text}"
    );
    assert!(error.is_retriable() && !error.may_have_executed());

    let started = std::time::Instant::now();
    let client = client.within(Duration::from_millis(300));
    let answers = client.list_offsets(&[TopicPartition::new("orders", 0), TopicPartition::new("orders", 1)], Position::LogStart).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(answers.len(), 2);
    assert!(answers.into_values().all(|answer| matches!(answer, Err(ClientError::NoBroker { .. }))));
}

/// It takes connections and says nothing.
#[tokio::test]
async fn a_broker_that_hangs_is_no_reason_to_wait_for_long() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = Client::new(cluster(vec![local(silent.local_addr().unwrap().port())]), ConnectOptions::default());
    let error = client.within(Duration::from_millis(300)).metadata(Topics::All).await.unwrap_err();
    assert_eq!(error.to_string(), "cluster old: not done within 300ms; its brokers hang, are too busy, or throttle kferry by a quota");
}

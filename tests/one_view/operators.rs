//! What operators ask and change: raw, at every virtual broker, and as Kafka's own admin client does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use harness::kafka::Commit;
use harness::proxy::Proxy;
use harness::raw::{Raw, ask, until};
use harness::systems;
use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_partition_reassignments_request::ListPartitionReassignmentsTopics;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, ApiKey, BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest,
    DescribeClusterRequest, DescribeConfigsRequest, ElectLeadersRequest, FindCoordinatorRequest, IncrementalAlterConfigsRequest,
    ListGroupsRequest, ListPartitionReassignmentsRequest, MetadataRequest, MetadataResponse,
};
use kafka_protocol::protocol::StrBytes;
use serde_json::{Value, json};

use crate::{GROUP, LEADER_NOT_AVAILABLE, Names, Shown, Side, Stage, calm, metadata, named, routes, shown, text, topic_name};

/// Kafka's errors, as its protocol guide has them.
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const TOPIC_ALREADY_EXISTS: i16 = 36;
const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
const POLICY_VIOLATION: i16 = 44;
const ELECTION_NOT_NEEDED: i16 = 84;

/// `ConfigResource.Type.TOPIC`
const TOPIC: i8 = 2;
/// `AlterConfigOp.OpType.SET`
const SET: i8 = 0;

/// What Kafka's own admin client and producer do, one thing after the other.
fn operate(servers: &str, client_id: &str, things: &Value) -> Result<Vec<Value>> {
    let things = things.to_string();
    let printed = systems::output(systems::java("Operator", [servers, client_id, &things].map(Path::new))?)?;
    serde_json::from_str(&printed).context(printed)
}

/// Is an error of this class whose message names a cluster.
fn is_error(answer: &Value, class: &str, cluster: Side) -> Result<()> {
    let message = answer["message"].as_str().unwrap_or_default();
    ensure!(answer["error"] == class && message.contains(cluster.name()), "not {class} that names {}: {answer}", cluster.name());
    Ok(())
}

#[test]
fn an_operator_sees_one_cluster() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            stage.create_copied(side, &side.leads("admin"), 4)?;
            stage.cluster(side).create_topic(&format!("only-{}.admin", side.name()), 4, &[])?;
        }
        // Of the one both clusters have offsets, the others live where somebody has committed.
        for side in Side::BOTH {
            stage.cluster(side).commit(&side.lives("admin"), &side.leads("admin"), [(0, Commit::at(0))])?;
            stage.cluster(side).commit(&format!("admin-only-{}", side.name()), &side.leads("admin"), [(0, Commit::at(0))])?;
        }
        for side in Side::BOTH {
            stage.group_is_copied(side, &side.lives("admin"))?;
        }
        for home in Side::BOTH {
            let context = || format!("home {home:?}");
            for leader in Side::BOTH {
                stage.is_shown(home, leader, &leader.leads("admin")).with_context(context)?;
                stage.is_shown(home, leader, &format!("only-{}.admin", leader.name())).with_context(context)?;
            }
            one_cluster_is_described(stage, home).with_context(context)?;
            what_a_client_may_do_is_told_by_the_leading_cluster(stage, home).with_context(context)?;
            topics_are_changed_where_they_lead(stage, home).with_context(context)?;
            partitions_are_moved_where_their_topics_lead(stage, home).with_context(context)?;
            groups_are_listed_once(stage, home).with_context(context)?;
        }
        // The newest versions, chosen by a client that goes from node to node as it likes.
        let mut retention = BTreeMap::new();
        for (home, side) in [(Side::Legacy, Side::Legacy), (Side::New, Side::New), (Side::Legacy, Side::New), (Side::New, Side::Legacy)] {
            java_administers(stage, home, side, &mut retention).with_context(|| format!("home {home:?}, begun at a broker of {side:?}"))?;
        }
        stage.no_copy_has_diverged(".admin")
    })
}

/// All virtual brokers, by their node ids and ports.
pub(crate) fn all_brokers(stage: &Stage) -> Result<BTreeSet<(i32, u16)>> {
    let mut all = BTreeSet::new();
    for side in Side::BOTH {
        for node_id in stage.cluster(side).node_ids() {
            all.insert(stage.virtual_broker(side, node_id)?);
        }
    }
    Ok(all)
}

fn one_cluster_is_described(stage: &Stage, home: Side) -> Result<()> {
    let (client_id, all) = (home.client("describing"), all_brokers(stage)?);
    for door in stage.doors()? {
        let mut client = Raw::connect(door)?;
        let of_home = |node_id: i32| {
            stage.cluster(home).node_ids().iter().any(|own| stage.virtual_broker(home, *own).is_ok_and(|known| known.0 == node_id))
        };
        for version in [1, 4, 7, 9, 12] {
            let answer = metadata(&mut client, version, &client_id, None)?;
            let brokers: BTreeSet<_> = answer.brokers.iter().map(|broker| (broker.node_id.0, broker.port as u16)).collect();
            ensure!(brokers == all && answer.brokers.len() == all.len(), "Metadata v{version} at port {door}: {:?}", answer.brokers);
            ensure!(of_home(answer.controller_id.0), "Metadata v{version} at port {door}: the controller is {:?}", answer.controller_id);
            for topic in
                Side::BOTH.map(|side| side.leads("admin")).iter().chain(&Side::BOTH.map(|side| format!("only-{}.admin", side.name())))
            {
                let times = answer.topics.iter().filter(|known| known.name.as_ref().is_some_and(|name| name.as_str() == topic)).count();
                ensure!(times == 1, "{topic} is {times} times in all topics, Metadata v{version} at port {door}");
            }
        }
        for version in [0, 1] {
            let answer = ask(&mut client, version, &client_id, &DescribeClusterRequest::default())?;
            let brokers: BTreeSet<_> = answer.brokers.iter().map(|broker| (broker.broker_id.0, broker.port as u16)).collect();
            ensure!(
                answer.error_code == 0 && brokers == all && of_home(answer.controller_id.0),
                "DescribeCluster v{version} at port {door}: {answer:?}"
            );
        }
    }
    Ok(())
}

fn what_a_client_may_do_is_told_by_the_leading_cluster(stage: &Stage, home: Side) -> Result<()> {
    let operations = |client: &mut Raw, version: i16, client_id: &str, topics: Option<&[String]>| -> Result<BTreeMap<String, i32>> {
        let named = |names: &[String]| names.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect();
        let request = MetadataRequest::default().with_topics(topics.map(named)).with_allow_auto_topic_creation(false);
        let answer = ask(client, version, client_id, &request.with_include_topic_authorized_operations(true))?;
        answer.topics.into_iter().map(|topic| Ok((topic.name.context("a name")?.to_string(), topic.topic_authorized_operations))).collect()
    };
    let mut expected = BTreeMap::new();
    for side in Side::BOTH {
        let topics = [side.leads("admin"), format!("only-{}.admin", side.name())];
        let told = operations(&mut stage.directly_at(side, stage.cluster(side).node_ids()[0])?, 8, "directly", Some(&topics))?;
        ensure!(told.len() == 2 && told.values().all(|bits| *bits > 0), "{side:?} itself says {told:?}");
        expected.extend(told);
    }
    let topics: Vec<String> = expected.keys().cloned().collect();
    for door in stage.doors()? {
        let mut client = Raw::connect(door)?;
        for version in [8, 9, 12] {
            for asked in [Some(&*topics), None] {
                let mut told = operations(&mut client, version, &home.client("allowed"), asked)?;
                told.retain(|topic, _| expected.contains_key(topic));
                ensure!(told == expected, "Metadata v{version} at port {door}: {told:?}, and not {expected:?}");
            }
        }
    }
    Ok(())
}

fn partitions_are_moved_where_their_topics_lead(stage: &Stage, home: Side) -> Result<()> {
    let client_id = home.client("moving");
    let (foreign, own, elsewhere) = (home.other().leads("admin"), home.leads("admin"), home.other());
    let replicas = |side: Side, topic: &str| -> Result<Vec<Vec<i32>>> {
        Ok(stage.cluster(side).partitions(topic)?.into_iter().map(|partition| partition.replicas).collect())
    };
    let foreign_before = [replicas(elsewhere, &foreign)?, replicas(home, &foreign)?];
    let virtual_ids = |side: Side, node_ids: &[i32]| -> Result<Vec<BrokerId>> {
        node_ids.iter().map(|node_id| Ok(BrokerId(stage.virtual_broker(side, *node_id)?.0))).collect()
    };
    let reassign = |topic: &str, replicas: Vec<BrokerId>| {
        let partition = ReassignablePartition::default().with_partition_index(0).with_replicas(Some(replicas));
        ReassignableTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])
    };
    for (n, door) in (0_i16..).zip(stage.doors()?) {
        let mut client = Raw::connect(door)?;
        let context = || format!("at port {door}");

        let topic = |name: &String| TopicPartitions::default().with_topic(topic_name(name)).with_partitions(vec![0]);
        let request = ElectLeadersRequest::default().with_topic_partitions(Some([&own, &foreign].map(topic).into()));
        let answer = ask(&mut client, n % 3, &client_id, &request.with_timeout_ms(30_000)).with_context(context)?;
        ensure!(answer.error_code == 0 && answer.replica_election_results.len() == 2, "ElectLeaders {}: {answer:?}", context());
        for result in &answer.replica_election_results {
            let [partition] = &result.partition_result[..] else { bail!("ElectLeaders {}: {answer:?}", context()) };
            let is_refused = || partition.error_code == POLICY_VIOLATION && names(partition.error_message.as_ref(), elsewhere);
            let is_done = || [0, ELECTION_NOT_NEEDED].contains(&partition.error_code);
            ensure!(if result.topic.as_str() == own { is_done() } else { is_refused() }, "ElectLeaders {}: {answer:?}", context());
        }

        // The same replicas in another order: that is done at once.
        let mut wanted = replicas(home, &own)?.swap_remove(0);
        wanted.rotate_left(1);
        let topics = vec![reassign(&own, virtual_ids(home, &wanted)?), reassign(&foreign, virtual_ids(elsewhere, &wanted)?)];
        let request = AlterPartitionReassignmentsRequest::default().with_topics(topics).with_timeout_ms(30_000);
        let answer = ask(&mut client, 0, &client_id, &request).with_context(context)?;
        ensure!(answer.error_code == 0 && answer.responses.len() == 2, "AlterPartitionReassignments {}: {answer:?}", context());
        for result in &answer.responses {
            let partition = &result.partitions[0];
            let is_refused = || partition.error_code == POLICY_VIOLATION && names(partition.error_message.as_ref(), elsewhere);
            let is_right = if result.name.as_str() == own { partition.error_code == 0 } else { is_refused() };
            ensure!(is_right, "AlterPartitionReassignments {}: {answer:?}", context());
        }
        until("the replicas are in the order that was asked for", || Ok(replicas(home, &own)?[0] == wanted)).with_context(context)?;

        // Home does not have the brokers of the other cluster, whose node ids are the same.
        let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![reassign(&own, virtual_ids(elsewhere, &wanted)?)]);
        let answer = ask(&mut client, 0, &client_id, &request.with_timeout_ms(30_000)).with_context(context)?;
        let partition = &answer.responses[0].partitions[0];
        ensure!(partition.error_code == INVALID_REPLICA_ASSIGNMENT, "replicas on {elsewhere:?} {}: {answer:?}", context());
        ensure!(replicas(home, &own)?[0] == wanted, "{own} is to be moved by that {}", context());

        let topic = |name: &String| ListPartitionReassignmentsTopics::default().with_name(topic_name(name)).with_partition_indexes(vec![0]);
        for topics in [None, Some([&own, &foreign].map(topic).into())] {
            let request = ListPartitionReassignmentsRequest::default().with_topics(topics).with_timeout_ms(30_000);
            let answer = ask(&mut client, 0, &client_id, &request).with_context(context)?;
            let told: Vec<_> = answer.topics.iter().filter(|topic| topic.name.as_str() == own || topic.name.as_str() == foreign).collect();
            ensure!(answer.error_code == 0 && told.is_empty(), "ListPartitionReassignments {}: {answer:?}", context());
        }
    }
    let foreign_after = [replicas(elsewhere, &foreign)?, replicas(home, &foreign)?];
    ensure!(foreign_after == foreign_before, "{foreign} had its replicas on {foreign_before:?}, now on {foreign_after:?}");
    Ok(())
}

/// Whether an error's message names a cluster. Older versions of some answers have no message.
fn names(message: Option<&StrBytes>, cluster: Side) -> bool {
    message.is_some_and(|message| message.as_str().contains(cluster.name()))
}

fn topics_are_changed_where_they_lead(stage: &Stage, home: Side) -> Result<()> {
    let client_id = home.client("changing");
    let (foreign, own) = (home.other().leads("admin"), home.leads("admin"));
    let elsewhere = home.other();
    let config = |topic: &str, value: &str| {
        let set = AlterableConfig::default().with_name(text("retention.ms")).with_config_operation(SET).with_value(Some(text(value)));
        let resource = AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic)).with_configs(vec![set]);
        IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
    };
    let retention = |client: &mut Raw, client_id: &str, topic: &str| -> Result<Option<String>> {
        let resource = DescribeConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text(topic));
        let resource = resource.with_configuration_keys(Some(vec![text("retention.ms")]));
        let answer = ask(client, 3, client_id, &DescribeConfigsRequest::default().with_resources(vec![resource]))?;
        let result = answer.results.first().context("an answer without the topic")?;
        ensure!(result.error_code == 0, "{result:?}");
        Ok(result.configs.first().and_then(|config| config.value.as_ref()).map(ToString::to_string))
    };
    for (n, door) in (0_u32..).zip(stage.doors()?) {
        let mut client = Raw::connect(door)?;
        let context = || format!("at port {door}");
        // One version of each at each door.
        let version = 2 + (n % 5) as i16;
        let created = format!("created.{}.{n}", home.name());
        let topic = |name: &str| CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(2).with_replication_factor(3);
        let request = CreateTopicsRequest::default().with_topics(vec![topic(&created), topic(&foreign)]).with_timeout_ms(30_000);
        let answer = ask(&mut client, version, &client_id, &request).with_context(context)?;
        let result =
            |name: &str| answer.topics.iter().find(|topic| topic.name.as_str() == name).with_context(|| format!("no answer about {name}"));
        ensure!(result(&created)?.error_code == 0, "CreateTopics v{version}: {answer:?}");
        let refused = result(&foreign)?;
        ensure!(
            refused.error_code == TOPIC_ALREADY_EXISTS && names(refused.error_message.as_ref(), elsewhere),
            "CreateTopics v{version} of {foreign}: {refused:?}"
        );
        stage.is_shown(home, home, &created)?;
        ensure!(!stage.cluster(elsewhere).list_topics()?.contains(&created), "{created} is on {elsewhere:?} too");

        let grown = [&created, &foreign]
            .map(|name| CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(5).with_assignments(None));
        let request = CreatePartitionsRequest::default().with_topics(grown.into()).with_timeout_ms(30_000);
        let answer = ask(&mut client, (n % 4) as i16, &client_id, &request).with_context(context)?;
        for result in &answer.results {
            let is_refused = || result.error_code == POLICY_VIOLATION && names(result.error_message.as_ref(), elsewhere);
            let is_right = if result.name.as_str() == created { result.error_code == 0 } else { is_refused() };
            ensure!(is_right, "CreatePartitions {}: {result:?}", context());
        }

        let answer = ask(&mut client, 1, &client_id, &config(&foreign, "1")).with_context(context)?;
        let refused = &answer.responses[0];
        ensure!(
            refused.error_code == POLICY_VIOLATION && names(refused.error_message.as_ref(), elsewhere),
            "IncrementalAlterConfigs {}: {refused:?}",
            context()
        );
        let value = (600_000_000 + n).to_string();
        let answer = ask(&mut client, 1, &client_id, &config(&own, &value)).with_context(context)?;
        ensure!(answer.responses[0].error_code == 0, "IncrementalAlterConfigs of {own} {}: {answer:?}", context());
        // The leader's, to clients of either home.
        for looking in Side::BOTH {
            let (mut shown, client_id) = (None, looking.client("describing"));
            let seen = until("the setting is the leader's", || {
                shown = retention(&mut client, &client_id, &own)?;
                Ok(shown.as_ref() == Some(&value))
            });
            seen.with_context(|| format!("{own} to a client of {looking:?} {}: {shown:?}, and not {value}", context()))?;
        }

        let version = 1 + (n % 5) as i16;
        let names_of_topics = vec![topic_name(&created), topic_name(&foreign)];
        let request = DeleteTopicsRequest::default().with_topic_names(names_of_topics).with_timeout_ms(30_000);
        let answer = ask(&mut client, version, &client_id, &request).with_context(context)?;
        for result in &answer.responses {
            // The message came with version 5.
            let is_told = || version < 5 || names(result.error_message.as_ref(), elsewhere);
            let is_created = result.name.as_ref().is_some_and(|name| name.as_str() == created);
            let is_right = if is_created { result.error_code == 0 } else { result.error_code == POLICY_VIOLATION && is_told() };
            ensure!(is_right && answer.responses.len() == 2, "DeleteTopics v{version} {}: {answer:?}", context());
        }
    }
    for side in Side::BOTH {
        let partitions = stage.cluster(side).partitions(&foreign)?.len();
        ensure!(partitions == 4, "{foreign} has {partitions} partitions on {side:?}");
    }
    Ok(())
}

fn groups_are_listed_once(stage: &Stage, home: Side) -> Result<()> {
    let client_id = home.client("listing");
    for version in [0, 2, 3, 4, 5] {
        let mut found = BTreeMap::<String, Vec<Side>>::new();
        for side in Side::BOTH {
            for node_id in stage.cluster(side).node_ids() {
                let mut client = stage.at(side, node_id)?;
                if crate::behind::advertised(&mut client, &client_id, ApiKey::ListGroups)? < Some(version) {
                    continue;
                }
                let answer = ask(&mut client, version, &client_id, &ListGroupsRequest::default())?;
                ensure!(answer.error_code == 0, "{answer:?}");
                for group in answer.groups {
                    found.entry(group.group_id.to_string()).or_default().push(side);
                }
            }
        }
        for side in Side::BOTH {
            for group in [side.lives("admin"), format!("admin-only-{}", side.name())] {
                ensure!(
                    found.is_empty() || found.get(&group) == Some(&vec![side]),
                    "ListGroups v{version}: {group} is listed by {:?}",
                    found.get(&group)
                );
            }
        }
        ensure!(version > 3 || !found.is_empty(), "ListGroups v{version} is offered by nobody");
    }
    Ok(())
}

/// `retention` is what was last set for the topic that leads on a cluster.
fn java_administers(stage: &Stage, home: Side, side: Side, retention: &mut BTreeMap<&'static str, String>) -> Result<()> {
    let (own, foreign, elsewhere) = (home.leads("admin"), home.other().leads("admin"), home.other());
    let created = format!("created.java.{}.{}", home.name(), side.name());
    let value = format!("{}", 700_000_000 + retention.len());
    let transactional_id = format!("java-{}-{}", home.name(), side.name());
    let things = json!([
        ["topics"],
        ["describe", own],
        ["describe", foreign],
        ["cluster"],
        ["groups"],
        ["create", created],
        ["create", foreign],
        ["delete", foreign],
        ["grow", foreign, "9"],
        ["alter", foreign, "retention.ms", "1"],
        ["alter", own, "retention.ms", value],
        ["config", own, "retention.ms"],
        ["config", foreign, "retention.ms"],
        ["delete", created],
        ["transaction", transactional_id, own],
        ["transaction", transactional_id, own, foreign],
        ["transaction", transactional_id, own],
    ]);
    let node_id = stage.cluster(side).node_ids()[0];
    let ends = |topic: &str| stage.cluster(home.other()).log_ends(topic);
    let foreign_ends = ends(&foreign)?;
    let to_be_shown = |topic: &str, leader: Side| -> Result<Value> {
        let address = |node_id: i32| -> Result<Value> {
            let (id, port) = stage.virtual_broker(leader, node_id)?;
            Ok(json!(format!("{id}@127.0.0.1:{port}")))
        };
        let mut partitions = Vec::new();
        for partition in stage.cluster(leader).partitions(topic)? {
            let replicas = partition.replicas.into_iter().map(address).collect::<Result<Vec<_>>>()?;
            partitions.push(json!({ "leader": address(partition.leader)?, "replicas": replicas }));
        }
        Ok(json!(partitions))
    };
    let both_to_be_shown = || anyhow::Ok([to_be_shown(&own, home)?, to_be_shown(&foreign, elsewhere)?]);
    let before = both_to_be_shown()?;
    let answers = operate(&format!("127.0.0.1:{}", stage.virtual_broker(side, node_id)?.1), &home.client("java-operator"), &things)?;
    let [
        topics,
        own_shown,
        foreign_shown,
        cluster,
        groups,
        made,
        made_twice,
        deleted,
        grown,
        altered,
        set,
        own_config,
        foreign_config,
        gone,
        first,
        mixed,
        last,
    ] = &answers[..]
    else {
        bail!("{} answers to {} things: {answers:?}", answers.len(), things)
    };
    for topic in [&own, &foreign, "only-legacy.admin", "only-new.admin"] {
        ensure!(topics.as_array().is_some_and(|topics| topics.contains(&json!(topic))), "{topic} is not listed: {topics}");
    }
    // A broker that another test has killed becomes the leader again of what it led, whenever the controller looks for that: maybe meanwhile.
    let after = both_to_be_shown()?;
    for (topic, shown, before, after) in [(&own, own_shown, &before[0], &after[0]), (&foreign, foreign_shown, &before[1], &after[1])] {
        ensure!(shown == before || shown == after, "{topic}: {shown:#}, and neither {before:#} nor {after:#}");
    }
    let nodes: BTreeSet<String> = all_brokers(stage)?.into_iter().map(|(id, port)| format!("{id}@127.0.0.1:{port}")).collect();
    ensure!(cluster["nodes"] == json!(nodes), "{cluster:#}");
    for group in Side::BOTH.iter().flat_map(|side| [side.lives("admin"), format!("admin-only-{}", side.name())]) {
        let times = groups.as_array().into_iter().flatten().filter(|known| **known == json!(group)).count();
        ensure!(times == 1, "{group} is listed {times} times: {groups}");
    }
    ensure!(*made == json!("done") && *gone == json!("done"), "{created}: {made}, {gone}");
    is_error(made_twice, "TopicExistsException", elsewhere).context("create")?;
    is_error(deleted, "PolicyViolationException", elsewhere).context("delete")?;
    is_error(grown, "PolicyViolationException", elsewhere).context("grow")?;
    is_error(altered, "PolicyViolationException", elsewhere).context("alter")?;
    ensure!(*set == json!("done") && *own_config == json!(value), "{own}: {set}, {own_config}");
    retention.insert(home.name(), value);
    if let Some(last) = retention.get(elsewhere.name()) {
        ensure!(*foreign_config == json!(last), "{foreign}: {foreign_config}, and not {last}");
    }
    ensure!(*first == json!("committed") && *last == json!("committed"), "{transactional_id}: {first}, {mixed}, {last}");
    ensure!(mixed["aborted"] == json!(true), "{transactional_id}: a transaction of both clusters ended with {mixed}");
    println!("{home:?}: Java's transaction of both clusters was aborted by {mixed}");
    ensure!(ends(&foreign)? == foreign_ends, "{foreign} has something of it");
    Ok(())
}

/// Asks for a topic as a client does that would like to have it.
fn ask_for(client: &mut Raw, version: i16, client_id: &str, topic: &str) -> Result<MetadataResponse> {
    let topics = vec![MetadataRequestTopic::default().with_name(Some(topic_name(topic)))];
    ask(client, version, client_id, &MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(true))
}

#[test]
fn a_question_creates_a_topic_at_home_or_not_at_all() -> Result<()> {
    calm(|stage| {
        for side in Side::BOTH {
            let there = format!("only-{}.there", side.name());
            stage.cluster(side).create_topic(&there, 3, &[])?;
            stage.is_shown(side.other(), side, &there)?;
        }
        let mut wanted = Vec::new();
        for home in Side::BOTH {
            let client_id = home.client("wanting");
            for (n, door) in (0..).zip(stage.doors()?) {
                let mut client = Raw::connect(door)?;
                // Each version at some doors.
                for version in (1..=9).filter(|version| (version + n) % 3 == 0) {
                    let topic = format!("wanted.{}.{n}.v{version}", home.name());
                    let answer = ask_for(&mut client, version, &client_id, &topic)?;
                    let error = named(&answer, &topic).with_context(|| format!("{topic} is not in {answer:?}"))?.error_code;
                    ensure!([0, UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE].contains(&error), "{topic}: error {error}");
                    wanted.push((home, topic));

                    let there = format!("only-{}.there", home.other().name());
                    let answer = ask_for(&mut client, version, &client_id, &there)?;
                    let is = named(&answer, &there).map(shown);
                    ensure!(
                        is == Some(stage.to_be_shown(home.other(), &there)?),
                        "v{version} at port {door} to {home:?}: {there} is {is:?}"
                    );
                }
            }
        }
        for (home, topic) in &wanted {
            until("it is created", || Ok(stage.cluster(*home).list_topics()?.contains(topic))).with_context(|| topic.clone())?;
        }
        for side in Side::BOTH {
            let there: BTreeSet<String> = stage.cluster(side).list_topics()?.into_iter().collect();
            let wrong: Vec<_> = wanted.iter().filter(|(home, topic)| *home != side && there.contains(topic)).collect();
            ensure!(wrong.is_empty(), "on {side:?} are {wrong:?}");
            ensure!(!there.contains(&format!("only-{}.there", side.other().name())), "a question has created it on {side:?}");
        }
        for (home, topic) in wanted.iter().step_by(3) {
            for looking in Side::BOTH {
                stage.is_shown(looking, *home, topic)?;
            }
        }
        Ok(())
    })
}

/// What a client of a home is told, but for ports.
fn told(proxy: &Proxy, version: i16, home: Side) -> Result<(BTreeSet<i32>, BTreeMap<String, Shown>)> {
    let answer = metadata(&mut Raw::connect(proxy.port())?, version, &home.client("twice"), None)?;
    let topics = answer.topics.iter().map(|topic| Ok((topic.name.as_ref().context("a name")?.to_string(), shown(topic))));
    Ok((answer.brokers.iter().map(|broker| broker.node_id.0).collect(), topics.collect::<Result<_>>()?))
}

/// What a client of a home is told of a group's coordinator: the error and the node id.
fn told_of_group(proxy: &Proxy, version: i16, home: Side, group: &str) -> Result<(i16, i32)> {
    let question = FindCoordinatorRequest::default();
    let question = if version < 4 { question.with_key(text(group)) } else { question.with_coordinator_keys(vec![text(group)]) };
    let answer = ask(&mut Raw::connect(proxy.port())?, version, &home.client("twice"), &question)?;
    let one = answer.coordinators.first().map(|one| (one.error_code, one.node_id.0));
    Ok(one.unwrap_or((answer.error_code, answer.node_id.0)))
}

#[test]
fn two_proxies_say_the_same() -> Result<()> {
    calm(|stage| {
        // Each with where it lives.
        let mut groups = Vec::new();
        for side in Side::BOTH {
            stage.create_copied(side, &side.leads("twice"), 3)?;
            for group in [side.lives("twice"), format!("twice-only-{}", side.name())] {
                stage.cluster(side).commit(&group, &side.leads("twice"), [(0, Commit::at(0))])?;
                groups.push((group, side));
            }
            stage.group_is_copied(side, &side.lives("twice"))?;
        }
        let second = Proxy::start(&routes(&stage.clusters)?)?;
        for home in Side::BOTH {
            for version in [1, 9, 12] {
                let mut last = None;
                // Other tests create topics meanwhile.
                let same = until("both say the same", || {
                    let (one, other) = (told(&stage.proxy, version, home)?, told(&second, version, home)?);
                    let is_same = one == other && one.0.len() == 6 && !one.1.is_empty();
                    last = Some((one, other));
                    Ok(is_same)
                });
                same.with_context(|| format!("home {home:?}, v{version}: {last:#?}"))?;
            }
        }
        for home in Side::BOTH {
            for (group, side) in groups.iter().chain([&(home.client("of-nobody-twice"), home)]) {
                let expected = (0, stage.virtual_broker(*side, stage.coordinator(*side, group, GROUP)?)?.0);
                for version in [0, 3, 4, 6] {
                    let mut last = None;
                    let same = until("both say the same", || {
                        last = Some((told_of_group(&stage.proxy, version, home, group)?, told_of_group(&second, version, home, group)?));
                        Ok(last == Some((expected, expected)))
                    });
                    same.with_context(|| format!("{group} to {home:?}, FindCoordinator v{version}: {last:?}, and not {expected:?}"))?;
                }
            }
        }
        for side in Side::BOTH {
            let topic = side.leads("twice");
            for home in Side::BOTH {
                let (_, topics) = told(&second, 9, home)?;
                ensure!(topics.get(&topic) == Some(&stage.to_be_shown(side, &topic)?), "{topic} to {home:?}: {:?}", topics.get(&topic));
            }
        }
        Ok(())
    })
}

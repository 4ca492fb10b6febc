import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.ListGroupsOptions;
import org.apache.kafka.clients.admin.ListTopicsOptions;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.quota.ClientQuotaFilter;

/**
 * What a user interface for Kafka asks a cluster, by Kafka's own admin client: everything that can be listed and described.
 * Arguments: bootstrap.servers, client.id. One JSON object goes to stdout: the answer to each question, or {@code {"error": "its class"}}.
 */
public final class Questions {
    private interface Question {
        Object ask() throws Exception;
    }

    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS);

    private final Admin admin;
    private final Map<String, Object> answers = new TreeMap<>();

    private Questions(Admin admin) {
        this.admin = admin;
    }

    public static void main(String[] args) throws Exception {
        Map<String, Object> config = Map.of(
                "bootstrap.servers", args[0], "client.id", args[1], "default.api.timeout.ms", "90000", "request.timeout.ms", "30000");
        try (Admin admin = Admin.create(config)) {
            Questions questions = new Questions(admin);
            questions.all();
            System.out.println(JSON.writeValueAsString(questions.answers));
        }
    }

    private void all() throws Exception {
        Collection<Node> nodes = admin.describeCluster().nodes().get();
        List<Integer> ids = nodes.stream().map(Node::id).sorted().toList();
        TreeSet<String> names = new TreeSet<>(admin.listTopics(new ListTopicsOptions().listInternal(true)).names().get());
        Map<String, TopicDescription> topics = admin.describeTopics(names).allTopicNames().get();
        List<TopicPartition> partitions = new ArrayList<>();
        for (var topic : topics.values()) {
            for (var partition : topic.partitions()) partitions.add(new TopicPartition(topic.name(), partition.partition()));
        }
        answer("cluster", () -> {
            var cluster = admin.describeCluster();
            Map<String, Object> answer = new TreeMap<>();
            answer.put("id", cluster.clusterId().get());
            answer.put("controller", cluster.controller().get().id());
            answer.put("nodes", nodes.stream().map(Questions::node).sorted().toList());
            return answer;
        });
        answer("topics", () -> names);
        answer("partitions", () -> {
            Map<String, Object> answer = new TreeMap<>();
            for (var topic : topics.values()) {
                answer.put(topic.name(), topic.partitions().stream().map(partition -> Map.of(
                        "leader", node(partition.leader()),
                        "replicas", partition.replicas().stream().map(Questions::node).toList(),
                        "isr", partition.isr().stream().map(Questions::node).toList())).toList());
            }
            return answer;
        });
        answer("topic_configs", () -> configs(names.stream().map(name -> new ConfigResource(ConfigResource.Type.TOPIC, name)).toList()));
        answer("broker_configs", () ->
                configs(ids.stream().map(id -> new ConfigResource(ConfigResource.Type.BROKER, id.toString())).toList()));
        // All types: classic, consumer, share, streams.
        answer("groups", () -> {
            Map<String, Object> answer = new TreeMap<>();
            for (var group : admin.listGroups().all().get()) {
                answer.put(group.groupId(), group.type().map(Object::toString).orElse("") + " " + group.protocol());
            }
            return answer;
        });
        answer("described_groups", () -> {
            Map<String, Object> answer = new TreeMap<>();
            for (var group : admin.describeConsumerGroups(consumerGroups()).all().get().values()) {
                answer.put(group.groupId(), Map.of(
                        "state", group.groupState().toString(),
                        "coordinator", node(group.coordinator()),
                        "members", group.members().stream().map(member -> member.clientId() + " "
                                + new TreeSet<>(member.assignment().topicPartitions().stream().map(Object::toString).toList())).sorted().toList()));
            }
            return answer;
        });
        answer("group_offsets", () -> {
            Map<String, ListConsumerGroupOffsetsSpec> specs = new HashMap<>();
            for (var group : consumerGroups()) specs.put(group, new ListConsumerGroupOffsetsSpec());
            Map<String, Object> answer = new TreeMap<>();
            admin.listConsumerGroupOffsets(specs).all().get().forEach((group, offsets) -> {
                Map<String, Object> committed = new TreeMap<>();
                offsets.forEach((partition, offset) -> committed.put(partition.toString(), offset == null ? -1 : offset.offset()));
                answer.put(group, committed);
            });
            return answer;
        });
        answer("log_starts", () -> offsets(partitions, OffsetSpec.earliest()));
        answer("log_ends", () -> offsets(partitions, OffsetSpec.latest()));
        answer("latest_timestamps", () -> offsets(partitions, OffsetSpec.maxTimestamp()));
        answer("log_dirs", () -> {
            Map<Integer, Object> answer = new TreeMap<>();
            admin.describeLogDirs(ids).allDescriptions().get().forEach((id, dirs) -> {
                Map<String, Object> sizes = new TreeMap<>();
                for (var dir : dirs.values()) dir.replicaInfos().forEach((partition, replica) -> sizes.put(partition.toString(), replica.size()));
                answer.put(id, sizes);
            });
            return answer;
        });
        answer("reassignments", () -> admin.listPartitionReassignments().reassignments().get().keySet().stream().map(Object::toString).toList());
        answer("producers", () -> {
            Map<String, Object> answer = new TreeMap<>();
            admin.describeProducers(partitions).all().get().forEach((partition, state) ->
                    answer.put(partition.toString(), state.activeProducers().size()));
            return answer;
        });
        answer("transactions", () -> new TreeSet<>(admin.listTransactions().all().get().stream().map(one -> one.transactionalId()).toList()));
        answer("acls", () -> admin.describeAcls(AclBindingFilter.ANY).values().get().size());
        answer("quotas", () -> admin.describeClientQuotas(ClientQuotaFilter.all()).entities().get().size());
        answer("users", () -> new TreeSet<>(admin.describeUserScramCredentials().users().get()));
        answer("features", () -> {
            Map<String, Object> answer = new TreeMap<>();
            admin.describeFeatures().featureMetadata().get().finalizedFeatures().forEach((name, range) -> answer.put(name, range.toString()));
            return answer;
        });
        answer("quorum", () -> admin.describeMetadataQuorum().quorumInfo().get().leaderId());
        answer("config_resources", () -> new TreeSet<>(admin.listConfigResources().all().get().stream().map(Object::toString).toList()));
        answer("tokens", () -> admin.describeDelegationToken().delegationTokens().get().size());
    }

    private void answer(String name, Question question) throws Exception {
        try {
            answers.put(name, question.ask());
        } catch (ExecutionException failed) {
            answers.put(name, Map.of("error", failed.getCause().getClass().getSimpleName()));
        }
    }

    private List<String> consumerGroups() throws Exception {
        return admin.listGroups(ListGroupsOptions.forConsumerGroups()).all().get().stream().map(GroupListing::groupId).toList();
    }

    private static String node(Node node) {
        return node == null ? "none" : node.id() + "@" + node.host() + ":" + node.port();
    }

    private Map<String, Object> configs(List<ConfigResource> resources) throws Exception {
        Map<String, Object> answer = new TreeMap<>();
        for (Map.Entry<ConfigResource, Config> one : admin.describeConfigs(resources).all().get().entrySet()) {
            Map<String, String> entries = new TreeMap<>();
            for (ConfigEntry entry : one.getValue().entries()) entries.put(entry.name(), entry.value());
            answer.put(one.getKey().name(), entries);
        }
        return answer;
    }

    private Map<String, Object> offsets(List<TopicPartition> partitions, OffsetSpec spec) throws Exception {
        Map<TopicPartition, OffsetSpec> specs = new HashMap<>();
        for (var partition : partitions) specs.put(partition, spec);
        Map<String, Object> answer = new TreeMap<>();
        admin.listOffsets(specs).all().get().forEach((partition, offset) -> answer.put(partition.toString(), offset.offset()));
        return answer;
    }
}

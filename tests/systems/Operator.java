import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * What an operator does, one thing after the other, by Kafka's own admin client and producer.
 * Arguments: bootstrap.servers, client.id, and a JSON array of things to do, each an array: a verb and what it is about. A JSON array goes to stdout:
 * what came of each, or {@code {"error": "its class", "message": "its text"}}.
 */
public final class Operator {
    private static final ObjectMapper JSON = new ObjectMapper().enable(SerializationFeature.ORDER_MAP_ENTRIES_BY_KEYS);
    private static final String DONE = "done";

    private final String servers;
    private final String clientId;
    private final Admin admin;
    private final Map<String, KafkaProducer<String, String>> producers = new HashMap<>();

    private Operator(String servers, String clientId, Admin admin) {
        this.servers = servers;
        this.clientId = clientId;
        this.admin = admin;
    }

    public static void main(String[] args) throws Exception {
        Map<String, Object> config = Map.of(
                "bootstrap.servers", args[0], "client.id", args[1], "default.api.timeout.ms", "60000", "request.timeout.ms", "20000");
        List<Object> answers = new ArrayList<>();
        try (Admin admin = Admin.create(config)) {
            Operator operator = new Operator(args[0], args[1], admin);
            for (JsonNode thing : JSON.readTree(args[2])) {
                List<String> words = new ArrayList<>();
                for (JsonNode word : thing) words.add(word.asText());
                answers.add(operator.answer(words));
            }
            for (var producer : operator.producers.values()) producer.close();
        }
        System.out.println(JSON.writeValueAsString(answers));
    }

    private Object answer(List<String> words) throws Exception {
        try {
            return act(words.get(0), words.subList(1, words.size()));
        } catch (ExecutionException failed) {
            return error(failed.getCause());
        } catch (KafkaException failed) {
            return error(failed);
        }
    }

    private static Map<String, Object> error(Throwable failed) {
        // A producer's own exception says little, what it is from says which error it was.
        Throwable cause = failed.getCause() == null ? failed : failed.getCause();
        return Map.of("error", cause.getClass().getSimpleName(), "message", String.valueOf(cause.getMessage()));
    }

    private Object act(String verb, List<String> about) throws Exception {
        switch (verb) {
            case "topics":
                return new TreeSet<>(admin.listTopics().names().get());
            case "describe":
                return describe(about.get(0));
            case "create":
                admin.createTopics(List.of(new NewTopic(about.get(0), Optional.of(2), Optional.empty()))).all().get();
                return DONE;
            case "delete":
                admin.deleteTopics(about).all().get();
                return DONE;
            case "grow":
                admin.createPartitions(Map.of(about.get(0), NewPartitions.increaseTo(Integer.parseInt(about.get(1))))).all().get();
                return DONE;
            case "alter": {
                var set = new AlterConfigOp(new ConfigEntry(about.get(1), about.get(2)), AlterConfigOp.OpType.SET);
                admin.incrementalAlterConfigs(Map.of(topic(about.get(0)), List.of(set))).all().get();
                // Another broker may hear of it a moment later, as in any cluster.
                for (int i = 0; i < 300 && !about.get(2).equals(value(about.get(0), about.get(1))); i++) {
                    Thread.sleep(100);
                }
                return DONE;
            }
            case "config":
                return value(about.get(0), about.get(1));
            case "groups":
                return admin.listGroups().all().get().stream().map(group -> group.groupId()).sorted().toList();
            case "cluster": {
                var cluster = admin.describeCluster();
                return Map.of(
                        "controller", cluster.controller().get().id(),
                        "nodes", cluster.nodes().get().stream().map(Operator::node).sorted().toList());
            }
            case "transaction":
                return transact(about.get(0), about.subList(1, about.size()));
            default:
                throw new IllegalArgumentException(verb);
        }
    }

    private static ConfigResource topic(String name) {
        return new ConfigResource(ConfigResource.Type.TOPIC, name);
    }

    private String value(String topic, String name) throws Exception {
        return admin.describeConfigs(List.of(topic(topic))).all().get().get(topic(topic)).get(name).value();
    }

    private Object describe(String topic) throws Exception {
        var partitions = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions();
        return partitions.stream().map(partition -> Map.of(
                "leader", node(partition.leader()),
                "replicas", partition.replicas().stream().map(Operator::node).toList())).toList();
    }

    private static String node(Node node) {
        return node == null ? "none" : node.id() + "@" + node.host() + ":" + node.port();
    }

    /** One record to partition 0 of each topic. What fails is aborted, as an application should; an error that cannot be aborted has no such line. */
    private Object transact(String id, List<String> topics) throws Exception {
        var producer = producers.get(id);
        if (producer == null) {
            // A commit whose partitions are refused waits until the sender's poll is over, which is this time at the latest.
            producer = new KafkaProducer<>(
                    Map.of("bootstrap.servers", servers, "client.id", clientId, "transactional.id", id, "request.timeout.ms", 3000),
                    new StringSerializer(), new StringSerializer());
            producers.put(id, producer);
            producer.initTransactions();
        }
        producer.beginTransaction();
        try {
            for (String topic : topics) producer.send(new ProducerRecord<>(topic, 0, "key", "by " + id));
            producer.commitTransaction();
            return "committed";
        } catch (KafkaException failed) {
            var answer = new TreeMap<>(error(failed));
            producer.abortTransaction();
            answer.put("aborted", true);
            return answer;
        }
    }
}

import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.BooleanSupplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A round trip of Kafka's own Java client: lists the topics, produces, consumes in a group of two.
 * One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.
 */
public final class RoundTrip {
    record Outcome(
            String client, String version, int topics, int produced, int consumed, int duplicates, int[] members,
            int reordered, double seconds) {}

    private static final String CLIENT = "kafka-clients";

    public static void main(String[] args) throws Exception {
        Job job = Job.read(args[0]);
        RoundTrip trip = new RoundTrip(job);
        FutureTask<Outcome> task = new FutureTask<>(trip::run);
        Thread thread = new Thread(task, "round-trip");
        thread.setDaemon(true);
        thread.start();
        Object line;
        boolean right = false;
        try {
            Outcome outcome = task.get(job.timeoutMs(), TimeUnit.MILLISECONDS);
            line = outcome;
            right = outcome.duplicates == 0 && outcome.reordered == 0;
        } catch (ExecutionException failed) {
            failed.getCause().printStackTrace();
            line = Map.of("client", CLIENT, "error", trip.step + ": " + failed.getCause());
        } catch (TimeoutException late) {
            line = Map.of("client", CLIENT, "error", trip.step + ": not done after " + job.timeoutMs() + " ms");
        }
        System.out.println(Job.JSON.writeValueAsString(line));
        System.exit(right ? 0 : 1);
    }

    private final Job job;
    private final Set<String> values = new HashSet<>();
    private final Set<String> seen = new HashSet<>();
    private final int[] members = new int[2];
    private final List<Map<Integer, Long>> lastOffsets = List.of(new HashMap<>(), new HashMap<>());
    private int duplicates;
    private int reordered;
    private volatile String step = "starting";

    private RoundTrip(Job job) {
        this.job = job;
        for (int i = 0; i < job.count(); i++) values.add(value(i));
    }

    private Outcome run() throws Exception {
        long start = System.nanoTime();
        step = "listing topics";
        int topics = listTopics();
        int produced;
        try (var first = new KafkaConsumer<>(consumer(), new StringDeserializer(), new StringDeserializer());
                var second = new KafkaConsumer<>(consumer(), new StringDeserializer(), new StringDeserializer())) {
            List<KafkaConsumer<String, String>> group = List.of(first, second);
            step = "joining the group";
            for (var member : group) member.subscribe(List.of(job.topic()));
            pollUntil(group, () -> group.stream().noneMatch(member -> member.assignment().isEmpty()));
            step = "producing";
            produced = produce();
            step = "consuming";
            pollUntil(group, () -> seen.size() == job.count());
            long end = System.nanoTime() + Duration.ofMillis(300).toNanos();
            pollUntil(group, () -> System.nanoTime() >= end);
            step = "committing and closing";
            for (var member : group) member.commitSync();
        }
        double seconds = (System.nanoTime() - start) / 1e9;
        return new Outcome(CLIENT, version(), topics, produced, seen.size(), duplicates, members, reordered, seconds);
    }

    private int listTopics() throws Exception {
        try (Admin admin = Admin.create(job.connection())) {
            Set<String> topics = admin.listTopics().names().get();
            if (!topics.contains(job.topic())) {
                throw new IllegalStateException(job.topic() + " is not among the " + topics.size() + " topics");
            }
            return topics.size();
        }
    }

    private int produce() throws Exception {
        Map<String, Object> config = job.connection();
        config.put("acks", "all");
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int i = 0; i < job.count(); i++) {
                sent.add(producer.send(new ProducerRecord<>(job.topic(), "k-" + i, value(i))));
            }
            for (var ack : sent) ack.get();
            return sent.size();
        }
    }

    /** Both members in turn; each also needs its poll to take part in a rebalance. */
    private void pollUntil(List<KafkaConsumer<String, String>> group, BooleanSupplier done) {
        while (!done.getAsBoolean()) {
            for (int member = 0; member < group.size(); member++) {
                for (var record : group.get(member).poll(Duration.ofMillis(20))) count(member, record);
            }
        }
    }

    private void count(int member, ConsumerRecord<String, String> record) {
        Long last = lastOffsets.get(member).put(record.partition(), record.offset());
        if (last != null && record.offset() <= last) reordered++;
        // The topic may also hold what other clients produced.
        if (!values.contains(record.value())) return;
        members[member]++;
        if (!seen.add(record.value())) duplicates++;
    }

    private static String version() throws IOException {
        Properties version = new Properties();
        try (var file = KafkaConsumer.class.getResourceAsStream("/kafka/kafka-version.properties")) {
            version.load(file);
        }
        return version.getProperty("version");
    }

    private String value(int i) {
        return job.clientId() + "-" + i;
    }

    private Map<String, Object> consumer() throws IOException {
        Map<String, Object> config = job.connection();
        config.put("group.id", job.groupId());
        config.put("auto.offset.reset", "earliest");
        if (job.groupProtocol() != null) config.put("group.protocol", job.groupProtocol());
        return config;
    }
}

import java.io.IOException;
import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * A soak of Kafka's own Java client: produces numbers at a steady rate and consumes them in a group of two, if there is
 * one, until its input ends. Reports as lines of JSON; see tests/clients/README.md.
 */
public final class Soak {
    private static final int REPORT_MS = 100;
    private static final PrintStream OUT = System.out;

    public static void main(String[] args) throws Exception {
        boolean done = new Soak(Job.read(args[0])).run();
        System.exit(done ? 0 : 1);
    }

    private final Job job;
    private final long[] sent;
    private final long[] acked;
    private final long[] consumed;
    private final List<long[]> acks = new ArrayList<>();
    private long settled;
    private long again;
    private long skipped;
    private volatile boolean stopped;
    private volatile boolean ended;

    private Soak(Job job) {
        this.job = job;
        int places = job.partitions() * (job.secondTopic() == null ? 1 : 2);
        sent = new long[places];
        acked = new long[places];
        consumed = new long[places];
    }

    private boolean run() throws Exception {
        List<Thread> members = job.groupId() == null
                ? List.of()
                : List.of(start("member-1", this::consume), start("member-2", this::consume));
        Thread producer = start("producer", this::produce);
        start("input", () -> {
            while (System.in.read() >= 0) {}
            stopped = true;
        });
        long deadline = Long.MAX_VALUE;
        boolean done = false;
        while (!done && System.nanoTime() < deadline) {
            Thread.sleep(REPORT_MS);
            report();
            if (!stopped || producer.isAlive()) continue;
            if (deadline == Long.MAX_VALUE) deadline = System.nanoTime() + Duration.ofMillis(job.timeoutMs()).toNanos();
            synchronized (this) {
                boolean isRead = job.groupId() == null || Arrays.equals(sent, consumed);
                done = settled == Arrays.stream(sent).sum() && isRead;
            }
        }
        ended = true;
        if (!done) error("not done " + job.timeoutMs() + " ms after the last was sent: " + Arrays.toString(sent));
        for (Thread member : members) member.join(job.timeoutMs());
        report();
        return done;
    }

    private void produce() throws IOException {
        Map<String, Object> config = job.connection();
        // Both are the defaults of 4, not of 2.8.
        config.put("acks", job.acks());
        config.put("enable.idempotence", job.idempotent());
        if (job.maxInFlight() != null) config.put("max.in.flight.requests.per.connection", job.maxInFlight());
        if (job.retries() != null) config.put("retries", job.retries());
        if (job.lingerMs() != null) config.put("linger.ms", job.lingerMs());
        if (job.metadataMaxAgeMs() != null) config.put("metadata.max.age.ms", job.metadataMaxAgeMs());
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            long start = System.nanoTime();
            for (long all = 0; !stopped; all++) {
                while (all >= (System.nanoTime() - start) / 1e9 * job.recordsPerSecond() && !stopped) sleep();
                int place = (int) (all % sent.length);
                long number = all / sent.length;
                String topic = place < job.partitions() ? job.topic() : job.secondTopic();
                synchronized (this) {
                    sent[place]++;
                }
                long began = System.currentTimeMillis();
                var record = new ProducerRecord<String, String>(topic, place % job.partitions(), null, Long.toString(number));
                producer.send(record, (known, failed) -> settle(place, number, began, failed));
            }
        }
    }

    /** A record is acknowledged, or given up. */
    private synchronized void settle(int place, long number, long began, Exception failed) {
        settled++;
        if (failed != null) {
            error("producing: " + failed);
            return;
        }
        acked[place]++;
        if (job.groupId() == null) acks.add(new long[] {place, number, began, System.currentTimeMillis()});
    }

    private void consume() throws IOException {
        Map<String, Object> config = job.connection();
        config.put("group.id", job.groupId());
        config.put("auto.offset.reset", "earliest");
        if (job.groupProtocol() != null) config.put("group.protocol", job.groupProtocol());
        if (job.isStatic()) config.put("group.instance.id", job.clientId() + "-" + Thread.currentThread().getName());
        if (job.cooperative())
            config.put("partition.assignment.strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor");
        try (var member = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            member.subscribe(List.of(job.topic()));
            while (!ended) {
                for (var record : member.poll(Duration.ofMillis(REPORT_MS))) count(record);
            }
        }
    }

    /** A number is the next of its partition, one that was read before, or one too far. */
    private synchronized void count(ConsumerRecord<String, String> record) {
        long number = Long.parseLong(record.value());
        long next = consumed[record.partition()];
        if (number < next) {
            again++;
            return;
        }
        if (number > next) skipped++;
        consumed[record.partition()] = number + 1;
    }

    private synchronized void report() throws IOException {
        var progress = Map.of("acked", acked, "consumed", consumed, "again", again, "skipped", skipped);
        OUT.println(Job.JSON.writeValueAsString(Map.of("progress", progress)));
        if (acks.isEmpty()) return;
        OUT.println(Job.JSON.writeValueAsString(Map.of("acks", acks)));
        acks.clear();
    }

    private static void error(String text) {
        try {
            OUT.println(Job.JSON.writeValueAsString(Map.of("error", text)));
        } catch (IOException impossible) {
            throw new IllegalStateException(impossible);
        }
    }

    private static void sleep() {
        try {
            Thread.sleep(1);
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    private interface Task {
        void run() throws Exception;
    }

    private static Thread start(String name, Task task) {
        Thread thread = new Thread(() -> {
            try {
                task.run();
            } catch (Exception failed) {
                failed.printStackTrace();
                error(name + ": " + failed);
            }
        }, name);
        thread.setDaemon(true);
        thread.start();
        return thread;
    }
}

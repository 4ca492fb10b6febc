import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.PropertyNamingStrategies;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;

/** The argument of both programs; what the one that runs does not need is 0. See tests/clients/README.md. */
record Job(
        String bootstrapServers, String clientId, String topic, String groupId, int count, int partitions,
        int recordsPerSecond, long timeoutMs, Job.Security security, String groupProtocol, boolean cooperative,
        boolean idempotent, boolean isStatic, String acks, Integer maxInFlight, Integer retries, Integer lingerMs,
        Integer metadataMaxAgeMs, String secondTopic) {
    record Security(
            String protocol, String mechanism, String username, String password, Path ca, Path certificate, Path key) {}

    static final ObjectMapper JSON =
            new ObjectMapper().setPropertyNamingStrategy(PropertyNamingStrategies.SNAKE_CASE);

    static Job read(String argument) throws IOException {
        return JSON.readValue(argument, Job.class);
    }

    /** What every client needs to connect. */
    Map<String, Object> connection() throws IOException {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrapServers);
        config.put("client.id", clientId);
        if (security == null) return config;
        config.put("security.protocol", security.protocol);
        if (security.mechanism != null) {
            String module = security.mechanism.equals("PLAIN") ? "plain.PlainLoginModule" : "scram.ScramLoginModule";
            config.put("sasl.mechanism", security.mechanism);
            config.put("sasl.jaas.config", String.format(
                    "org.apache.kafka.common.security.%s required username=\"%s\" password=\"%s\";",
                    module, security.username, security.password));
        }
        if (security.ca != null) {
            config.put("ssl.truststore.type", "PEM");
            config.put("ssl.truststore.location", security.ca.toString());
        }
        if (security.certificate != null) {
            config.put("ssl.keystore.type", "PEM");
            config.put("ssl.keystore.certificate.chain", Files.readString(security.certificate));
            config.put("ssl.keystore.key", Files.readString(security.key));
        }
        return config;
    }
}

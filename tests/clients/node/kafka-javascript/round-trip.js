// A round trip of @confluentinc/kafka-javascript, by the interface that it has in common with kafkajs: lists the topics, produces, consumes in a group
// of two.

import { createRequire } from "node:module";
import library from "@confluentinc/kafka-javascript";
import { job, run } from "./trip.js";

const { Kafka, logLevel } = library.KafkaJS;
const { version } = createRequire(import.meta.url)("@confluentinc/kafka-javascript/package.json");

// A connection is one Kafka object: each member is a client of its own.
function connection() {
  if (job.security) throw new Error("this driver is for PLAINTEXT only");
  // INFO goes to stdout.
  return new Kafka({ kafkaJS: { brokers: job.bootstrap_servers.split(","), clientId: job.client_id, logLevel: logLevel.NOTHING } });
}

async function join(receive) {
  const consumer = connection().consumer({ kafkaJS: { groupId: job.group_id, fromBeginning: true } });
  await consumer.connect();
  await consumer.subscribe({ topic: job.topic });
  await consumer.run({ eachMessage: async (payload) => receive(payload) });
  return { consumer, isAssigned: () => consumer.assignment().length > 0 };
}

async function produce(messages) {
  const producer = connection().producer({ kafkaJS: { acks: -1 } });
  await producer.connect();
  await producer.send({ topic: job.topic, messages });
  await producer.disconnect();
}

await run({ client: "kafka-javascript", version, connection, join, produce });

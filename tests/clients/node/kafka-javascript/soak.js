// A soak of @confluentinc/kafka-javascript, by the interface that it has in common with kafkajs: produces numbers, and consumes them in a group of two.

import library from "@confluentinc/kafka-javascript";
import { count, job, run, setting } from "./soaking.js";

const { Kafka, logLevel } = library.KafkaJS;

// A connection is one Kafka object: each member is a client of its own.
function connection() {
  if (job.security) throw new Error("this soak is for PLAINTEXT only");
  // INFO goes to stdout.
  return new Kafka({ kafkaJS: { brokers: job.bootstrap_servers.split(","), clientId: job.client_id, logLevel: logLevel.NOTHING } });
}

async function consumer() {
  const member = connection().consumer({ kafkaJS: { groupId: job.group_id, fromBeginning: true } });
  await member.connect();
  await member.subscribe({ topic: job.topic });
  await member.run({ eachMessage: async (payload) => count(payload) });
  return member;
}

async function producer() {
  const acks = job.acks === "all" ? -1 : Number(job.acks);
  const retry = job.retries === undefined ? {} : { retry: { retries: job.retries } };
  const settings = { ...setting("maxInFlightRequests", job.max_in_flight), ...setting("metadataMaxAge", job.metadata_max_age_ms) };
  const kafkaJS = { acks, idempotent: job.idempotent, ...retry, ...settings };
  const one = connection().producer({ kafkaJS, ...setting("linger.ms", job.linger_ms) });
  await one.connect();
  return one;
}

await run({ producer, consumer });

// A soak of kafkajs: produces numbers, and consumes them in a group of two.

import { Kafka, logLevel } from "kafkajs";
import { count, error, job, notice, run, setting } from "./soaking.js";

// A connection is one Kafka object: each member is a client of its own.
function connection() {
  if (job.security) throw new Error("this soak is for PLAINTEXT only");
  // WARN and above go to stderr, INFO would go to stdout.
  return new Kafka({ brokers: job.bootstrap_servers.split(","), clientId: job.client_id, logLevel: logLevel.WARN });
}

async function consumer() {
  const member = connection().consumer({ groupId: job.group_id });
  member.on(member.events.CRASH, ({ payload }) => (payload.restart ? notice : error)("consuming", payload.error));
  await member.connect();
  await member.subscribe({ topic: job.topic, fromBeginning: true });
  await member.run({ eachMessage: async (payload) => count(payload) });
  return member;
}

async function producer() {
  // An idempotent one has one request at a time, as its documentation wants it.
  const idempotent = job.idempotent ? { idempotent: true, maxInFlightRequests: 1 } : {};
  const retry = job.retries === undefined ? {} : { retry: { retries: job.retries } };
  const one = connection().producer({ ...idempotent, ...retry, ...setting("metadataMaxAge", job.metadata_max_age_ms) });
  await one.connect();
  const acks = job.acks === "all" ? -1 : Number(job.acks);
  return { sendBatch: (records) => one.sendBatch({ ...records, acks }) };
}

await run({ producer, consumer });

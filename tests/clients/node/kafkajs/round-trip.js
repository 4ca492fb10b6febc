// A round trip of kafkajs: lists the topics, produces, consumes in a group of two.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Kafka, logLevel } from "kafkajs";
import { fail, job, run } from "./trip.js";

const { version } = createRequire(import.meta.url)("kafkajs/package.json");

// A connection is one Kafka object: each member is a client of its own.
function connection() {
  const { security } = job;
  return new Kafka({
    brokers: job.bootstrap_servers.split(","),
    clientId: job.client_id,
    // WARN and above go to stderr, INFO would go to stdout.
    logLevel: logLevel.WARN,
    ssl: security?.protocol.endsWith("SSL") && {
      ca: security.ca && readFileSync(security.ca),
      cert: security.certificate && readFileSync(security.certificate),
      key: security.key && readFileSync(security.key),
    },
    sasl: security?.mechanism && {
      mechanism: security.mechanism.toLowerCase(),
      username: security.username,
      password: security.password,
    },
  });
}

async function join(receive) {
  const consumer = connection().consumer({ groupId: job.group_id });
  let assigned = 0;
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    assigned = payload.memberAssignment[job.topic]?.length ?? 0;
  });
  consumer.on(consumer.events.CRASH, ({ payload }) => {
    if (!payload.restart) fail(payload.error);
  });
  await consumer.connect();
  await consumer.subscribe({ topic: job.topic, fromBeginning: true });
  await consumer.run({ eachMessage: async (payload) => receive(payload) });
  return { consumer, isAssigned: () => assigned > 0 };
}

async function produce(messages) {
  const producer = connection().producer();
  await producer.connect();
  await producer.send({ topic: job.topic, acks: -1, messages });
  await producer.disconnect();
}

await run({ client: "kafkajs", version, connection, join, produce });

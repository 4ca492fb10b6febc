// A round trip of @confluentinc/kafka-javascript, by the interface that it has in common with kafkajs: lists the topics, produces, consumes in a group
// of two. One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.

import { writeSync } from "node:fs";
import { createRequire } from "node:module";
import { setTimeout as sleep } from "node:timers/promises";
import library from "@confluentinc/kafka-javascript";

const { Kafka, logLevel } = library.KafkaJS;
const { version } = createRequire(import.meta.url)("@confluentinc/kafka-javascript/package.json");
const job = JSON.parse(process.argv[2]);

const messages = Array.from({ length: job.count }, (_, i) => ({ key: `k-${i}`, value: `${job.client_id}-${i}` }));
const values = new Set(messages.map(({ value }) => value));
const seen = new Set();
const members = [0, 0];
const lastOffsets = [new Map(), new Map()];
let duplicates = 0;
let reordered = 0;
let step = "starting";

function finish(line, code) {
  // Synchronous: nothing can report a second time.
  writeSync(1, `${JSON.stringify(line)}\n`);
  process.exit(code);
}

function fail(error) {
  finish({ client: "kafka-javascript", error: `${step}: ${error}` }, 1);
}

// A connection is one Kafka object: each member is a client of its own.
function connection() {
  if (job.security) throw new Error("this driver is for PLAINTEXT only");
  // INFO goes to stdout.
  return new Kafka({ kafkaJS: { brokers: job.bootstrap_servers.split(","), clientId: job.client_id, logLevel: logLevel.NOTHING } });
}

async function listTopics() {
  const admin = connection().admin();
  await admin.connect();
  const topics = await admin.listTopics();
  await admin.disconnect();
  if (!topics.includes(job.topic)) {
    throw new Error(`${job.topic} is not among the ${topics.length} topics`);
  }
  return topics.length;
}

async function join(member) {
  const consumer = connection().consumer({ kafkaJS: { groupId: job.group_id, fromBeginning: true } });
  await consumer.connect();
  await consumer.subscribe({ topic: job.topic });
  await consumer.run({ eachMessage: async (payload) => count(member, payload) });
  return consumer;
}

function count(member, { partition, message }) {
  const offset = BigInt(message.offset);
  if (offset <= (lastOffsets[member].get(partition) ?? -1n)) reordered += 1;
  lastOffsets[member].set(partition, offset);
  const value = message.value.toString();
  // The topic may also hold what other clients produced.
  if (!values.has(value)) return;
  members[member] += 1;
  if (seen.has(value)) duplicates += 1;
  seen.add(value);
}

async function produce() {
  const producer = connection().producer({ kafkaJS: { acks: -1 } });
  await producer.connect();
  await producer.send({ topic: job.topic, messages });
  await producer.disconnect();
  return messages.length;
}

async function until(condition) {
  while (!condition()) await sleep(10);
}

async function roundTrip() {
  const start = performance.now();
  step = "listing topics";
  const topics = await listTopics();

  step = "joining the group";
  const group = await Promise.all([join(0), join(1)]);
  await until(() => group.every((consumer) => consumer.assignment().length > 0));

  step = "producing";
  const produced = await produce();

  step = "consuming";
  await until(() => seen.size === values.size);
  await sleep(300);

  step = "committing and closing";
  await Promise.all(group.map((consumer) => consumer.disconnect()));

  return {
    client: "kafka-javascript",
    version,
    topics,
    produced,
    consumed: seen.size,
    duplicates,
    members,
    reordered,
    seconds: (performance.now() - start) / 1000,
  };
}

const watchdog = setTimeout(() => fail(`not done after ${job.timeout_ms} ms`), job.timeout_ms);
try {
  const outcome = await roundTrip();
  clearTimeout(watchdog);
  finish(outcome, duplicates || reordered ? 1 : 0);
} catch (error) {
  console.error(error);
  fail(error);
}

// What the drivers for Node share: what is produced, the steps, the count of what was consumed, the one line of result. Copied beside each of them.
// One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.

import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const job = JSON.parse(process.argv[2]);

const messages = Array.from({ length: job.count }, (_, i) => ({ key: `k-${i}`, value: `${job.client_id}-${i}` }));
const values = new Set(messages.map(({ value }) => value));
const seen = new Set();
const members = [0, 0];
const lastOffsets = [new Map(), new Map()];
let duplicates = 0;
let reordered = 0;
let client;
let step = "starting";

function finish(line, code) {
  // Synchronous: nothing can report a second time.
  writeSync(1, `${JSON.stringify(line)}\n`);
  process.exit(code);
}

export function fail(error) {
  finish({ client, error: `${step}: ${error}` }, 1);
}

async function listTopics(kafka) {
  const admin = kafka.admin();
  await admin.connect();
  const topics = await admin.listTopics();
  await admin.disconnect();
  if (!topics.includes(job.topic)) {
    throw new Error(`${job.topic} is not among the ${topics.length} topics`);
  }
  return topics.length;
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

async function until(condition) {
  while (!condition()) await sleep(10);
}

async function roundTrip({ version, connection, join, produce }) {
  const start = performance.now();
  step = "listing topics";
  const topics = await listTopics(connection());

  step = "joining the group";
  const group = await Promise.all([0, 1].map((member) => join((payload) => count(member, payload))));
  await until(() => group.every(({ isAssigned }) => isAssigned()));

  step = "producing";
  await produce(messages);

  step = "consuming";
  await until(() => seen.size === values.size);
  await sleep(300);

  // What each batch resolved is committed by itself; disconnect waits for that.
  step = "committing and closing";
  await Promise.all(group.map(({ consumer }) => consumer.disconnect()));

  return {
    client,
    version,
    topics,
    produced: messages.length,
    consumed: seen.size,
    duplicates,
    members,
    reordered,
    seconds: (performance.now() - start) / 1000,
  };
}

// Makes the round trip and ends the process. What differs between the libraries: `client`, its name; `version`; `connection()`, a Kafka object, one for each
// member and producer; `join(receive)`, a consumer of the group that gives each payload to `receive`, and whether it has partitions; `produce(messages)`.
export async function run(library) {
  client = library.client;
  const watchdog = setTimeout(() => fail(`not done after ${job.timeout_ms} ms`), job.timeout_ms);
  try {
    const outcome = await roundTrip(library);
    clearTimeout(watchdog);
    finish(outcome, duplicates || reordered ? 1 : 0);
  } catch (error) {
    console.error(error);
    fail(error);
  }
}

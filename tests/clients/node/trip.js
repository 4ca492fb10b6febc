// What the drivers for Node share: what is produced, the steps, the count of what was consumed, the one line of result. Copied beside each of them.
// One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.

import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const job = JSON.parse(process.argv[2]);

// The records go to them in turn.
export const topics = job.second_topic ? [job.topic, job.second_topic] : [job.topic];

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

async function createAndDelete(admin) {
  const isThere = async () => (await admin.listTopics()).includes(job.creates);
  step = `creating ${job.creates}`;
  await admin.createTopics({ topics: [{ topic: job.creates, numPartitions: 3 }] });
  while (!(await isThere())) await sleep(50);
  step = `deleting ${job.creates}`;
  await admin.deleteTopics({ topics: [job.creates] });
  while (await isThere()) await sleep(50);
}

async function administer(kafka) {
  const admin = kafka.admin();
  await admin.connect();
  step = "listing topics";
  const all = await admin.listTopics();
  if (!all.includes(job.topic)) {
    throw new Error(`${job.topic} is not among the ${all.length} topics`);
  }
  if (job.creates) await createAndDelete(admin);
  await admin.disconnect();
  return all.length;
}

function count(member, { topic, partition, message }) {
  const offset = BigInt(message.offset);
  const log = `${topic}-${partition}`;
  if (offset <= (lastOffsets[member].get(log) ?? -1n)) reordered += 1;
  lastOffsets[member].set(log, offset);
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
  const listed = await administer(connection());

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
    topics: listed,
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

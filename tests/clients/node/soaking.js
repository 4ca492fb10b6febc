// What the soaks for Node share: the numbers at a steady rate, the count of what was acknowledged and consumed, the report. Copied beside each of them.
// One JSON object in (the argument), lines of JSON out (stdout); see tests/clients/README.md.

import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const REPORT_MS = 100;

export const job = JSON.parse(process.argv[2]);

const topics = [job.topic, job.second_topic].filter(Boolean);
const places = topics.flatMap((topic) => Array.from({ length: job.partitions }, (_, partition) => ({ topic, partition })));
const zeros = () => places.map(() => 0);
const sent = zeros();
const progress = { acked: zeros(), consumed: zeros(), again: 0, skipped: 0 };
let acks = [];
let settled = 0;
let stopped = false;

// A setting of the job by the name that the library has for it; what is left open is the library's own.
export const setting = (name, value) => (value === undefined ? {} : { [name]: value });

function print(line) {
  writeSync(1, `${JSON.stringify(line)}\n`);
}

// What an application can't go on with.
export const error = (step, told) => print({ error: `${step}: ${told}` });

// What the library tells of its troubles while it goes on.
export const notice = (step, told) => print({ notice: `${step}: ${told}` });

function fail(step, told) {
  error(step, told);
  process.exit(1);
}

// A number is the next of its partition, one that was read before, or one too far.
export function count({ partition, message }) {
  const number = Number(message.value.toString());
  const next = progress.consumed[partition];
  if (number < next) {
    progress.again += 1;
    return;
  }
  if (number > next) progress.skipped += 1;
  progress.consumed[partition] = number + 1;
}

// One send after the other, each with all that is due by then, of both topics: kafkajs puts each send into a request of its own, and does not keep several in order.
async function produce(producer) {
  const start = performance.now();
  for (let all = 0; !stopped; await sleep(1)) {
    const messages = [];
    for (; all < ((performance.now() - start) / 1000) * job.records_per_second; all += 1) {
      const place = all % places.length;
      messages.push({ place, number: sent[place] });
      sent[place] += 1;
    }
    if (messages.length === 0) continue;
    const began = Date.now();
    try {
      await producer.sendBatch(batch(messages));
      for (const { place, number } of messages) {
        progress.acked[place] += 1;
        if (!job.group_id) acks.push([place, number, began, Date.now()]);
      }
    } catch (failed) {
      error("producing", failed);
    }
    settled += messages.length;
  }
}

// All topics in one.
function batch(messages) {
  const of = (topic) => messages.filter(({ place }) => places[place].topic === topic);
  const record = ({ place, number }) => ({ partition: places[place].partition, value: `${number}` });
  return { topicMessages: topics.map((topic) => ({ topic, messages: of(topic).map(record) })).filter(({ messages }) => messages.length > 0) };
}

function report() {
  print({ progress });
  if (acks.length > 0) print({ acks });
  acks = [];
}

const isRead = () => !job.group_id || sent.every((all, place) => progress.consumed[place] === all);
const isDone = () => settled === sent.reduce((all, more) => all + more) && isRead();

// Runs the soak and ends the process. What differs between the libraries: `producer()`, and `consumer()`, a member of the group that counts what it gets.
export async function run({ producer, consumer }) {
  process.stdin.on("data", () => {}).on("close", () => (stopped = true));
  setInterval(report, REPORT_MS);
  try {
    const group = await Promise.all(job.group_id ? [consumer(), consumer()] : []);
    await produce(await producer());
    setTimeout(() => fail("ending", `not done ${job.timeout_ms} ms after the last of ${sent} was sent`), job.timeout_ms);
    while (!isDone()) await sleep(REPORT_MS);
    // What each batch resolved is committed by itself; disconnect waits for that.
    await Promise.all(group.map((member) => member.disconnect()));
    report();
    process.exit(0);
  } catch (failed) {
    console.error(failed);
    fail("running", failed);
  }
}

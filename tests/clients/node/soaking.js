// What the soaks for Node share: the numbers at a steady rate, the count of what was acknowledged and consumed, the report. Copied beside each of them.
// One JSON object in (the argument), lines of JSON out (stdout); see tests/clients/README.md.

import { writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const REPORT_MS = 100;

export const job = JSON.parse(process.argv[2]);

const zeros = () => Array.from({ length: job.partitions }, () => 0);
const sent = zeros();
const progress = { acked: zeros(), consumed: zeros(), again: 0, skipped: 0 };
let stopped = false;

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

// One send after the other, each with all that is due by then: kafkajs puts each send into a request of its own, and does not keep several in order.
async function produce(producer) {
  const start = performance.now();
  for (let all = 0; !stopped; await sleep(1)) {
    const messages = [];
    for (; all < ((performance.now() - start) / 1000) * job.records_per_second; all += 1) {
      const partition = all % job.partitions;
      messages.push({ partition, value: `${sent[partition]}` });
      sent[partition] += 1;
    }
    if (messages.length === 0) continue;
    try {
      await producer.send({ topic: job.topic, messages });
      for (const { partition } of messages) progress.acked[partition] += 1;
    } catch (failed) {
      error("producing", failed);
    }
  }
}

const isDone = () => sent.every((all, partition) => progress.acked[partition] === all && progress.consumed[partition] === all);

// Runs the soak and ends the process. What differs between the libraries: `producer()`, and `consumer()`, a member of the group that counts what it gets.
export async function run({ producer, consumer }) {
  process.stdin.on("data", () => {}).on("close", () => (stopped = true));
  setInterval(() => print({ progress }), REPORT_MS);
  try {
    const group = await Promise.all([consumer(), consumer()]);
    await produce(await producer());
    setTimeout(() => fail("ending", `not done ${job.timeout_ms} ms after the last of ${sent} was sent`), job.timeout_ms);
    while (!isDone()) await sleep(REPORT_MS);
    // What each batch resolved is committed by itself; disconnect waits for that.
    await Promise.all(group.map((member) => member.disconnect()));
    print({ progress });
    process.exit(0);
  } catch (failed) {
    console.error(failed);
    fail("running", failed);
  }
}

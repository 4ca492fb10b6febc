// A round trip of @platformatic/kafka: lists the topics, produces, consumes in a group of two. PLAINTEXT only.

import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { Admin, Consumer, MessagesStreamFallbackModes, MessagesStreamModes, ProduceAcks, Producer, stringDeserializers, stringSerializers } from "@platformatic/kafka";
import { fail, job, run, topics } from "./trip.js";

const { version } = JSON.parse(readFileSync(new URL("node_modules/@platformatic/kafka/package.json", import.meta.url)));

function settings() {
  if (job.security) throw new Error("this driver is for PLAINTEXT only");
  return { bootstrapBrokers: job.bootstrap_servers.split(","), clientId: job.client_id };
}

// What the driver does with topics, by the names that kafkajs has for it.
function connection() {
  const admin = new Admin(settings());
  return {
    admin: () => ({
      connect: async () => {},
      listTopics: () => admin.listTopics(),
      createTopics: ({ topics }) => admin.createTopics({ topics: topics.map(({ topic, numPartitions }) => ({ topic, partitions: numPartitions })) }),
      deleteTopics: (which) => admin.deleteTopics(which),
      disconnect: () => admin.close(),
    }),
  };
}

// In ms, instead of 5 s: at its end, and when the group changes, a reader waits for the answer to its Fetch.
const FETCH_WAIT = 500;

// Members that read.
let reading = 0;

async function join(receive) {
  const consumer = new Consumer({ ...settings(), groupId: job.group_id, deserializers: stringDeserializers, maxWaitTime: FETCH_WAIT });
  // A Fetch that was under way when the group changed still brings what the other member reads from then on: the group counts when it is over.
  let joined = Infinity;
  consumer.on("consumer:group:join", ({ assignments }) => {
    joined = assignments.some(({ partitions }) => partitions.length > 0) ? Date.now() : Infinity;
  });
  const { COMMITTED } = MessagesStreamModes;
  const stream = await consumer.consume({ topics, mode: COMMITTED, fallbackMode: MessagesStreamFallbackModes.EARLIEST });
  stream.on("error", fail);
  stream.on("data", ({ topic, partition, offset, value }) => receive({ topic, partition, message: { offset, value } }));
  reading += 1;
  const disconnect = async () => {
    await stream.close();
    reading -= 1;
    // Whoever still reads gets what a member had that leaves, from before its last commit: with any broker.
    while (reading > 0) await sleep(10);
    await consumer.close();
  };
  return { consumer: { disconnect }, isAssigned: () => Date.now() - joined > 2 * FETCH_WAIT };
}

async function produce(messages) {
  const producer = new Producer({ ...settings(), serializers: stringSerializers });
  await producer.send({ acks: ProduceAcks.ALL, messages: messages.map((message, i) => ({ ...message, topic: topics[i % topics.length] })) });
  await producer.close();
}

await run({ client: "platformatic", version, connection, join, produce });

"""A round trip of confluent-kafka (librdkafka): lists the topics, produces, consumes in a group of two.

One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.
"""

import json
import os
import sys
import threading
import time
import traceback

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, __version__, libversion
from confluent_kafka.admin import AdminClient

CLIENT = "confluent-kafka-python"

PROPERTIES = {
    "protocol": "security.protocol",
    "mechanism": "sasl.mechanism",
    "username": "sasl.username",
    "password": "sasl.password",
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "key": "ssl.key.location",
}


class RoundTrip:
    def __init__(self, job):
        self.job = job
        self.topic = job["topic"]
        # Value by key, in the order of producing.
        self.records = {f"k-{i}": f"{job['client_id']}-{i}" for i in range(job["count"])}
        self.values = set(self.records.values())
        self.seen = set()
        self.produced = 0
        self.duplicates = 0
        self.reordered = 0
        self.members = [0, 0]
        self.last_offsets = {}
        self.step = "starting"

    def run(self):
        start = time.monotonic()
        self.step = "listing topics"
        topics = AdminClient(self.connection()).list_topics().topics
        if self.topic not in topics:
            raise LookupError(f"{self.topic} is not among the {len(topics)} topics")

        self.step = "joining the group"
        config = self.connection() | {"group.id": self.job["group_id"], "auto.offset.reset": "earliest"}
        group = [Consumer(config), Consumer(config)]
        for member in group:
            member.subscribe([self.topic])
        while not all(member.assignment() for member in group):
            self.poll(group)

        self.step = "producing"
        self.produce()

        self.step = "consuming"
        while self.seen != self.values:
            self.poll(group)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            self.poll(group)

        self.step = "committing and closing"
        for member in group:
            commit(member)
        for member in group:
            member.close()
        return {
            "client": CLIENT,
            "version": f"{__version__} (librdkafka {libversion()[0]})",
            "topics": len(topics),
            "produced": self.produced,
            "consumed": len(self.seen),
            "duplicates": self.duplicates,
            "members": self.members,
            "reordered": self.reordered,
            "seconds": time.monotonic() - start,
        }

    def produce(self):
        producer = Producer(self.connection() | {"acks": "all"})
        for key, value in self.records.items():
            producer.produce(self.topic, key=key, value=value, on_delivery=self.delivered)
            producer.poll(0)
        producer.flush()

    def delivered(self, error, _message):
        if error:
            raise KafkaException(error)
        self.produced += 1

    def poll(self, group):
        for member, consumer in enumerate(group):
            for message in consumer.consume(num_messages=500, timeout=0.02):
                if message.error():
                    raise KafkaException(message.error())
                self.count(member, message)

    def count(self, member, message):
        place = member, message.partition()
        if message.offset() <= self.last_offsets.get(place, -1):
            self.reordered += 1
        self.last_offsets[place] = message.offset()
        value = message.value().decode()
        # The topic may also hold what other clients produced.
        if value not in self.values:
            return
        self.members[member] += 1
        if value in self.seen:
            self.duplicates += 1
        self.seen.add(value)

    def connection(self):
        security = self.job.get("security") or {}
        return {
            "bootstrap.servers": self.job["bootstrap_servers"],
            "client.id": self.job["client_id"],
        } | {PROPERTIES[name]: value for name, value in security.items()}


def commit(consumer):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        # The periodic commit came first, nothing is left to do.
        if error.args[0].code() != KafkaError._NO_OFFSET:
            raise


def main():
    job = json.loads(sys.argv[1])
    trip = RoundTrip(job)

    def fail(error):
        print(json.dumps({"client": CLIENT, "error": f"{trip.step}: {error}"}), flush=True)
        # Not sys.exit: that waits for librdkafka's threads, which may hang.
        os._exit(1)

    watchdog = threading.Timer(job["timeout_ms"] / 1000, fail, [f"not done after {job['timeout_ms']} ms"])
    watchdog.daemon = True
    watchdog.start()
    try:
        outcome = trip.run()
    except Exception as error:
        traceback.print_exc()
        fail(error)
    watchdog.cancel()
    print(json.dumps(outcome))
    sys.exit(1 if trip.duplicates or trip.reordered else 0)


if __name__ == "__main__":
    main()

"""kafka-python 2.0.2, which logs in as clients did before KIP-152: SaslHandshake v0, then messages without a header.

One JSON object in (the argument), one JSON line out (stdout), as round_trip.py; it reads without a group.
"""

import json
import sys
import time

import six

# The copy of six that kafka-python brings along cannot be imported from Python 3.12 on.
sys.modules["kafka.vendor.six.moves"] = six.moves

from kafka import KafkaConsumer, KafkaProducer, TopicPartition, __version__  # noqa: E402


def connection(job):
    security = job["security"]
    settings = {
        "bootstrap_servers": job["bootstrap_servers"],
        "client_id": job["client_id"],
        "security_protocol": security["protocol"],
        "sasl_mechanism": security["mechanism"],
        "sasl_plain_username": security["username"],
        "sasl_plain_password": security["password"],
    }
    return settings | ({"ssl_cafile": security["ca"]} if "ca" in security else {})


def run(job):
    start = time.monotonic()
    timeout_ms = job["timeout_ms"]
    values = [f"{job['client_id']}-{i}" for i in range(job["count"])]
    producer = KafkaProducer(acks="all", max_block_ms=timeout_ms, **connection(job))
    produced = [producer.send(job["topic"], value.encode()) for value in values]
    for sent in produced:
        sent.get(timeout=timeout_ms / 1000)
    producer.close()

    consumer = KafkaConsumer(auto_offset_reset="earliest", **connection(job))
    topics = consumer.topics()
    partitions = [TopicPartition(job["topic"], number) for number in consumer.partitions_for_topic(job["topic"])]
    consumer.assign(partitions)
    seen = []
    while len(seen) < len(values) and time.monotonic() - start < timeout_ms / 1000:
        for records in consumer.poll(timeout_ms=500).values():
            seen += [value for value in (record.value.decode() for record in records) if value in values]
    consumer.close()
    return {
        "client": "kafka-python",
        "version": __version__,
        "topics": len(topics),
        "produced": len(produced),
        "consumed": len(set(seen)),
        "duplicates": len(seen) - len(set(seen)),
        "members": [len(seen), 0],
        "reordered": 0,
        "seconds": time.monotonic() - start,
    }


def main():
    try:
        line = run(json.loads(sys.argv[1]))
    except Exception as error:
        line = {"client": "kafka-python", "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(line))


main()

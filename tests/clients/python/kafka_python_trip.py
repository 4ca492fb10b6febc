"""A round trip of kafka-python: lists the topics, produces, consumes in a group of two."""

import logging
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, __version__
from kafka.admin import NewTopic
from trip import Trip

logging.basicConfig(level=logging.INFO)
done = threading.Event()


def round_trip(trip):
    job = trip.job
    connection = trip.plaintext()

    trip.step = "listing topics"
    admin = KafkaAdminClient(**connection)
    trip.listed(list_topics(admin, connection))
    if "creates" in job:
        create_and_delete(trip, admin, connection, job["creates"])
    admin.close()

    trip.step = "joining the group"
    topics = trip.topics_of_records
    group = [KafkaConsumer(*topics, group_id=job["group_id"], auto_offset_reset="earliest", **connection) for _ in range(2)]
    assigned = [False, False]
    # A thread each: a poll of one that waits for the group would keep the other from joining.
    members = [threading.Thread(target=consume, args=(trip, member, group[member], assigned)) for member in range(2)]
    for member in members:
        member.start()
    while not all(assigned):
        time.sleep(0.02)

    trip.step = "producing"
    producer = KafkaProducer(acks="all", **connection)
    records = enumerate(trip.records.items())
    sent = [producer.send(topics[i % len(topics)], key=key.encode(), value=value.encode()) for i, (key, value) in records]
    for one in sent:
        one.get(timeout=job["timeout_ms"] / 1000)
        trip.produced += 1
    producer.close()

    trip.step = "consuming"
    while len(trip.seen) < len(trip.values):
        time.sleep(0.02)
    time.sleep(0.3)

    trip.step = "committing and closing"
    done.set()
    for member in members:
        member.join()


def list_topics(admin, connection):
    if not __version__.startswith("2."):
        return admin.list_topics()
    # The admin client of 2.x asks for the client's rights on each topic, too, and fails where it is not told them: docs/wire-quirks.md.
    consumer = KafkaConsumer(**connection)
    try:
        return consumer.topics()
    finally:
        consumer.close()


def create_and_delete(trip, admin, connection, topic):
    trip.step = f"creating {topic}"
    admin.create_topics([NewTopic(topic, num_partitions=3, replication_factor=-1)])
    while topic not in list_topics(admin, connection):
        time.sleep(0.05)
    trip.step = f"deleting {topic}"
    admin.delete_topics([topic])
    while topic in list_topics(admin, connection):
        time.sleep(0.05)


def consume(trip, member, consumer, assigned):
    try:
        while not done.is_set():
            for messages in consumer.poll(timeout_ms=500).values():
                for message in messages:
                    trip.count(member, (message.topic, message.partition), message.offset, message.value)
            assigned[member] = bool(consumer.assignment())
        consumer.commit()
        consumer.close()
    except Exception as error:
        trip.fail(error)


trip = Trip("kafka-python", __version__)
trip.main(lambda: round_trip(trip))

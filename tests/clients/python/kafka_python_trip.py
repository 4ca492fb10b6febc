"""A round trip of kafka-python: lists the topics, produces, consumes in a group of two."""

import logging
import threading
import time

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, __version__
from trip import Trip

logging.basicConfig(level=logging.INFO)
done = threading.Event()


def round_trip(trip):
    job = trip.job
    connection = trip.plaintext()

    trip.step = "listing topics"
    admin = KafkaAdminClient(**connection)
    trip.listed(admin.list_topics())
    admin.close()

    trip.step = "joining the group"
    group = [KafkaConsumer(trip.topic, group_id=job["group_id"], auto_offset_reset="earliest", **connection) for _ in range(2)]
    assigned = [False, False]
    # A thread each: a poll of one that waits for the group would keep the other from joining.
    members = [threading.Thread(target=consume, args=(trip, member, group[member], assigned)) for member in range(2)]
    for member in members:
        member.start()
    while not all(assigned):
        time.sleep(0.02)

    trip.step = "producing"
    producer = KafkaProducer(acks="all", **connection)
    sent = [producer.send(trip.topic, key=key.encode(), value=value.encode()) for key, value in trip.records.items()]
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


def consume(trip, member, consumer, assigned):
    try:
        while not done.is_set():
            for messages in consumer.poll(timeout_ms=500).values():
                for message in messages:
                    trip.count(member, message.partition, message.offset, message.value)
            assigned[member] = bool(consumer.assignment())
        consumer.commit()
        consumer.close()
    except Exception as error:
        trip.fail(error)


trip = Trip("kafka-python", __version__)
trip.main(lambda: round_trip(trip))

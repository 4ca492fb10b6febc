"""A round trip of confluent-kafka (librdkafka): lists the topics, produces, consumes in a group of two."""

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, __version__, libversion
from confluent_kafka.admin import AdminClient
from trip import Trip

PROPERTIES = {
    "protocol": "security.protocol",
    "mechanism": "sasl.mechanism",
    "username": "sasl.username",
    "password": "sasl.password",
    "ca": "ssl.ca.location",
    "certificate": "ssl.certificate.location",
    "key": "ssl.key.location",
}


def round_trip(trip):
    job = trip.job
    connection = {"bootstrap.servers": job["bootstrap_servers"], "client.id": job["client_id"]}
    connection |= {PROPERTIES[name]: value for name, value in (job.get("security") or {}).items()}

    trip.step = "listing topics"
    trip.listed(AdminClient(connection).list_topics().topics)

    trip.step = "joining the group"
    config = connection | {"group.id": job["group_id"], "auto.offset.reset": "earliest"}
    group = [Consumer(config), Consumer(config)]
    for member in group:
        member.subscribe([trip.topic])
    while not all(member.assignment() for member in group):
        poll(trip, group)

    trip.step = "producing"
    producer = Producer(connection | {"acks": "all"})

    def delivered(error, _message):
        if error:
            raise KafkaException(error)
        trip.produced += 1

    for key, value in trip.records.items():
        producer.produce(trip.topic, key=key, value=value, on_delivery=delivered)
        producer.poll(0)
    producer.flush()

    trip.step = "consuming"
    while trip.seen != trip.values:
        poll(trip, group)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        poll(trip, group)

    trip.step = "committing and closing"
    for member in group:
        commit(member)
    for member in group:
        member.close()


def poll(trip, group):
    for member, consumer in enumerate(group):
        for message in consumer.consume(num_messages=500, timeout=0.02):
            if message.error():
                raise KafkaException(message.error())
            trip.count(member, message.partition(), message.offset(), message.value())


def commit(consumer):
    try:
        consumer.commit(asynchronous=False)
    except KafkaException as error:
        # The periodic commit came first, nothing is left to do.
        if error.args[0].code() != KafkaError._NO_OFFSET:
            raise


trip = Trip("confluent-kafka-python", f"{__version__} (librdkafka {libversion()[0]})")
trip.main(lambda: round_trip(trip))

"""A soak of kafka-python: produces numbers, and consumes them in a group of two."""

import logging

from kafka import KafkaConsumer, KafkaProducer
from soaking import REPORT, Soak

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def start():
    settings = soak.settings({name: name for name in ("retries", "linger_ms", "metadata_max_age_ms")})
    producer = KafkaProducer(acks=soak.acks_setting(), enable_idempotence=soak.job["idempotent"], **settings, **soak.connection())

    def send(place, number):
        topic, partition = soak.places[place]
        sent = producer.send(topic, str(number).encode(), partition=partition)
        sent.add_callback(lambda _: soak.settle(place, number))
        sent.add_errback(lambda error: soak.settle(place, number, error))

    return send, soak.two_consume(consume_as)


def consume_as(all_read):
    job = soak.job
    member = KafkaConsumer(job["topic"], group_id=job["group_id"], auto_offset_reset="earliest", **soak.connection())
    while not all_read.is_set():
        for messages in member.poll(timeout_ms=int(REPORT * 1000)).values():
            for message in messages:
                soak.count(message.partition, message.value)
    # Commits, too.
    member.close()


soak = Soak()
soak.main(start)

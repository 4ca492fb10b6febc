"""A soak of confluent-kafka (librdkafka): produces numbers, and consumes them in a group of two."""

import threading

from confluent_kafka import Consumer, Producer
from soaking import REPORT, Soak


def start():
    job = soak.job
    connection = {"bootstrap.servers": job["bootstrap_servers"], "client.id": job["client_id"]}
    if job.get("security"):
        raise NotImplementedError("this soak is for PLAINTEXT only")
    producer = Producer(connection | {"acks": "all", "enable.idempotence": job["idempotent"]})

    def delivered(error, message):
        if error:
            soak.error("producing", str(error))
        else:
            soak.acknowledged(message.partition())

    def send(partition, value):
        producer.produce(job["topic"], value, partition=partition, on_delivery=delivered)

    def consume_as(all_read):
        member = Consumer(connection | {"group.id": job["group_id"], "auto.offset.reset": "earliest"})
        member.subscribe([job["topic"]])
        while not all_read.is_set():
            for message in member.consume(num_messages=500, timeout=REPORT / 10):
                if message.error():
                    report = soak.error if message.error().fatal() else soak.notice
                    report("consuming", message.error())
                else:
                    soak.count(message.partition(), message.value())
        # Commits, too.
        member.close()

    def poll():
        while True:
            producer.poll(REPORT)

    threading.Thread(target=poll, daemon=True).start()
    return send, soak.two_consume(consume_as)


soak = Soak()
soak.main(start)

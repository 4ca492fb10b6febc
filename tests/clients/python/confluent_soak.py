"""A soak of confluent-kafka (librdkafka): produces numbers, and consumes them in a group of two."""

import threading

from confluent_kafka import Consumer, Producer
from soaking import REPORT, Soak


def start():
    job = soak.job
    connection = {"bootstrap.servers": job["bootstrap_servers"], "client.id": job["client_id"]}
    if job.get("security"):
        raise NotImplementedError("this soak is for PLAINTEXT only")
    names = {
        "acks": "acks",
        "max_in_flight": "max.in.flight",
        "retries": "retries",
        "linger_ms": "linger.ms",
        "metadata_max_age_ms": "topic.metadata.refresh.interval.ms",
    }
    producer = Producer(connection | {"enable.idempotence": job["idempotent"]} | soak.settings(names))

    def send(place, number):
        topic, partition = soak.places[place]
        settle = lambda error, _: soak.settle(place, number, error and str(error))
        producer.produce(topic, str(number).encode(), partition=partition, on_delivery=settle)

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

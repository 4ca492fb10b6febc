"""A producer of confluent-kafka (librdkafka) that goes on until it is killed: a record each 200 ms, value `<client_id>-<i>`.

Arguments: bootstrap servers, client.id, topic, partition. What goes wrong is told on stderr, and it goes on.
"""

import sys
import time

from confluent_kafka import Producer

bootstrap_servers, client_id, topic, partition = sys.argv[1:]
producer = Producer({"bootstrap.servers": bootstrap_servers, "client.id": client_id})


def delivered(error, _message):
    if error:
        print(error, file=sys.stderr, flush=True)


number = 0
while True:
    producer.produce(topic, f"{client_id}-{number}", partition=int(partition), on_delivery=delivered)
    producer.poll(0.2)
    number += 1
    time.sleep(0.2)

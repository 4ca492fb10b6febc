"""A soak of aiokafka: produces numbers, and consumes them in a group of two."""

import asyncio
import logging
import threading

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from soaking import REPORT, Soak

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def start():
    # The library lives in a loop, the loop in a thread.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    records = asyncio.Queue()
    producing = asyncio.run_coroutine_threadsafe(produce(records), loop)
    producing.add_done_callback(lambda ended: soak.fail("producing", ended.exception()))

    def send(place, number):
        loop.call_soon_threadsafe(records.put_nowait, (place, number))

    def consume(all_read):
        members = [asyncio.run_coroutine_threadsafe(consume_as(all_read), loop) for _ in range(2)]
        for member in members:
            member.result()

    return send, consume


async def produce(records):
    settings = soak.settings({name: name for name in ("linger_ms", "metadata_max_age_ms")})
    producer = AIOKafkaProducer(acks=soak.acks_setting(), enable_idempotence=soak.job["idempotent"], **settings, **soak.connection())
    await producer.start()
    while True:
        place, number = await records.get()
        topic, partition = soak.places[place]
        sent = await producer.send(topic, str(number).encode(), partition=partition)
        sent.add_done_callback(lambda sent, place=place, number=number: soak.settle(place, number, sent.exception()))


async def consume_as(all_read):
    job = soak.job
    member = AIOKafkaConsumer(job["topic"], group_id=job["group_id"], auto_offset_reset="earliest", **soak.connection())
    await member.start()
    while not all_read.is_set():
        for messages in (await member.getmany(timeout_ms=int(REPORT * 1000))).values():
            for message in messages:
                soak.count(message.partition, message.value)
    # Commits, too.
    await member.stop()


soak = Soak()
soak.main(start)

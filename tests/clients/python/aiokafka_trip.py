"""A round trip of aiokafka: lists the topics, produces, consumes in a group of two."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, __version__
from aiokafka.admin import AIOKafkaAdminClient
from trip import Trip


async def round_trip(trip):
    job = trip.job
    connection = trip.plaintext()

    trip.step = "listing topics"
    admin = AIOKafkaAdminClient(**connection)
    await admin.start()
    trip.listed(await admin.list_topics())
    await admin.close()

    trip.step = "joining the group"
    group = [AIOKafkaConsumer(trip.topic, group_id=job["group_id"], auto_offset_reset="earliest", **connection) for _ in range(2)]
    for member in group:
        await member.start()
    while not all(member.assignment() for member in group):
        await poll(trip, group)

    trip.step = "producing"
    producer = AIOKafkaProducer(acks="all", **connection)
    await producer.start()
    sent = [await producer.send(trip.topic, key=key.encode(), value=value.encode()) for key, value in trip.records.items()]
    trip.produced = len(await asyncio.gather(*sent))
    await producer.stop()

    trip.step = "consuming"
    while trip.seen != trip.values:
        await poll(trip, group)
    end = asyncio.get_running_loop().time() + 0.3
    while asyncio.get_running_loop().time() < end:
        await poll(trip, group)

    trip.step = "committing and closing"
    for member in group:
        await member.commit()
    for member in group:
        await member.stop()


async def poll(trip, group):
    for member, consumer in enumerate(group):
        for messages in (await consumer.getmany(timeout_ms=20)).values():
            for message in messages:
                trip.count(member, message.partition, message.offset, message.value)


trip = Trip("aiokafka", __version__)
trip.main(lambda: asyncio.run(round_trip(trip)))

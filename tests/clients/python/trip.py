"""What the drivers for Python share: what is produced, the count of what was consumed, the one line of result.

One JSON object in (the argument), one JSON line out (stdout); see tests/clients/README.md.
"""

import json
import os
import sys
import threading
import time
import traceback


class Trip:
    def __init__(self, client, version):
        self.client = client
        self.version = version
        self.job = json.loads(sys.argv[1])
        self.topic = self.job["topic"]
        # The records go to them in turn.
        self.topics_of_records = [self.topic, self.job["second_topic"]] if "second_topic" in self.job else [self.topic]
        # Value by key, in the order of producing.
        self.records = {f"k-{i}": f"{self.job['client_id']}-{i}" for i in range(self.job["count"])}
        self.values = set(self.records.values())
        self.seen = set()
        self.topics = 0
        self.produced = 0
        self.duplicates = 0
        self.reordered = 0
        self.members = [0, 0]
        self.last_offsets = {}
        self.step = "starting"
        self.lock = threading.Lock()
        self.start = time.monotonic()

    def plaintext(self):
        """The settings of aiokafka and kafka-python, whose drivers are for PLAINTEXT only."""
        if self.job.get("security"):
            raise NotImplementedError("this driver is for PLAINTEXT only")
        settings = {"bootstrap_servers": self.job["bootstrap_servers"], "client_id": self.job["client_id"]}
        if "api_version" in self.job:
            settings["api_version"] = tuple(self.job["api_version"])
        return settings

    def listed(self, topics):
        self.topics = len(topics)
        if self.topic not in topics:
            raise LookupError(f"{self.topic} is not among the {len(topics)} topics")

    def count(self, member, partition, offset, value):
        """`partition` is whatever tells one log from another."""
        with self.lock:
            place = member, partition
            if offset <= self.last_offsets.get(place, -1):
                self.reordered += 1
            self.last_offsets[place] = offset
            value = value.decode()
            # The topic may also hold what other clients produced.
            if value not in self.values:
                return
            self.members[member] += 1
            if value in self.seen:
                self.duplicates += 1
            self.seen.add(value)

    def fail(self, error):
        # Some exceptions have no text but their name.
        told = error if isinstance(error, str) else repr(error)
        print(json.dumps({"client": self.client, "error": f"{self.step}: {told}"}), flush=True)
        # Not sys.exit: that waits for threads, librdkafka's too, which may hang.
        os._exit(1)

    def main(self, run):
        limit = self.job["timeout_ms"]
        watchdog = threading.Timer(limit / 1000, self.fail, [f"not done after {limit} ms"])
        watchdog.daemon = True
        watchdog.start()
        try:
            run()
        except Exception as error:
            traceback.print_exc()
            self.fail(error)
        watchdog.cancel()
        outcome = {
            "client": self.client,
            "version": self.version,
            "topics": self.topics,
            "produced": self.produced,
            "consumed": len(self.seen),
            "duplicates": self.duplicates,
            "members": self.members,
            "reordered": self.reordered,
            "seconds": time.monotonic() - self.start,
        }
        print(json.dumps(outcome), flush=True)
        os._exit(1 if self.duplicates or self.reordered else 0)

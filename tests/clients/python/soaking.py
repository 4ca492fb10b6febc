"""What the soaks for Python share: the numbers at a steady rate, the count of what was acknowledged and consumed, the report.

One JSON object in (the argument), lines of JSON out (stdout); see tests/clients/README.md.
"""

import json
import os
import sys
import threading
import time
import traceback

REPORT = 0.1


def milliseconds():
    return int(time.time() * 1000)


class Soak:
    def __init__(self):
        self.job = json.loads(sys.argv[1])
        topics = [topic for topic in (self.job["topic"], self.job.get("second_topic")) if topic]
        self.places = [(topic, partition) for topic in topics for partition in range(self.job["partitions"])]
        self.sent = [[] for _ in self.places]  # when, by number
        self.acked = [0] * len(self.places)
        self.acks = []
        self.settled = 0
        self.consumed = [0] * len(self.places)
        self.again = 0
        self.skipped = 0
        self.lock = threading.Lock()

    def settings(self, names):
        """What the job says of a library's settings, by the names that the library has for them; what it leaves open is the library's own."""
        return {name: self.job[key] for key, name in names.items() if self.job.get(key) is not None}

    def acks_setting(self):
        return "all" if self.job["acks"] == "all" else int(self.job["acks"])

    def connection(self):
        """The settings of aiokafka and kafka-python."""
        if self.job.get("security"):
            raise NotImplementedError("this driver is for PLAINTEXT only")
        return {"bootstrap_servers": self.job["bootstrap_servers"], "client_id": self.job["client_id"]}

    def settle(self, place, number, error=None):
        """A record is acknowledged, or given up."""
        with self.lock:
            self.settled += 1
            if not error:
                self.acked[place] += 1
                if not self.job.get("group_id"):
                    self.acks.append([place, number, self.sent[place][number], milliseconds()])
        if error:
            self.error("producing", error)

    def count(self, partition, value):
        """A number is the next of its partition, one that was read before, or one too far."""
        number = int(value)
        with self.lock:
            if number < self.consumed[partition]:
                self.again += 1
                return
            self.skipped += number > self.consumed[partition]
            self.consumed[partition] = number + 1

    def error(self, step, error):
        """What an application can't go on with."""
        # Some exceptions have no text but their name.
        self.print({"error": f"{step}: {error if isinstance(error, str) else repr(error)}"})

    def notice(self, step, error):
        """What the library tells of its troubles while it goes on."""
        self.print({"notice": f"{step}: {error!r}"})

    def print(self, line):
        with self.lock:
            print(json.dumps(line), flush=True)

    def report(self):
        self.print({"progress": {"acked": self.acked, "consumed": self.consumed, "again": self.again, "skipped": self.skipped}})
        with self.lock:
            acks, self.acks = self.acks, []
        if acks:
            self.print({"acks": acks})

    def fail(self, step, error):
        self.error(step, error)
        # Not sys.exit: that waits for threads, which may hang.
        os._exit(1)

    def main(self, start):
        """`start` returns what sends a number to a place, and what consumes until its argument, an event, is set; that runs in a thread of its own, if there is
        a group."""
        try:
            send, consume = start()
        except Exception as error:
            traceback.print_exc()
            self.fail("starting", error)
        all_read = threading.Event()
        group = [threading.Thread(target=self.guard, args=("consuming", consume, all_read))] if self.job.get("group_id") else []
        for consuming in group:
            consuming.start()
        stopped = threading.Event()
        threading.Thread(target=lambda: (sys.stdin.read(), stopped.set()), daemon=True).start()
        threading.Thread(target=self.reports, daemon=True).start()
        self.sends(send, stopped)
        limit, sent = self.job["timeout_ms"], [len(sent) for sent in self.sent]
        watchdog = threading.Timer(limit / 1000, self.fail, ["ending", f"not done {limit} ms after the last of {sent} was sent"])
        watchdog.start()
        while not (self.settled == sum(sent) and (not group or self.consumed == sent)):
            time.sleep(REPORT)
        all_read.set()
        for consuming in group:
            consuming.join()
        self.report()
        os._exit(0)

    def reports(self):
        while True:
            self.report()
            time.sleep(REPORT)

    def sends(self, send, stopped):
        start, total = time.monotonic(), 0
        while not stopped.wait(0.002):
            while total < (time.monotonic() - start) * self.job["records_per_second"]:
                place = total % len(self.places)
                number = len(self.sent[place])
                self.sent[place].append(milliseconds())
                send(place, number)
                total += 1

    def two_consume(self, consume_as):
        """What consumes with two members, each in a thread of its own that runs `consume_as`."""

        def consume(all_read):
            members = [threading.Thread(target=self.guard, args=("consuming", consume_as, all_read)) for _ in range(2)]
            for member in members:
                member.start()
            for member in members:
                member.join()

        return consume

    def guard(self, step, run, *arguments):
        try:
            run(*arguments)
        except Exception as error:
            traceback.print_exc()
            self.fail(step, error)

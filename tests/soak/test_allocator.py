#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=86400
"""The allocator for as long as there is time: random programs with new seeds, and work that repeats.

Every job runs at least once, however short the time is, then round and round, two at a time.  What
goes wrong is kept with its seed, and tells how to run it again.
"""
import itertools
import os
import random
import re
import signal
import sys
import threading
import time
from collections import Counter

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import drift
import jobs
import soak_support
import tap

AT_ONCE = min(2, os.cpu_count() or 1)
SHOW_EVERY = 20.0


class Soak:
    """The jobs, taken in turns by workers until the time is over."""

    def __init__(self, work, clock):
        self.work, self.clock = work, clock
        self.seeds = random.Random(soak_support.SEED)
        self.lock = threading.Lock()
        self.turns = itertools.count()
        self.runs, self.busy = Counter(), {}
        self.wrong = {}

    def next(self):
        """The next job and its seed; None when each has run and the time is over."""
        with self.lock:
            turn = next(self.turns)
            over = not self.clock.left() or len(self.wrong) == len(self.work)
            if turn >= len(self.work) and over:
                return None
            return self.work[turn % len(self.work)], self.seeds.getrandbits(48)

    def worker(self, number):
        """Runs jobs; one that went wrong runs no more."""
        while (taken := self.next()) is not None:
            job, seed = taken
            if job.name in self.wrong:
                continue
            self.busy[number] = job.name
            try:
                job.once(seed)
            except jobs.Wrong as wrong:
                self.fail(job, seed, str(wrong))
            except Exception as error:  # pylint: disable=broad-except
                self.fail(job, seed, f"{type(error).__name__}: {error}")
            with self.lock:
                self.runs[job.name] += 1
        self.busy.pop(number, None)

    def fail(self, job, seed, output):
        """Keeps the output and the seed."""
        name = re.sub(r"\W+", "-", f"{job.name}-{seed:#x}") + ".log"
        path = soak_support.keep(name, f"seed {seed:#x}\n{output}\n")
        with self.lock:
            self.wrong[job.name] = f"seed {seed:#x}; all of it: {path}\n{output[-3000:]}"
        soak_support.progress(f"FAILED: {job.name}, seed {seed:#x}, see {path}")

    def run(self):
        """All workers, with a line now and then."""
        workers = [threading.Thread(target=self.worker, args=(n,)) for n in range(AT_ONCE)]
        for worker in workers:
            worker.start()
        shown = time.monotonic()
        while any(worker.is_alive() for worker in workers):
            time.sleep(0.2)
            if time.monotonic() - shown >= SHOW_EVERY:
                shown = time.monotonic()
                soak_support.progress(
                    f"{sum(self.runs.values())} runs, {len(self.wrong)} failed, "
                    f"{self.clock.left() / 60:.1f} minutes left; now "
                    + " and ".join(list(self.busy.values())))


def check_planted():
    """Failures are seen where they are planted."""
    tap.check("a heap that grows would be seen", not drift.judge(
        [50000 + 100 * n for n in range(200)])[0])
    tap.check("one that only breathes is not", drift.judge(
        [1000 * n for n in range(30)] + [40000 + n % 7 * 300 for n in range(170)])[0])
    for what, command in (("a program that fails", ["false"]), ("a crash", ["sh", "-c", "kill -6 $$"])):
        try:
            jobs.run(command)
            tap.check(f"{what} would be seen", False)
        except jobs.Wrong:
            tap.check(f"{what} would be seen", True)


def interrupted(*_):
    """The runner is told to end; jobs are in groups of their own."""
    jobs.stop()
    os._exit(143)


def main():
    print(f"# seed {soak_support.SEED:#x}: run again with SOAK_SEED={soak_support.SEED:#x}")
    check_planted()
    work = jobs.all_jobs(20 if soak_support.SECONDS < 600 else 60)
    soak = Soak(work, soak_support.Clock())
    signal.signal(signal.SIGTERM, interrupted)
    try:
        soak.run()
    finally:
        jobs.stop()
    for job in work:
        tap.check(job.name, job.name not in soak.wrong and soak.runs[job.name] > 0,
                  soak.wrong.get(job.name, "it never ran"))
    soak_support.figure("runs", sum(soak.runs.values()))
    for job in work:
        soak_support.figure(f"runs of {job.name}", soak.runs[job.name])
    tap.done()


main()

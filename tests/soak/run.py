#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The long suite: terminal views, plots in a browser, and the allocator for as long as there is time.

usage: run.py [--minutes N] [--only NAME] [--seed N] [--write-results]

The programs of this folder print TAP, as all tests do; what they say is counted as tests/run.py does,
and lines that begin with "# progress:" are shown as they come.  The views and the browser take some
four minutes together, the allocator what is left of the time, and at least one round of its jobs, some six
minutes, however short that is.  Logs are in build/soak/, with what each failure needs to be seen again: its seed and its output
in build/soak/kept/.  The last line is "N passed, N failed, N not possible here".
"""
import argparse
import glob
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import results
import run as runner  # tests/run.py
import tap

LOGS = os.path.join(tap.BUILD, "soak")
SHOWN = re.compile(r"# progress: (.*)")
PROGRAMS = ("test_terminal.py", "test_browser.py", "test_allocator.py")


class Run:
    """One program, its output shown and kept."""

    def __init__(self, path, seconds, seed, began):
        self.test = runner.make_test("soak", path)
        self.outcome = runner.Outcome(self.test)
        self.seconds, self.seed, self.began = seconds, seed, began
        self.figures = {}
        self.process = None

    def say(self, text):
        """A line with the time since the beginning."""
        print(f"[{int(time.monotonic() - self.began):5} s] {self.test.label}: {text}", flush=True)

    def go(self):
        """Runs it; the outcome."""
        log = os.path.join(LOGS, self.test.label.replace("/", ".") + ".out")
        self.outcome.logs = [log]
        environment = dict(os.environ, SOAK_SECONDS=str(self.seconds), SOAK_SEED=hex(self.seed),
                           QUARRY_ROOT=tap.ROOT, QUARRY_BUILD=tap.BUILD, LC_ALL="C.UTF-8",
                           PYTHONDONTWRITEBYTECODE="1", PYTHONUNBUFFERED="1")
        start = time.monotonic()
        self.process = subprocess.Popen([self.test.path], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="replace", env=environment, cwd=tap.ROOT,
                                        start_new_session=True)
        watch = threading.Timer(self.test.timeout, self.kill)
        watch.daemon = True  # an interrupted run does not wait for it
        watch.start()
        text = self.follow(log)
        status = self.process.wait()
        watch.cancel()
        self.kill()  # whatever it has left running
        self.outcome.seconds = time.monotonic() - start
        self.judge(text, status)
        return self.outcome

    def follow(self, log):
        """Its output, while it comes."""
        text = []
        with open(log, "w", encoding="utf-8") as file:
            for line in self.process.stdout:
                text.append(line)
                file.write(line)
                file.flush()
                shown = SHOWN.match(line)
                if shown:
                    self.say(shown[1])
                elif line.startswith("not ok"):
                    self.say(line.rstrip())
        return "".join(text)

    def kill(self):
        """Ends its process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def interrupt(self):
        """Lets it end what it has started, then ends it."""
        try:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def judge(self, text, status):
        """Counts as tests/run.py does; figures are kept for the table."""
        self.figures = dict(re.findall(r"^# figure: (.*): (.*)$", text, re.MULTILINE))
        runner.parse_tap(text, self.outcome)
        if status < 0:
            self.outcome.fail(f"died of signal {-status} ({signal.strsignal(-status)})")
        elif status and not self.outcome.failed:
            self.outcome.fail(f"exit status {status} although no test failed")
        runner.compare_skips(self.outcome,
                             runner.read_expected(os.path.join(tap.ROOT, "tests", "not-possible.txt")))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, usage="run.py [options]",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=45, metavar="N",
                        help="how long, about (%(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="NAME",
                        help="terminal, browser or allocator; may be repeated")
    parser.add_argument("--seed", type=lambda text: int(text, 0), metavar="N",
                        help="of the random seeds (default: a new one, which is printed)")
    parser.add_argument("--write-results", action="store_true",
                        help="put the outcome into docs/TESTING.md")
    options = parser.parse_args()
    if options.minutes <= 0:
        parser.error("--minutes has to be above 0")
    wrong = [name for name in options.only if f"test_{name}.py" not in PROGRAMS]
    if wrong:
        parser.error(f"--only {wrong[0]}: it is terminal, browser or allocator")
    if options.write_results and options.only:
        parser.error("--write-results is for whole runs, without --only")
    return options


def interrupt(*_):
    """A signal that ends the runner ends what it started, too."""
    raise KeyboardInterrupt


def main():
    options = parse_arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    seed = options.seed or random.SystemRandom().getrandbits(48)
    began, runs = time.monotonic(), []
    os.makedirs(LOGS, exist_ok=True)
    print(f"about {options.minutes:g} minutes; seed {seed:#x}", flush=True)
    for name in PROGRAMS:
        if options.only and name.removeprefix("test_").removesuffix(".py") not in options.only:
            continue
        left = max(options.minutes * 60 - (time.monotonic() - began), 1)
        current = Run(os.path.join(HERE, name), left, seed, began)
        runs.append(current)
        current.say("begins")
        try:
            outcome = current.go()
        except KeyboardInterrupt:
            current.interrupt()
            sys.exit(f"run.py: interrupted; logs are in {os.path.relpath(LOGS, tap.ROOT)}")
        current.say(f"{len(outcome.passed)} passed, {len(outcome.failed)} failed in "
                    f"{outcome.seconds:.0f} s")
    for current in runs:
        if current.outcome.failed:
            runner.print_failure(current.outcome)
    kept = glob.glob(os.path.join(LOGS, "kept", "*"))
    if any(current.outcome.failed for current in runs) and kept:
        print("kept: " + ", ".join(os.path.relpath(path, tap.ROOT) for path in sorted(kept)))
    if options.write_results:
        results.write(runs, time.monotonic() - began, seed)
    passed, failed, skipped = (sum(len(getattr(current.outcome, what)) for current in runs)
                               for what in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} not possible here")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: MIT
"""quarry record: the memory of a process over time, into a file."""
import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any, TextIO

from . import procfs, recording, run, show
from .errors import ToolError, UsageError
from .heap import Heap, Totals

_EVENT_BYTES = 64 << 10  # less given back is added to what comes next
_GIVEN_BACK = {"purged_ever": "given back by madvise", "trimmed_ever": "given back by brk"}
_PROGRESS_S = 0.25


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "record",
        help="record the memory of a process over time",
        description="Samples a process, or a command run on Quarry, until it ends, Ctrl-C, or "
        "--duration: virtual and resident size, page faults, and the heap's live, free, cached and dirty "
        "bytes. 'quarry plot' draws the file, 'quarry diff' compares two. The exit status is the "
        "command's.",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the recording to write"
    )
    parser.add_argument(
        "-i",
        "--interval",
        type=float,
        default=0.05,
        metavar="SECONDS",
        help="between samples (default 0.05)",
    )
    parser.add_argument("-t", "--duration", type=float, metavar="SECONDS", help="end after so long")
    parser.add_argument(
        "--json", action="store_true", help="a summary as JSON on stderr at the end"
    )
    run.add_options(parser)
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="PID | -- COMMAND",
        help="a process, or a program to run on Quarry",
    )
    parser.set_defaults(run=main)


class Sampler:
    """Samples of one process."""

    def __init__(self, pid: int, from_start: bool) -> None:
        """from_start: what it gave back before the first sample counts, too."""
        self.process = pid
        self.pid = pid  # of the thread through which it is looked at
        self.started = time.monotonic()
        self.heap: Heap | None = None
        self.tries = 0
        self.seen: dict[str, int] = dict.fromkeys(_GIVEN_BACK, 0) if from_start else {}
        self.untold: Counter[str] = Counter()
        self.now = 0.0

    def sample(self) -> list[dict[str, Any]]:
        """The entries for now: a sample, events before it; a ToolError where the process is gone."""
        status, faults = self._alive()
        entry: dict[str, Any] = {
            "t": round(time.monotonic() - self.started, 4),
            "vss": status["VmSize"],
            "rss": status["VmRSS"],
            "anon": status.get("RssAnon", 0),
            "file": status.get("RssFile", 0),
            "shmem": status.get("RssShmem", 0),
            "swap": status.get("VmSwap", 0),
            "minor": faults.minor,
            "major": faults.major,
        }
        events: list[dict[str, Any]] = []
        self.now = entry["t"]
        totals = self._totals()
        if totals:
            entry |= {key: getattr(totals, key) for key in recording.HEAP_FIELDS}
            self._count(totals)
            events = self.events(_EVENT_BYTES)
        return [*events, entry]

    def _alive(self) -> tuple[dict[str, int], procfs.Faults]:
        """Sizes and counters, by another thread where the first one has ended before the others."""
        for pid in (self.pid, *procfs.threads(self.process)):
            try:
                status, faults = procfs.status(pid), procfs.faults(pid)
            except ToolError:
                continue
            if "VmSize" in status and faults.state != "Z":
                if pid != self.pid:
                    self.pid, self.heap, self.tries = pid, None, 0
                return status, faults
        raise ToolError(f"process {self.process}: there is none; it may have ended")

    def _totals(self) -> Totals | None:
        """The heap's totals; looked for anew while the program starts or turns into another one."""
        try:
            if self.heap is None and self.tries < 100:
                self.tries += 1
                self.heap = Heap(self.pid)
            return self.heap.totals() if self.heap else None
        except ToolError:
            self.heap = None
            return None

    def _count(self, totals: Totals) -> None:
        """Add what was given back since the last sample; smaller counters are another program's."""
        for key in _GIVEN_BACK:
            ever = getattr(totals, key)
            before = self.seen.get(key, ever)
            self.untold[key] += ever - before if ever >= before else ever
            self.seen[key] = ever

    def events(self, least: int) -> list[dict[str, Any]]:
        """What was given back and not told yet, where it is so many bytes."""
        told = [key for key, count in self.untold.items() if count >= least]
        return [
            {"t": self.now, "event": _GIVEN_BACK[key], "bytes": self.untold.pop(key)}
            for key in told
        ]


def main(arguments: argparse.Namespace) -> int:
    """The verb."""
    if arguments.interval <= 0:
        raise UsageError("record: the interval has to be above 0")
    words = arguments.command
    child = None
    if len(words) == 1 and words[0].isdigit():
        pid = int(words[0])
        name = procfs.command(pid)
    else:
        words = run.command_of(arguments)
        name = os.path.basename(words[0])
    with show.open_output(arguments.output) as output:
        if words is not arguments.command or not words[0].isdigit():
            child = _start(words, arguments)
            pid = child.pid
        _write(
            output,
            {
                "format": recording.FORMAT,
                "version": recording.VERSION,
                "command": name,
                "interval_s": arguments.interval,
            },
        )
        _follow(pid, child, output, arguments)
    if arguments.json:
        show.print_json(recording.load(arguments.output).summary(), sys.stderr)
    return _status(child)


def _start(words: list[str], arguments: argparse.Namespace) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(words, env=run.environment(arguments))
    except OSError as error:
        raise ToolError(f"{words[0]}: {error.strerror}") from None


def _write(output: TextIO, entry: dict[str, Any]) -> None:
    output.write(json.dumps(entry) + "\n")


def _follow(
    pid: int, child: "subprocess.Popen[bytes] | None", output: TextIO, arguments: argparse.Namespace
) -> None:
    """Sample until there is a reason to stop, which becomes the last line."""
    sampler = Sampler(pid, child is not None)
    next_at, shown, samples, end = sampler.started, 0.0, 0, "the process ended"
    try:
        while child is None or child.poll() is None:
            try:
                entries = sampler.sample()
            except ToolError:
                if child is None and samples == 0:
                    raise
                if child is None:
                    break
                entries = []  # the kernel takes its memory down, and its status is still to come
            for entry in entries:
                _write(output, entry)
            if entries:
                samples += 1
                shown = _progress(entries[-1], samples, shown)
            next_at += arguments.interval
            if arguments.duration and next_at - sampler.started > arguments.duration:
                end = "the time was over"
                break
            time.sleep(max(next_at - time.monotonic(), 0))
    except KeyboardInterrupt:
        end = "interrupted"
    for entry in sampler.events(1):
        _write(output, entry)
    _write(output, {"end": end, "samples": samples})
    if sys.stderr.isatty():
        print(f"\r\x1b[Kquarry: {samples} samples; {end}", file=sys.stderr)


def _progress(entry: dict[str, Any], samples: int, shown: float) -> float:
    """One line that is renewed, on a terminal."""
    if not sys.stderr.isatty() or entry["t"] - shown < _PROGRESS_S:
        return shown
    live = f", live {show.size(entry['live'])}" if "live" in entry else ""
    print(
        f"\r\x1b[Kquarry: {entry['t']:.1f} s, {samples} samples, RSS {show.size(entry['rss'])}{live}",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return float(entry["t"])


def _status(child: "subprocess.Popen[bytes] | None") -> int:
    """The command's exit status, 128 and the signal where one killed it."""
    if child is None or child.poll() is None:
        return 0
    return child.returncode if child.returncode >= 0 else 128 - child.returncode

# SPDX-License-Identifier: MIT
"""quarry record: the memory of a process over time, into a file."""
import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TextIO

from . import procfs, quantity, recording, run, show, signals
from .errors import ToolError, UsageError, only_told, tell
from .heap import Heap, Totals
from .statusline import StatusLine

_EVENT_BYTES = 64 << 10  # less given back is added to what comes next
_GIVEN_BACK = {"purged_ever": "given back by madvise", "trimmed_ever": "given back by brk"}
_PROGRESS_S = 0.25
_TRIES, _RETRY_S = 100, 1.0
_LATE = 0.1  # a larger share of samples that took longer than the interval is told
_DURATION_MOST_S = 366 * quantity.DAY_S
_ENDED, _OVER = "the process ended", "the time was over"


def add_parser(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "record",
        help="record the memory of a process over time",
        usage="quarry record -o FILE [OPTION ...] PID | -- COMMAND [ARGUMENT ...]",
        description="Samples a process, or a command run on Quarry, until it ends, or Ctrl-C, SIGTERM, "
        "SIGHUP or --duration ends the recording: virtual and resident size, page faults, and the heap's "
        "live, free, cached and dirty bytes. 'quarry plot' draws the file, 'quarry diff' compares two. The "
        "exit status is the command's, or 0 where the recording ended before; a signal that ended that goes "
        "to the command, too.",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the recording to write")
    parser.add_argument(
        "-i",
        "--interval",
        type=quantity.seconds,
        default=0.05,
        metavar="SECONDS",
        help="between samples (default 0.05)",
    )
    parser.add_argument(
        "-t",
        "--duration",
        type=quantity.above_0("number of seconds", _DURATION_MOST_S),
        metavar="SECONDS",
        help="end after so long",
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="nothing on stderr of how it goes"
    )
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
    parser.set_defaults(run=lambda arguments: main(arguments, parser))


class Sampler:
    """Samples of one process."""

    def __init__(self, pid: int, from_start: bool) -> None:
        """from_start: what it gave back before the first sample counts, too."""
        self.process = pid
        self.pid = pid  # of the thread through which it is looked at
        self.started = time.monotonic()
        self.heap: Heap | None = None
        self.tries, self.tried = 0, 0.0
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
        raise procfs.no_memory(self.process)

    def _totals(self) -> Totals | None:
        """The heap's totals; looked for anew while the program starts or turns into another one.

        A look costs more than a sample: after many in vain there are few.
        """
        try:
            if self.heap is None and (self.tries < _TRIES or self.now >= self.tried + _RETRY_S):
                self.tries, self.tried = self.tries + 1, self.now
                self.heap = Heap(self.pid)
                self.tries = 0
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


class _Clock:
    """When to sample: each interval of real time; a sample that was late is not caught up with."""

    def __init__(self, interval_s: float, duration_s: float | None) -> None:
        self.interval_s = interval_s
        self.next_at = time.monotonic()
        self.end_at = self.next_at + duration_s if duration_s else math.inf
        self.late = 0  # samples that took longer than the interval

    def left(self) -> float | None:
        """Seconds until the next sample, of which the last is at the end; None where that is over."""
        now = time.monotonic()
        if now >= self.end_at:
            return None
        self.next_at += self.interval_s
        if self.next_at < now:
            self.next_at = now
            self.late += 1
        if self.end_at - self.next_at < self.interval_s / 100:
            self.next_at = self.end_at
        return self.next_at - now


def main(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """The verb."""
    pid = _process(arguments, parser)
    if not arguments.output:
        raise UsageError("record: name the file to write by -o FILE")
    command = [] if pid else run.command_of(arguments)
    name = procfs.command(pid) if pid else procfs.printable(os.path.basename(command[0]))
    if pid:
        Sampler(pid, False).sample()  # one that cannot be looked at costs no file
    with show.open_output(arguments.output, keep=True) as output, signals.Inbox(
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP
    ) as inbox:
        child = _start(command, arguments) if command else None
        show.empty(output)
        header = {
            "format": recording.FORMAT,
            "version": recording.VERSION,
            "command": name,
            "interval_s": arguments.interval,
        }
        try:
            _write(output, header)
            end = _follow(child.pid if child else pid, child, output, inbox, arguments)
        except OSError as error:
            if not child:
                raise
            tell(error)
            return _outlast(child, output, inbox)
    command_ended = child is not None and end == _ENDED
    if arguments.json:
        with only_told() if command_ended else nullcontext():
            show.print_json(recording.load(arguments.output).summary(), sys.stderr)
    return _status(child) if command_ended else 0


def _process(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """The process that is named, options behind it read; 0 where there is a command."""
    pids = []
    while arguments.command and arguments.command[0].isdecimal():
        pids.append(arguments.command[0])
        parser.parse_args(arguments.command[1:], arguments)
    if not pids:
        _check_program(arguments.command)
        return 0
    if len(pids) > 1:
        raise UsageError(f"record: one process at a time: {' '.join(pids)}")
    if arguments.command:
        raise UsageError(f"record: '{arguments.command[0]}': behind a PID come options alone")
    flags = run.given(arguments)
    if flags:
        raise UsageError(
            f"record: {', '.join(flags)}: this is for a COMMAND to start; a process that runs may "
            "change options by 'quarry set'"
        )
    if not int(pids[0]):
        raise UsageError("record: there is no process 0")
    return int(pids[0])


def _check_program(words: list[str]) -> None:
    """Without '--' a program that there is not may be meant for a process."""
    if words and words[0] != "--" and not shutil.which(words[0]):
        raise UsageError(
            f"record: {procfs.printable(words[0])}: neither a PID nor a program; usage: quarry record -o FILE "
            "[OPTION ...] PID | -- COMMAND [ARGUMENT ...]"
        )


def _start(words: list[str], arguments: argparse.Namespace) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(words, env=run.environment(arguments))
    except OSError as error:
        raise ToolError(f"{words[0]}: {error.strerror}") from None


def _write(output: TextIO, entry: dict[str, Any]) -> None:
    """Write a line, at once: whatever ends this program leaves whole lines."""
    print(json.dumps(entry), file=output, flush=True)


def _follow(
    pid: int,
    child: "subprocess.Popen[bytes] | None",
    output: TextIO,
    inbox: signals.Inbox,
    arguments: argparse.Namespace,
) -> str:
    """Sample until there is a reason to stop, which becomes the last line."""
    sampler = Sampler(pid, child is not None)
    clock = _Clock(arguments.interval, arguments.duration)
    shown, samples, end = 0.0, 0, _ENDED
    with StatusLine(arguments.quiet) as line, _end_of(pid) as ended:
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
                if sampler.now - shown >= _PROGRESS_S:
                    shown = sampler.now
                    line.show(_progress(entries[-1], samples))
            left = clock.left()
            if left is None:
                end = _OVER
                break
            if came := inbox.wait(left, ended):
                end = _interrupted(came, child)
                break
        for entry in sampler.events(1):
            _write(output, entry)
        _write(output, {"end": end, "samples": samples})
        line.leave(f"{samples} samples; {end}")
    if not arguments.quiet:
        _tell_rate(clock, sampler.now, samples)
    return end


def _outlast(child: "subprocess.Popen[bytes]", output: TextIO, inbox: signals.Inbox) -> int:
    """The recording cannot be written any more; the status of the command, which goes on with its signals."""
    with suppress(OSError):
        output.close()  # what is left of it would be tried once more
    with _end_of(child.pid) as ended:
        while child.poll() is None:
            if came := inbox.wait(_PROGRESS_S, ended):
                _interrupted(came, child)
    return _status(child)


@contextmanager
def _end_of(pid: int) -> Iterator[list[int]]:
    """A descriptor that can be read when a process has ended; none where the kernel is too old."""
    try:
        descriptors = [os.pidfd_open(pid)]
    except OSError:
        descriptors = []
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _interrupted(number: int, child: "subprocess.Popen[bytes] | None") -> str:
    """A signal came: the command gets it, too; what the keyboard sends it has."""
    if child and number != signal.SIGINT:
        child.send_signal(number)
    return f"interrupted by {signal.Signals(number).name}"


def _progress(entry: dict[str, Any], samples: int) -> str:
    live = f", live {show.size(entry['live'])}" if "live" in entry else ""
    return f"{entry['t']:.1f} s, {samples} samples, RSS {show.size(entry['rss'])}{live}"


def _tell_rate(clock: _Clock, seconds: float, samples: int) -> None:
    """Where samples took longer than the interval, say so."""
    if samples > 1 and clock.late > samples * _LATE:
        print(
            f"quarry: a sample each {seconds / (samples - 1):.2g} s, not each "
            f"{clock.interval_s:g} s: faster was not possible",
            file=sys.stderr,
        )


def _status(child: "subprocess.Popen[bytes] | None") -> int:
    """The command's exit status, 128 and the signal where one killed it."""
    if child is None or child.poll() is None:
        return 0
    return child.returncode if child.returncode >= 0 else 128 - child.returncode

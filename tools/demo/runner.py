# SPDX-License-Identifier: MIT
"""Runs one workload under several allocators and insists on the same output from each.

The first run under glibc sets what is right. Every other run, glibc's own later ones included, has
to give the same bytes; and every process of a run has to have the allocator's library mapped.
"""
import contextlib
import difflib
import os
import shlex
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import measure
from measure import Binding, Measurement, RunError, SystemCalls
from workloads import Workload

BASELINE = "glibc"
DIFF_LINES = 20


class Failure(Exception):
    """A program that crashed, differed, or ran without its allocator; text for the reader."""


@dataclass(frozen=True)
class Allocator:
    """A name for the tables, and the library to preload; glibc has none."""

    name: str
    library: str | None = None

    def check(self, directory: Path) -> None:
        """Raise Failure unless the library can be preloaded and then provides malloc."""
        if self.library is None:
            return
        if not Path(self.library).is_file():
            raise Failure(f"{self.name}: there is no library {self.library}")
        run = Run(directory, {"PATH": "/usr/bin:/bin", "LD_PRELOAD": self.library})
        try:
            measured, bindings = run.trace_bindings(["/bin/sh", "-c", ":"], self.library, 30)
        except RunError as error:
            raise Failure(f"{self.name}: {error}") from None
        complaint = run.stderr().strip()
        if measured.without_library or measured.exit_status != 0:
            raise Failure(
                f"{self.name}: the preload of {self.library} did not take"
                + (f": {complaint}" if complaint else "")
            )
        if not any(item.provider == self.library for item in bindings):
            raise Failure(f"{self.name}: {self.library} provides no malloc")


def libc_path() -> str:
    """Return the C library that this process, and so every Debian program, has loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith("/libc.so.6"):
            return line.split()[-1]
    raise Failure("this Python is not linked with glibc")


@dataclass
class Run:
    """A directory for one command at a time, and the environment it gets."""

    base: Path
    environment: dict[str, str]

    @property
    def work(self) -> Path:
        """The directory the command runs in, new for every run."""
        return self.base / "work"

    def fresh(self) -> None:
        """Forget all files of the run before."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)

    def measure(self, command: list[str], library: str | None, limit_s: float) -> Measurement:
        """Run the command at full speed."""
        self.fresh()
        return measure.run(
            command, self.work, self.environment, self.base / "out", library, limit_s
        )

    def count_calls(self, command: list[str], limit_s: float) -> SystemCalls:
        """Run the command under strace."""
        self.fresh()
        return measure.count_system_calls(
            command, self.work, self.environment, self.base / "out", limit_s
        )

    def trace_bindings(
        self, command: list[str], library: str | None, limit_s: float
    ) -> tuple[Measurement, set[Binding]]:
        """Run the command while ld.so notes each symbol it resolves."""
        traces = self.base / "bindings"
        shutil.rmtree(traces, ignore_errors=True)
        traces.mkdir(parents=True)
        plain = self.environment
        self.environment = {**plain, "LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": f"{traces}/ld"}
        try:
            measured = self.measure(command, library, limit_s)
        finally:
            self.environment = plain
        bindings = measure.read_bindings(sorted(traces.iterdir()))
        shutil.rmtree(traces)
        return measured, bindings

    def stderr(self) -> str:
        """Return what the last command wrote to stderr."""
        return Path(f"{self.base}/out.stderr").read_text(errors="replace")


def _status_text(status: int) -> str:
    number = -status if status < 0 else status - 128
    if number > 0 and number in {item.value for item in signal.Signals}:
        return f"died of signal {number} ({signal.strsignal(number)})"
    return f"exit status {status}"


def _binary_difference(right: bytes, got: bytes) -> str:
    length = min(len(right), len(got))
    at = next((i for i in range(length) if right[i] != got[i]), length)
    if at == length:
        return f"  {len(got)} bytes instead of {len(right)}, the same up to the shorter one's end"
    return (
        f"  first difference at byte {at} of {len(right)}\n"
        f"  - {right[at : at + 16].hex(' ')}\n  + {got[at : at + 16].hex(' ')}"
    )


def describe_difference(right: bytes, got: bytes) -> str:
    """Return the first lines of a diff, or the first differing bytes of what is not text."""
    try:
        old, new = right.decode().splitlines(), got.decode().splitlines()
        binary = b"\0" in right + got
    except UnicodeDecodeError:
        binary = True
    if binary:
        return _binary_difference(right, got)
    lines = [
        "  " + line[:160]
        for line in difflib.unified_diff(old, new, "expected", "got", lineterm="", n=1)
    ]
    if not lines:
        return "  the line ends differ"
    if len(lines) > DIFF_LINES:
        lines[DIFF_LINES:] = [f"  ... and {len(lines) - DIFF_LINES} more lines of diff"]
    return "\n".join(lines)


class Bench:
    """One workload at one size, with its inputs prepared."""

    def __init__(self, workload: Workload, size: dict[str, int], base: Path) -> None:
        self.workload = workload
        self.size = size
        self.base = base / workload.name
        self.inputs = self.base / "input"
        self.inputs.mkdir(parents=True)
        self.limit_s = max(60.0, 20 * workload.seconds)
        self.right: dict[str, bytes | None] | None = None
        workload.prepare(self.inputs, size)
        self.script = self.base / "run.sh"
        self.script.write_text(workload.script)
        self.command = ["/bin/sh", "-eu", str(self.script)]

    def environment(self, allocator: Allocator) -> dict[str, str]:
        """Return the environment of a run under the allocator."""
        variables = self.workload.command_environment(self.inputs, self.base / "work", self.size)
        if allocator.library is not None:
            variables["LD_PRELOAD"] = allocator.library
        elif self.workload.brings_allocator:
            variables["LD_PRELOAD"] = libc_path()
        return variables

    def measure(self, allocator: Allocator) -> Measurement:
        """Run once at full speed; raise Failure if anything is not as it should be."""
        with self._explain(allocator) as run:
            measured = run.measure(self.command, allocator.library, self.limit_s)
            self._check(allocator, run, measured.exit_status, measured.without_library)
            return measured

    def count_calls(self, allocator: Allocator) -> SystemCalls:
        """Run once under strace; the output has to be right here too."""
        with self._explain(allocator) as run:
            counted = run.count_calls(self.command, self.limit_s * 3)
            self._check(allocator, run, counted.exit_status, [])
            return counted

    def prove_allocator(self, allocator: Allocator) -> None:
        """Run once with ld.so's trace; raise Failure if any malloc or free binds elsewhere."""
        with self._explain(allocator) as run:
            measured, bindings = run.trace_bindings(self.command, allocator.library, self.limit_s)
            self._check(allocator, run, measured.exit_status, measured.without_library)
        expected = os.path.realpath(allocator.library or libc_path())
        if not any(item.provider == expected for item in bindings):
            raise Failure(f"{self._title(allocator)}: no program asked {expected} for memory")
        for item in measure.foreign_bindings(bindings, expected):
            raise Failure(
                f"{self._title(allocator)}: {item.symbol} of {item.user} comes from"
                f" {item.provider}, not from {expected}"
            )

    def _title(self, allocator: Allocator) -> str:
        return f"{self.workload.name} under {allocator.name}"

    @contextlib.contextmanager
    def _explain(self, allocator: Allocator) -> Iterator[Run]:
        """Turn a run that could not be measured into a Failure; leave a script that repeats it."""
        try:
            yield Run(self.base, self.environment(allocator))
        except (Failure, RunError) as error:
            self._write_repeat_script(allocator)
            if isinstance(error, Failure):
                raise
            raise Failure(f"{self._title(allocator)}: {error}") from None

    def _write_repeat_script(self, allocator: Allocator) -> None:
        settings = [f"{name}={value}" for name, value in self.environment(allocator).items()]
        command = shlex.join(["env", "-i", *settings, *self.command])
        (self.base / f"repeat-{allocator.name}.sh").write_text(
            f"cd {shlex.quote(str(self.base))} && rm -rf work && mkdir work && cd work &&\n"
            f"{command}\n"
        )

    def _outputs(self) -> Iterator[tuple[str, bytes | None]]:
        yield "standard output", Path(f"{self.base}/out.stdout").read_bytes()
        yield "standard error", Path(f"{self.base}/out.stderr").read_bytes()
        for name in self.workload.outputs:
            path = self.base / "work" / name
            yield f"file {name}", path.read_bytes() if path.is_file() else None

    def _check(self, allocator: Allocator, run: Run, status: int, without: list[str]) -> None:
        """Raise Failure unless the run ended well, with its library, and with the right output."""
        if status != 0:
            complaint = "\n".join("  " + line for line in run.stderr().splitlines()[-DIFF_LINES:])
            raise Failure(f"{self._title(allocator)}: {_status_text(status)}\n{complaint}".rstrip())
        if without:
            raise Failure(
                f"{self._title(allocator)}: the preload did not take: {', '.join(without)}"
                f" ended without {allocator.library}"
            )
        outputs = dict(self._outputs())
        if self.right is None:
            self.right = outputs
        for name, right in self.right.items():
            got = outputs[name]
            if got == right:
                continue
            detail = "  no such file" if got is None else describe_difference(right or b"", got)
            raise Failure(f"{self._title(allocator)}: {name} differs\n{detail}")

# SPDX-License-Identifier: MIT
"""Runs one command under several allocators and insists on the same output from each.

The first run sets what is right, so it should be one under glibc. Every other run, glibc's own
later ones included, has to give the same bytes; and every process of a run has to have the
allocator's library mapped.
"""
import contextlib
import difflib
import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import measure
from allocators import Allocator, Failure, Run, libc_path
from measure import Measurement, RunError, SystemCalls

DIFF_LINES = 20


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


class Trial:
    """One command in a directory of its own; what it is given is chosen by the subclass."""

    def __init__(self, name: str, base: Path, limit_s: float) -> None:
        self.name = name
        self.base = base
        self.limit_s = limit_s
        self.command: list[str] = []
        self.outputs: tuple[str, ...] = ()  # files that it writes, to be compared
        self.compared = True  # its output and these files
        # Linked against another allocator: under glibc, libc itself has to come first.
        self.brings_allocator = False
        self.right: dict[str, bytes | None] | None = None

    def plain_environment(self) -> dict[str, str]:
        """Return the complete environment of a run, without any preload."""
        raise NotImplementedError

    def environment(self, allocator: Allocator) -> dict[str, str]:
        """Return the environment of a run under the allocator."""
        variables = self.plain_environment()
        if allocator.library is not None:
            variables["LD_PRELOAD"] = allocator.library
        elif self.brings_allocator:
            variables["LD_PRELOAD"] = libc_path()
        return variables

    def measure(self, allocator: Allocator, interval_s: float = 0) -> Measurement:
        """Run once at full speed; raise Failure if anything is not as it should be."""
        with self._explain(allocator) as run:
            measured = run.measure(self.command, allocator.library, self.limit_s, interval_s)
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
        return f"{self.name} under {allocator.name}"

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
        if not self.compared:
            return
        yield "standard output", Path(f"{self.base}/out.stdout").read_bytes()
        yield "standard error", Path(f"{self.base}/out.stderr").read_bytes()
        for name in self.outputs:
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

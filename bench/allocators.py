# SPDX-License-Identifier: MIT
"""The allocators that are compared, and the proof that a program really runs on one of them.

An allocator is preloaded. That the preload took is shown by ld.so itself: LD_DEBUG=bindings names,
for each file of a program, whose malloc, calloc, realloc and free it got.
"""
import argparse
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import measure
from measure import Binding, Measurement, RunError, SystemCalls

BASELINE = "glibc"
QUARRY = "quarry"
LIBRARY = Path(__file__).resolve().parents[1] / "build" / "release" / "libquarry.so"


class Rival(NamedTuple):
    """One of Debian's allocators."""

    soname: str
    package: str


RIVALS = {
    "jemalloc": Rival("libjemalloc.so.2", "libjemalloc2"),
    "mimalloc": Rival("libmimalloc.so.2", "libmimalloc2.0"),
    "tcmalloc": Rival("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "tbbmalloc": Rival("libtbbmalloc_proxy.so.2", "libtbbmalloc2"),
}
# The one for quick runs: it finishes every case, where Debian's mimalloc returns blocks that are
# not aligned as asked (sh8), and it takes less memory than tcmalloc.
BEST_RIVAL = "jemalloc"


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

    def measure(
        self, command: list[str], library: str | None, limit_s: float, interval_s: float = 0
    ) -> Measurement:
        """Run the command at full speed; sample its resident size where an interval is given."""
        self.fresh()
        return measure.run(
            command, self.work, self.environment, self.base / "out", library, limit_s, interval_s
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


def parse_allocator(text: str) -> Allocator:
    """Turn NAME=FILE into an allocator."""
    match = re.fullmatch(r"([A-Za-z0-9._+-]+)=(.+)", text)
    if not match or match[1] == BASELINE:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=FILE.so")
    if re.search(r"[:\s]", match[2]):
        raise argparse.ArgumentTypeError("LD_PRELOAD cannot name a path with blanks or colons")
    return Allocator(match[1], os.path.realpath(match[2]))


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let the user name further allocators."""
    parser.add_argument(
        "--allocator",
        action="append",
        default=[],
        type=parse_allocator,
        metavar="NAME=FILE.so",
        help="a further allocator to preload, or another build of a known one; may be repeated",
    )


def parse_runs(text: str) -> int:
    """Turn a text into a number of runs."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of runs, 1 or more")
    return int(text)


def find_library(soname: str) -> str | None:
    """Return the real path of an installed library, as ld.so would find it."""
    listed = subprocess.run(
        ["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=False
    ).stdout
    for line in listed.splitlines():
        if line.split()[:1] == [soname]:
            return os.path.realpath(line.rpartition("=> ")[2])
    return None


def choose(given: list[Allocator], wanted: list[str]) -> tuple[list[Allocator], list[str]]:
    """Return glibc, Quarry, Debian's rivals and the given ones, and a line for each left out.

    With wanted, only those named there and the baseline; what is wanted has to exist.
    """
    found: dict[str, Allocator | str] = {
        BASELINE: Allocator(BASELINE),
        QUARRY: (
            Allocator(QUARRY, str(LIBRARY))
            if LIBRARY.is_file()
            else "build/release/libquarry.so is not built: make"
        ),
    }
    for name, rival in RIVALS.items():
        path = find_library(rival.soname)
        missing = f"{name} is not installed: apt-get install {rival.package}"
        found[name] = Allocator(name, path) if path else missing
    found.update((allocator.name, allocator) for allocator in given)
    for name in wanted:
        if name not in found:
            raise ValueError(f"no allocator named '{name}'; there are: {', '.join(found)}")
        if isinstance(found[name], str):
            raise Failure(str(found[name]))
    if isinstance(found[QUARRY], str) and not wanted:
        raise Failure(str(found[QUARRY]))
    chosen = [item for name, item in found.items() if not wanted or name in {BASELINE, *wanted}]
    usable = [item for item in chosen if isinstance(item, Allocator)]
    return usable, [item for item in chosen if isinstance(item, str)]

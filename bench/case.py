# SPDX-License-Identifier: MIT
"""The list of all benchmarks, and what the runner needs to know of each.

A case is a command that the runner starts, measures and compares; which allocator it runs on is
none of its business. Four groups: micro (bench/micro), workloads of our own (bench/workloads), real
programs (bench/real.py), and replayed traces (bench/trace).
"""
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILT = ROOT / "build" / "bench"
GROUPS = ("micro", "workload", "real", "trace")
# Debian's own directories first, so that the Debian package is what runs even where another build
# of the same program stands earlier in the caller's PATH.
SEARCH_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Place:
    """Where a case runs, and how much it has to do."""

    directory: Path  # the case's own for one scale; prepared once, kept between runs
    scale: float = 1.0  # share of the usual work
    idle: float = 0.0  # seconds that a workload rests at its end before it looks at its RSS
    report: Path | None = None  # file for a workload's own figures, as lines key=value

    @property
    def inputs(self) -> Path:
        """What prepare has made; commands only read it."""
        return self.directory / "input"

    @property
    def work(self) -> Path:
        """The directory a command is started in; the runner empties it before every run."""
        return self.directory / "work"


def _nothing(_place: Place) -> None:
    """Prepare nothing."""


def _plain_environment(place: Place) -> dict[str, str]:
    return {
        "PATH": SEARCH_PATH,
        "HOME": str(place.work),
        "TMPDIR": str(place.work),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


@dataclass(frozen=True)
class Case:
    """One benchmark."""

    name: str
    group: str  # one of GROUPS
    summary: str  # one line
    seconds: float  # what a run at scale 1 takes under glibc, roughly: for the first estimate
    command: Callable[[Place], list[str]]
    prepare: Callable[[Place], None] = _nothing  # fills place.inputs, which exists and is empty
    environment: Callable[[Place], dict[str, str]] = _plain_environment  # complete, no preload
    threads: int = 1  # at most so many run at once
    checked: str = "stdout"  # "stdout": it and `outputs` are the same bytes each time; or "none"
    outputs: tuple[str, ...] = ()  # files below place.work, compared as stdout is
    report: bool = False  # writes place.report, and honours place.idle
    # Its figures come from looking at itself while it runs: not where its time counts.
    samples: bool = False
    programs: dict[str, str] = field(default_factory=dict)  # program -> Debian package
    files: tuple[Path, ...] = ()  # what `make bench-programs` builds for it
    # Linked by Debian against another allocator: under glibc, libc itself has to be preloaded.
    brings_allocator: bool = False

    def missing(self) -> list[str]:
        """Return a line for each thing that is not there, with its remedy."""
        lines = [
            f"{program} is not installed: apt-get install {package}"
            for program, package in sorted(self.programs.items())
            if shutil.which(program, path=SEARCH_PATH) is None
        ]
        lines += [
            f"{path.relative_to(ROOT)} is not built: make bench-programs"
            for path in self.files
            if not path.is_file()
        ]
        return lines


def read_report(path: Path) -> dict[str, float]:
    """Return the figures that a workload has written to its --report file."""
    figures = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        key, separator, value = line.partition("=")
        try:
            figures[key] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise ValueError(f"{path}:{number}: not of the form key=number: {line!r}")
    return figures


# ---- Workloads: one program each ----------------------------------------------------------------


def _workload(
    name: str, summary: str, seconds: float, threads: int = 1, program: str = "", *options: str
) -> Case:
    """Return the case of a program in bench/workloads."""
    path = BUILT / "workloads" / (program or name.replace("-", "_"))

    def command(place: Place) -> list[str]:
        words = [str(path), "--threads", str(threads), "--scale", f"{place.scale:g}", *options]
        if place.idle:
            words += ["--idle", f"{place.idle:g}"]
        if place.report:
            words += ["--report", str(place.report)]
        return words

    return Case(
        name=name,
        group="workload",
        summary=summary,
        seconds=seconds,
        command=command,
        threads=threads,
        report=True,
        samples=True,
        files=(path,),
    )


WORKLOADS = (
    _workload("larson", "a server whose blocks pass from thread to thread", 1.5, 2),
    _workload("larson-16", "the same with more threads than processors", 4.0, 16, "larson"),
    _workload("mstress", "threads that keep, swap and drop blocks of skewed sizes", 1.5, 2),
    _workload("mstress-8", "the same with more threads than processors", 1.5, 8, "mstress"),
    _workload("xmalloc", "half of the threads allocate, the others free", 2.0, 2),
    _workload("cache-scratch", "passive false sharing: one's block freed by another", 2.0, 2),
    _workload("sh8", "a mix of sizes, orders of freeing and threads", 2.5, 8),
    _workload("fragmentation", "one heap, its live set drifting in size and lifetime", 2.0),
    _workload("server", "many clients with sessions of random length, a pool of threads", 2.0, 4),
    _workload("phases", "a heap that grows, shrinks, and grows with other sizes", 1.5),
    _workload("redis-like", "a table of values of mixed sizes, rewritten and expired", 2.5),
    _workload("compiler-like", "many small blocks bumped per unit, all dropped at its end", 1.5),
)


# ---- All of them --------------------------------------------------------------------------------


def _other_cases() -> Iterator[Case]:
    # Imported here, for these modules need the classes above.
    import real  # pylint: disable=import-outside-toplevel
    import traced  # pylint: disable=import-outside-toplevel

    yield from real.cases()
    yield from traced.cases()


def all_cases() -> list[Case]:
    """Return every case, in the order in which they are listed."""
    import micro_cases  # pylint: disable=import-outside-toplevel

    return [*micro_cases.cases(), *WORKLOADS, *_other_cases()]


def select(wanted: list[str], cases: list[Case] | None = None) -> list[Case]:
    """Return the cases named, by name or group, in their order; all if none is named."""
    cases = all_cases() if cases is None else cases
    known = {case.name for case in cases} | set(GROUPS)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ValueError(f"no case or group named '{unknown[0]}'; `bench/run.py list` shows them")
    return [case for case in cases if not wanted or {case.name, case.group} & set(wanted)]

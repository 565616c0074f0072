# SPDX-License-Identifier: MIT
"""Measures all cases under all allocators, in turns.

The outermost loop is over rounds, so that what changes slowly on the machine meets all alike; the
innermost is over allocators, in another order each time, so that the runs of one pair are
neighbours and none always follows the same one. Before the rounds, ld.so proves for each case that
its malloc is the allocator's. After them come runs whose times do not count: one with a rest at its
end and resident memory sampled, one under strace.
"""
import contextlib
import dataclasses
import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allocators import BASELINE, Allocator, Failure
from case import Case, Place, read_report
from progress import Progress
from trial import Trial

# Starting, following and checking a run cost about this, whatever it does.
OVERHEAD_S = 0.08
STRACE_FACTOR = 2.0
PROOF_SCALE = 0.01
SAMPLES_PER_RUN = 200


@dataclass(frozen=True)
class Plan:
    """What to do with each case and allocator."""

    runs: int = 5
    scale: float = 1.0
    idle: float = 3.0
    prove: bool = True
    memory: bool = True
    calls: bool = True
    seed: int = 1


class CaseTrial(Trial):
    """A case at one scale, prepared."""

    def __init__(self, case: Case, base: Path, scale: float) -> None:
        super().__init__(case.name, base, max(60.0, 30 * case.seconds * max(scale, 0.1)))
        self.case = case
        self.place = Place(base, scale)
        self.outputs = case.outputs
        self.compared = case.checked == "stdout"
        self.brings_allocator = case.brings_allocator
        self.place.inputs.mkdir(parents=True)
        case.prepare(self.place)
        self.look_at_memory(False)

    def look_at_memory(self, looking: bool, idle: float = 0) -> None:
        """Choose whether the runs from now on may sample themselves, and how long they rest at
        their end."""
        reports = self.case.report and (looking or not self.case.samples)
        report = self.place.directory / "report" if reports else None
        self.place = dataclasses.replace(self.place, idle=idle, report=report)
        self.command = self.case.command(self.place)

    def plain_environment(self) -> dict[str, str]:
        """Return the complete environment of a run, without any preload."""
        return self.case.environment(self.place)

    def sample(self, allocator: Allocator, interval_s: float = 0) -> dict[str, Any]:
        """Run once; return the figures, the program's own ones under "report"."""
        if self.place.report:
            self.place.report.unlink(missing_ok=True)
        figures = self.measure(allocator, interval_s).as_dict()
        if self.place.report:
            try:
                figures["report"] = read_report(self.place.report)
            except (OSError, ValueError) as error:
                raise Failure(f"{self.name} under {allocator.name}: no report: {error}") from None
        return figures

    def output_hash(self) -> str:
        """Return a hash of what the case printed and wrote; empty if that is not compared."""
        if not self.compared or self.right is None:
            return ""
        parts = [value or b"" for name, value in sorted(self.right.items())]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@dataclass
class Entry:
    """What is known of one case under one allocator."""

    runs: list[dict[str, Any]] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    calls: dict[str, int] | None = None


class Session:
    """All cases under all allocators; results() tells what has been measured so far."""

    def __init__(
        self, cases: list[Case], allocators: list[Allocator], plan: Plan, base: Path
    ) -> None:
        self.cases = cases
        self.allocators = allocators
        self.plan = plan
        self.base = base
        self.chance = random.Random(plan.seed)
        self.trials: dict[str, CaseTrial] = {}
        self.entries = {case.name: {item.name: Entry() for item in allocators} for case in cases}
        self.failures: list[dict[str, str]] = []
        self.rounds = 0
        self.progress = Progress(sum(cost for _, cost in self._all_steps()))

    # ---- The plan -------------------------------------------------------------------------------

    def _seconds(self, case: Case) -> float:
        return case.seconds * self.plan.scale + OVERHEAD_S

    def _wants_memory(self, case: Case) -> bool:
        return self.plan.memory and case.group != "micro"

    def _wants_calls(self, case: Case) -> bool:
        # How often a micro-benchmark repeats depends on how fast it is.
        return self.plan.calls and case.group != "micro"

    def _all_steps(self) -> Iterator[tuple[str, float]]:
        """Yield the kind and cost of every step, for the estimate."""
        for case in self.cases:
            once = self._seconds(case)
            for _ in self.allocators:
                yield "round", once * self.plan.runs
                if self.plan.prove:
                    yield "proof", case.seconds * PROOF_SCALE + OVERHEAD_S * 2
                if self._wants_memory(case):
                    yield "memory", once + (self.plan.idle if case.report else 0)
                if self._wants_calls(case):
                    yield "calls", once * STRACE_FACTOR

    def _live(self, case: Case) -> list[Allocator]:
        """Return the allocators that have not failed with this case."""
        entries = self.entries[case.name]
        return [item for item in self.allocators if item.name in entries]

    # ---- The steps ------------------------------------------------------------------------------

    def run(self) -> None:
        """Do everything; a failure ends one case under one allocator, and is kept."""
        self._prepare()
        if self.plan.prove:
            self._prove()
        for number in range(self.plan.runs):
            for case in self.cases:
                self._round(case, number)
            self.rounds = number + 1
            self.progress.line(f"round {number + 1} of {self.plan.runs} done")
        for case in self.cases:
            if self._wants_memory(case):
                self._look_at_memory(case)
            if self._wants_calls(case):
                self._count_calls(case)

    def _prepare(self) -> None:
        for number, case in enumerate(self.cases, 1):
            self.progress.step(f"preparing {case.name} ({number} of {len(self.cases)})")
            with self._keep_failure(case, self.allocators[0]):
                where = self.base / case.name
                self.trials[case.name] = CaseTrial(case, where / "measured", self.plan.scale)

    @contextlib.contextmanager
    def _keep_failure(self, case: Case, allocator: Allocator) -> Iterator[None]:
        """Note a failure and take the allocator, or with the baseline the case, out of the race."""
        try:
            yield
        except (Failure, OSError) as failure:
            text = str(failure)
            self.failures.append({"case": case.name, "allocator": allocator.name, "text": text})
            self.progress.line(f"FAILED: {text}", left=False)
            if allocator.name == BASELINE:
                self.entries[case.name].clear()
            else:
                self.entries[case.name].pop(allocator.name, None)

    def _prove(self) -> None:
        for case in self.cases:
            trial: CaseTrial | None = None
            for allocator in self._live(case):
                self.progress.step(f"{case.name}: whose malloc is it under {allocator.name}?")
                with self._keep_failure(case, allocator):
                    if trial is None:
                        where = self.base / case.name / "proof"
                        trial = CaseTrial(case, where, PROOF_SCALE)
                    trial.prove_allocator(allocator)
                self.progress.advance(case.seconds * PROOF_SCALE + OVERHEAD_S * 2)
            shutil.rmtree(self.base / case.name / "proof", ignore_errors=True)

    def _round(self, case: Case, number: int) -> None:
        order = self._live(case)
        # The very first output is what the others have to equal, so it must be the baseline's.
        first = order[:1] if number == 0 else []
        rest = order[len(first) :]
        self.chance.shuffle(rest)
        for allocator in first + rest:
            if allocator.name not in self.entries[case.name]:
                continue
            self.progress.step(
                f"round {number + 1} of {self.plan.runs}: {case.name} under {allocator.name}"
            )
            with self._keep_failure(case, allocator):
                sample = self.trials[case.name].sample(allocator)
                self.entries[case.name][allocator.name].runs.append(sample)
            self.progress.advance(self._seconds(case))

    def _look_at_memory(self, case: Case) -> None:
        """Run once with a rest at the end, sampling resident memory."""
        trial = self.trials.get(case.name)
        for allocator in self._live(case):
            assert trial is not None
            idle = self.plan.idle if case.report else 0
            total = self._seconds(case) + idle
            self.progress.step(f"{case.name}: resident memory under {allocator.name}")
            with self._keep_failure(case, allocator):
                trial.look_at_memory(True, idle)
                interval = max(0.002, total / SAMPLES_PER_RUN)
                self.entries[case.name][allocator.name].memory = trial.sample(allocator, interval)
            self.progress.advance(total)
        if trial:
            trial.look_at_memory(False)

    def _count_calls(self, case: Case) -> None:
        for allocator in self._live(case):
            self.progress.step(f"{case.name}: system calls under {allocator.name}")
            with self._keep_failure(case, allocator):
                counted = self.trials[case.name].count_calls(allocator)
                self.entries[case.name][allocator.name].calls = counted.by_name
            self.progress.advance(self._seconds(case) * STRACE_FACTOR)

    # ---- The results ----------------------------------------------------------------------------

    def results(self) -> list[dict[str, Any]]:
        """Return the cases with complete rounds, as they go into the JSON file."""
        found = []
        for case in self.cases:
            entries = {
                name: dataclasses.asdict(entry)
                for name, entry in self.entries[case.name].items()
                if entry.runs
            }
            # After an interrupt, a round may lack some allocators: it pairs with nothing.
            whole = min((len(entry["runs"]) for entry in entries.values()), default=0)
            for entry in entries.values():
                del entry["runs"][whole:]
            if BASELINE in entries:
                found.append(
                    {
                        "name": case.name,
                        "group": case.group,
                        "summary": case.summary,
                        "threads": case.threads,
                        "output": self.trials[case.name].output_hash(),
                        "results": entries,
                    }
                )
        return found

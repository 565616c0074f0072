# SPDX-License-Identifier: MIT
"""One program of the demonstration at one size, as a trial that the allocators take in turns."""
import sys
from pathlib import Path

from workloads import Workload

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
from allocators import BASELINE, Allocator, Failure
from trial import Trial, describe_difference

__all__ = ["BASELINE", "Allocator", "Bench", "Failure", "describe_difference"]


class Bench(Trial):
    """One workload at one size, with its inputs prepared."""

    def __init__(self, workload: Workload, size: dict[str, int], base: Path) -> None:
        super().__init__(workload.name, base / workload.name, max(60.0, 20 * workload.seconds))
        self.workload = workload
        self.size = size
        self.inputs = self.base / "input"
        self.inputs.mkdir(parents=True)
        self.outputs = workload.outputs
        self.brings_allocator = workload.brings_allocator
        workload.prepare(self.inputs, size)
        script = self.base / "run.sh"
        script.write_text(workload.script)
        self.command = ["/bin/sh", "-eu", str(script)]

    def plain_environment(self) -> dict[str, str]:
        """Return the complete environment of a run, without any preload."""
        return self.workload.command_environment(self.inputs, self.base / "work", self.size)

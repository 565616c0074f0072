# SPDX-License-Identifier: MIT
"""Real programs from Debian, unmodified, whose output is checked.

Most are those of the demonstration (tools/demo/workloads.py).
"""
import sys

from case import ROOT, Case, Place

# Last, so that no module of the demonstration hides one of ours that has the same name.
sys.path.append(str(ROOT / "tools" / "demo"))
import workloads


def _size(workload: workloads.Workload, scale: float) -> dict[str, int]:
    """Return the sizes for a scale from 0, the small task, to 1, the full one; no more than that,
    for some sizes are exponents."""
    share = min(scale, 1.0)
    return {
        name: round(workload.small[name] + (full - workload.small[name]) * share)
        for name, full in workload.full.items()
    }


def _case(workload: workloads.Workload) -> Case:
    def prepare(place: Place) -> None:
        workload.prepare(place.inputs, _size(workload, place.scale))
        (place.inputs / "run.sh").write_text(workload.script)

    def environment(place: Place) -> dict[str, str]:
        size = _size(workload, place.scale)
        return workload.command_environment(place.inputs, place.work, size)

    return Case(
        name=workload.name,
        group="real",
        summary=workload.about,
        seconds=workload.seconds,
        command=lambda place: ["/bin/sh", "-eu", str(place.inputs / "run.sh")],
        prepare=prepare,
        environment=environment,
        threads=2 if workload.name in ("git", "xz") else 1,
        outputs=workload.outputs,
        programs=workload.packages,
        brings_allocator=workload.brings_allocator,
    )


def cases() -> list[Case]:
    """Return the cases of this group."""
    return [_case(workload) for workload in workloads.WORKLOADS]

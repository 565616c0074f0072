# SPDX-License-Identifier: MIT
"""Real programs from Debian, unmodified, whose output is checked.

Most are those of the demonstration (tools/demo/workloads.py); added are programs too slow or too
rarely installed for it.
"""
import random
import sys
from pathlib import Path

from case import ROOT, Case, Place

# Last, so that no module of the demonstration hides one of ours that has the same name.
sys.path.append(str(ROOT / "tools" / "demo"))
import workloads
from workloads import Workload, function_source, text


def _prepare_project(inputs: Path, size: dict[str, int]) -> None:
    """Write a program of many files, whose main prints a figure from each, and its Makefile."""
    chance = random.Random(21)
    names = [f"part{number}" for number in range(size["FILES"])]
    for name in names:
        body = "".join(function_source(number, chance) for number in range(8))
        (inputs / f"{name}.c").write_text(
            f"#include <stdio.h>\n#include <string.h>\n#include \"project.h\"\n{body}\n"
            f"long {name}(const struct pair *list, long count)\n"
            "{\n    return task_7(list, count) + task_3(list, count);\n}\n"
        )
    declared = "".join(f"long {name}(const struct pair *, long);\n" for name in names)
    (inputs / "project.h").write_text(
        "#define NAMES 4\nstruct pair { long left, right; };\n"
        'static const char *const names[NAMES] = { "aa", "bb", "cc", "dd" };\n' + declared
    )
    printed = "".join(f'    printf("{name} %ld\\n", {name}(list, 9));\n' for name in names)
    (inputs / "main.c").write_text(
        '#include <stdio.h>\n#include "project.h"\nint main(void)\n{\n'
        "    struct pair list[9];\n"
        "    for (long i = 0; i < 9; i++) list[i] = (struct pair){ i * i, 7 * i };\n"
        f"{printed}    return names[0][0] == 0;\n}}\n"
    )
    objects = " ".join(f"{name}.o" for name in ["main", *names])
    (inputs / "Makefile").write_text(
        f"program: {objects}\n\tgcc $^ -o $@\n{objects}: %.o: $(INPUT)/%.c $(INPUT)/project.h\n"
        "\tgcc -O1 -c $< -o $@\n"
    )


def _prepare_formulas(inputs: Path, size: dict[str, int]) -> None:
    """Write a factoring problem in bit-vectors, and schedules over integers."""
    chance = random.Random(22)
    bits = size["BITS"]
    left, right = (1 << bits) - 5, (1 << bits) - 17
    lines = [
        "(push)",
        f"(declare-const x (_ BitVec {2 * bits}))",
        f"(declare-const y (_ BitVec {2 * bits}))",
        f"(assert (= (bvmul x y) (_ bv{left * right} {2 * bits})))",
        f"(assert (bvult x (_ bv{1 << bits} {2 * bits})))",
        f"(assert (bvult y (_ bv{1 << bits} {2 * bits})))",
        f"(assert (bvugt x (_ bv1 {2 * bits})))",
        "(check-sat)",
        "(pop)",
    ]
    jobs = size["JOBS"]
    for _ in range(size["SCHEDULES"]):
        lines.append("(push)")
        lengths = [chance.randint(3, 30) for _ in range(jobs)]
        machines = [chance.randrange(4) for _ in range(jobs)]
        for job in range(jobs):
            lines.append(f"(declare-const s{job} Int)(assert (>= s{job} 0))")
            limit = sum(lengths) // 3
            lines.append(f"(assert (<= (+ s{job} {lengths[job]}) {limit}))")
            for other in range(job):
                if machines[other] == machines[job]:
                    lines.append(
                        f"(assert (or (<= (+ s{job} {lengths[job]}) s{other})"
                        f" (<= (+ s{other} {lengths[other]}) s{job})))"
                    )
        lines += ["(check-sat)", "(pop)"]
    (inputs / "problem.smt2").write_text("\n".join(lines) + "\n")


def _prepare_pages(inputs: Path, size: dict[str, int]) -> None:
    """Write pages of text in several fonts, curves, gradients and patterns."""
    chance = random.Random(23)
    lines = text(23, size["PAGES"] * 4000).splitlines()
    out = ["%!PS-Adobe-3.0"]
    for _ in range(size["PAGES"]):
        for row in range(55):
            font = chance.choice(("Times-Roman", "Helvetica", "Courier", "Times-Italic"))
            out.append(f"/{font} findfont {chance.randint(7, 14)} scalefont setfont")
            out.append(f"36 {780 - 13 * row} moveto ({chance.choice(lines)}) show")
        for _ in range(120):
            points = " ".join(str(chance.randint(20, 590)) for _ in range(6))
            colour = " ".join(f"{chance.random():.3f}" for _ in range(3))
            out.append(f"{colour} setrgbcolor {chance.randint(20, 590)} {chance.randint(20, 800)}")
            out.append(f"moveto {points} curveto closepath {chance.choice(('fill', 'stroke'))}")
        for radius in range(60, 4, -2):
            out.append(f"{radius / 60:.3f} setgray 300 400 {radius} 0 360 arc fill")
        out.append("showpage")
    (inputs / "pages.ps").write_text("\n".join(out) + "\n")


ADDED = (
    Workload(
        name="make",
        about="build a project of many C files with make -j2 and gcc, run the result",
        packages={"make": "make", "gcc": "gcc"},
        seconds=3.0,
        script='cp "$INPUT/Makefile" . && make -s -j2 && ./program\n',
        full={"FILES": 36},
        small={"FILES": 2},
        prepare=_prepare_project,
    ),
    Workload(
        name="z3",
        about="factor a number in bit-vectors, find schedules over integers",
        packages={"z3": "z3"},
        seconds=2.0,
        script='exec z3 -smt2 "$INPUT/problem.smt2"\n',
        full={"BITS": 12, "JOBS": 22, "SCHEDULES": 12},
        small={"BITS": 8, "JOBS": 10, "SCHEDULES": 2},
        prepare=_prepare_formulas,
    ),
    Workload(
        name="ghostscript",
        about="draw pages of text, curves and gradients as pixels and as PDF",
        packages={"gs": "ghostscript"},
        seconds=2.0,
        script=(
            "gs -q -dBATCH -dNOPAUSE -dSAFER -sDEVICE=ppmraw -r72"
            ' -sOutputFile=pages.ppm "$INPUT/pages.ps"\n'
            "gs -q -dBATCH -dNOPAUSE -dSAFER -sDEVICE=pdfwrite"
            ' -sOutputFile=pages.pdf "$INPUT/pages.ps"\n'
            "gs -q -dBATCH -dNOPAUSE -dSAFER -sDEVICE=txtwrite -sOutputFile=- pages.pdf\n"
        ),
        full={"PAGES": 50},
        small={"PAGES": 1},
        prepare=_prepare_pages,
        outputs=("pages.ppm",),
    ),
)


def _size(workload: Workload, scale: float) -> dict[str, int]:
    """Return the sizes for a scale from 0, the small task, to 1, the full one; no more than that,
    for some sizes are exponents."""
    share = min(scale, 1.0)
    return {
        name: round(workload.small[name] + (full - workload.small[name]) * share)
        for name, full in workload.full.items()
    }


def _case(workload: Workload) -> Case:
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
        threads=2 if workload.name in ("git", "xz", "make") else 1,
        outputs=workload.outputs,
        programs=workload.packages,
        brings_allocator=workload.brings_allocator,
    )


def cases() -> list[Case]:
    """Return the cases of this group."""
    return [_case(workload) for workload in (*workloads.WORKLOADS, *ADDED)]

# SPDX-License-Identifier: MIT
"""The real programs that `make demo` and the system tests run, and what each is given to do.

A workload is a shell script, run in an empty directory with a small fixed environment, and inputs
generated beforehand from fixed seeds. All it prints, and the files it names in `outputs`, must be
the same bytes whichever allocator is preloaded: no clock, no hash seed, no thread may show in them.
"""
import itertools
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parent / "programs"
# Debian's own directories first, so that the Debian package is what runs even where another build
# of the same program stands earlier in the caller's PATH.
SEARCH_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"


def _nothing(_inputs: Path, _size: dict[str, int]) -> None:
    """Prepare nothing: the script makes its own data."""


@dataclass(frozen=True)
class Workload:
    """One program and a deterministic task for it."""

    name: str
    about: str
    packages: dict[str, str]  # program -> Debian package
    seconds: float  # about what a full run takes, for the first estimate of the time left
    script: str  # POSIX sh; the sizes, INPUT and PROGRAMS are in its environment
    full: dict[str, int]
    small: dict[str, int]
    prepare: Callable[[Path, dict[str, int]], None] = _nothing
    outputs: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    # Linked by Debian against another allocator's library: for the runs under glibc, libc itself
    # is preloaded, so that its malloc comes first.
    brings_allocator: bool = False

    def missing(self) -> dict[str, str]:
        """Return the programs that are not installed, with the package that has each."""
        return {
            program: package
            for program, package in self.packages.items()
            if shutil.which(program, path=SEARCH_PATH) is None
        }

    def command_environment(self, inputs: Path, home: Path, size: dict[str, int]) -> dict[str, str]:
        """Return the complete environment of a run, without any preload."""
        return {
            "PATH": SEARCH_PATH,
            "HOME": str(home),
            "TMPDIR": str(home),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "INPUT": str(inputs),
            "PROGRAMS": str(PROGRAMS),
            **{name: str(value) for name, value in size.items()},
            **self.environment,
        }


def _words(seed: int, count: int) -> list[str]:
    """Return distinct made-up words of plausible shape."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = chance.randint(1, 4)
        parts = [chance.choice("bdfgklmnprst") + chance.choice("aeiou") for _ in range(syllables)]
        found["".join(parts)] = None
    return list(found)


def text(seed: int, size_bytes: int) -> str:
    """Return lines of words, the frequent ones frequent as in a language."""
    chance = random.Random(seed)
    words = _words(seed, 4000)
    frequency = list(itertools.accumulate(1 / (rank + 3) for rank in range(len(words))))
    lines, length = [], 0
    while length < size_bytes:
        line = " ".join(chance.choices(words, cum_weights=frequency, k=chance.randint(4, 14)))
        lines.append(line)
        length += len(line) + 1
    return "\n".join(lines) + "\n"


def _prepare_text(inputs: Path, size: dict[str, int]) -> None:
    (inputs / "text.txt").write_text(text(11, size["TEXT_BYTES"]))


def _prepare_records(inputs: Path, size: dict[str, int]) -> None:
    chance = random.Random(12)
    words = _words(12, 900)
    records = [
        {
            "id": number,
            "name": " ".join(chance.choices(words, k=chance.randint(2, 6))),
            "tags": chance.sample(words[:60], chance.randint(1, 5)),
            "scores": [chance.randint(0, 1000) for _ in range(chance.randint(1, 12))],
            "parent": chance.randint(0, number) if number % 3 else None,
        }
        for number in range(size["RECORDS"])
    ]
    (inputs / "records.json").write_text(json.dumps(records))


def function_source(number: int, chance: random.Random) -> str:
    """Return one C function with loops, a switch, structures and calls of earlier functions."""
    cases = "\n".join(
        f"        case {value}: total += pair.left * {chance.randint(2, 99)}"
        f" - total % {chance.randint(3, 17)}; break;"
        for value in range(chance.randint(3, 12))
    )
    called = f"task_{chance.randrange(number)}(list, count / 2)" if number else "count"
    return f"""
static long task_{number}(const struct pair *list, long count)
{{
    long total = {chance.randint(1, 999)};
    double weight = {chance.random():.6f};
    for (long i = 0; i < count; i++) {{
        struct pair pair = list[i];
        switch ((pair.right + i) % {chance.randint(5, 20)}) {{
{cases}
        default: weight *= 1.0 + (double)pair.left / {chance.randint(10, 500)};
        }}
        for (long j = 0; j < pair.right % {chance.randint(3, 30)}; j++) {{
            total ^= (total << {chance.randint(1, 7)}) + j * names[(i + j) % NAMES][0];
        }}
    }}
    return total + (long)weight + (count > 3 ? {called} : 0);
}}
"""


def _prepare_c(inputs: Path, size: dict[str, int]) -> None:
    chance = random.Random(13)
    names = ", ".join(f'"{word}"' for word in _words(13, 500))
    functions = [function_source(number, chance) for number in range(size["FUNCTIONS"])]
    table = ", ".join(f"task_{number}" for number in range(size["FUNCTIONS"]))
    (inputs / "program.c").write_text(
        "#include <math.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        "#define NAMES 500\nstruct pair { long left, right; };\n"
        f"static const char *const names[NAMES] = {{ {names} }};\n"
        + "".join(functions)
        + f"\nlong (*const tasks[])(const struct pair *, long) = {{ {table} }};\n"
    )


def _prepare_history(inputs: Path, size: dict[str, int]) -> None:
    """Write a history for git fast-import: files that grow, change in places and are renamed."""
    chance = random.Random(14)
    stock = text(14, 400_000).splitlines()
    files = {f"src/file{number}.c": chance.choices(stock, k=120) for number in range(40)}
    out = []
    for commit in range(size["COMMITS"]):
        message = f"Change {commit}: {chance.choice(stock)}"
        stamp = f"Ada Example <ada@example.org> {1_600_000_000 + commit * 3600} +0000"
        out.append(f"commit refs/heads/main\nauthor {stamp}\ncommitter {stamp}")
        out.append(f"data {len(message)}\n{message}")
        for path in list(files) if commit == 0 else chance.sample(sorted(files), 6):
            lines = files[path]
            for _ in range(5):
                lines[chance.randrange(len(lines))] = chance.choice(stock)
            lines.insert(chance.randrange(len(lines)), chance.choice(stock))
            body = "\n".join(lines) + "\n"
            out.append(f"M 100644 inline {path}\ndata {len(body)}\n{body}")
    (inputs / "history.txt").write_text("\n".join(out) + "\n")


def _prepare_redis(inputs: Path, size: dict[str, int]) -> None:
    """Write the commands that fill the server and those that read all of it back."""
    chance = random.Random(15)
    words = _words(15, 2000)
    keys = size["KEYS"]
    values = [
        "-".join(chance.choices(words, k=chance.choice((1, 2, 4, 8, 16, 60)))) for _ in range(keys)
    ]
    fill, read = [], []
    for number, value in enumerate(values):
        fill.append(f"SET text:{number} {value}")
    for bucket in range(keys // 50):
        members = range(bucket, keys, keys // 50)
        fields = " ".join(f"field{number} {values[number][:20]}" for number in members)
        items = " ".join(values[number][:40] for number in members)
        scores = " ".join(f"{chance.randint(0, 10**6)} {values[number][:24]}" for number in members)
        fill += [f"HSET record:{bucket} {fields}", f"RPUSH list:{bucket} {items}"]
        fill.append(f"ZADD rank:{bucket} {scores}")
    # Deleting and rewriting leaves the holes of a server that has run for a while.
    for number in range(0, keys, 3):
        fill.append(f"DEL text:{number}")
    for number in range(0, keys, 5):
        fill.append(f"APPEND text:{number} {'again' * chance.randint(1, 80)}")
    for number in range(0, keys, 10):
        read.append("MGET " + " ".join(f"text:{number + step}" for step in range(10)))
    for bucket in range(keys // 50):
        fields = " ".join(f"field{number}" for number in range(bucket, keys, keys // 50))
        read.append(f"HMGET record:{bucket} {fields}")
        read.append(f"LRANGE list:{bucket} 0 -1")
        read.append(f"ZRANGE rank:{bucket} 0 -1 WITHSCORES")
    (inputs / "fill.txt").write_text("\r\n".join(fill) + "\r\n")
    (inputs / "read.txt").write_text("\n".join(read) + "\n")


WORKLOADS = (
    Workload(
        name="python3",
        about="parse, compile and index modules of Python's own library",
        packages={"python3": "python3"},
        seconds=1.6,
        script='exec python3 -I "$PROGRAMS/python3.py" "$MODULES"\n',
        full={"MODULES": 45},
        small={"MODULES": 4},
    ),
    Workload(
        name="python3-malloc",
        about="the same with PYTHONMALLOC=malloc: every object comes from malloc",
        packages={"python3": "python3"},
        seconds=1.8,
        script='exec python3 -s "$PROGRAMS/python3.py" "$MODULES"\n',
        full={"MODULES": 45},
        small={"MODULES": 4},
        environment={"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"},
    ),
    Workload(
        name="perl",
        about="word index of a text: hashes of arrays, regular expressions, sorting",
        packages={"perl": "perl"},
        seconds=1.5,
        script='exec perl "$PROGRAMS/perl.pl" "$INPUT/text.txt" "$ROUNDS"\n',
        full={"TEXT_BYTES": 600_000, "ROUNDS": 2},
        small={"TEXT_BYTES": 60_000, "ROUNDS": 2},
        prepare=_prepare_text,
        environment={"PERL_HASH_SEED": "0"},
    ),
    Workload(
        name="ruby",
        about="parse JSON into objects, group, rank, rewrite, write JSON",
        packages={"ruby": "ruby"},
        seconds=1.5,
        script='exec ruby "$PROGRAMS/ruby.rb" "$INPUT/records.json" "$ROUNDS"\n',
        full={"RECORDS": 20_000, "ROUNDS": 4},
        small={"RECORDS": 1_000, "ROUNDS": 1},
        prepare=_prepare_records,
    ),
    Workload(
        name="lua",
        about="plant and drop binary trees, sort and join strings",
        packages={"lua5.4": "lua5.4"},
        seconds=1.5,
        script='exec lua5.4 "$PROGRAMS/lua.lua" "$DEPTH" "$ROUNDS"\n',
        full={"DEPTH": 15, "ROUNDS": 40},
        small={"DEPTH": 10, "ROUNDS": 6},
    ),
    Workload(
        name="jq",
        about="group, rank and reshape a list of JSON records",
        packages={"jq": "jq"},
        seconds=1.5,
        script='exec jq -f "$PROGRAMS/filter.jq" "$INPUT/records.json"\n',
        full={"RECORDS": 12_000},
        small={"RECORDS": 1_000},
        prepare=_prepare_records,
    ),
    Workload(
        name="sqlite3",
        about="fill, index, join, search, change and compact a database file",
        packages={"sqlite3": "sqlite3"},
        seconds=1.5,
        script=(
            'sqlite3 -batch shop.db "CREATE TEMP TABLE size(orders)"'
            ' "INSERT INTO size VALUES ($ORDERS)"'
            " \".read '$PROGRAMS/sqlite3.sql'\"\n"
        ),
        full={"ORDERS": 100_000},
        small={"ORDERS": 4_000},
        outputs=("shop.db",),
    ),
    Workload(
        name="redis",
        about="fill redis-server, load it with redis-benchmark, read all data back",
        packages={
            "redis-server": "redis-server",
            "redis-cli": "redis-tools",
            "redis-benchmark": "redis-tools",
        },
        seconds=2.0,
        script='exec sh "$PROGRAMS/redis.sh"\n',
        full={"KEYS": 30_000, "REQUESTS": 20_000},
        small={"KEYS": 1_000, "REQUESTS": 1_000},
        prepare=_prepare_redis,
        outputs=("data.out",),
        brings_allocator=True,
    ),
    Workload(
        name="gcc",
        about="compile a generated C file with -O2; the object file is compared",
        packages={"gcc": "gcc"},
        seconds=2.5,
        script='cp "$INPUT/program.c" . && exec gcc -O2 -g -c program.c -o program.o\n',
        full={"FUNCTIONS": 60},
        small={"FUNCTIONS": 12},
        prepare=_prepare_c,
        outputs=("program.o",),
    ),
    Workload(
        name="git",
        about="import a history, log, blame, gc --aggressive with two threads, fsck",
        packages={"git": "git"},
        seconds=2.0,
        script='exec sh "$PROGRAMS/git.sh"\n',
        full={"COMMITS": 150},
        small={"COMMITS": 30},
        prepare=_prepare_history,
        outputs=("log.out", "follow.out", "blame.out", "objects.out"),
        environment={
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "init.defaultBranch",
            "GIT_CONFIG_VALUE_0": "main",
            "GIT_CONFIG_KEY_1": "gc.autoDetach",
            "GIT_CONFIG_VALUE_1": "false",
        },
    ),
    Workload(
        name="xz",
        about="compress a text with two threads and expand it again",
        packages={"xz": "xz-utils"},
        seconds=2.0,
        script=(
            'xz -T2 -6 --block-size=1MiB -c "$INPUT/text.txt" >text.xz\n'
            "xz -T2 -dc text.xz >text.out\n"
        ),
        full={"TEXT_BYTES": 2_500_000},
        small={"TEXT_BYTES": 100_000},
        prepare=_prepare_text,
        outputs=("text.xz", "text.out"),
    ),
)


def names() -> list[str]:
    """Return the names of all workloads, in the order in which they run."""
    return [workload.name for workload in WORKLOADS]


def select(wanted: list[str]) -> list[Workload]:
    """Return the named workloads in their usual order, or all if none is named."""
    unknown = [name for name in wanted if name not in names()]
    if unknown:
        raise ValueError(f"no program named '{unknown[0]}' here; there are: {', '.join(names())}")
    return [workload for workload in WORKLOADS if not wanted or workload.name in wanted]

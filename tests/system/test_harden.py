#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=1800
"""Canaries, quarantine, zeroing and guards find what they are for, and nothing in sound programs.

harden.c makes the errors.  The API tests beside their model, in one thread and in many and with forks,
and real programs run with everything on.
"""
import os
import re
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

SYSTEM = os.path.join(tap.BUILD, "system")
PROGRAM = os.path.join(SYSTEM, "harden")
LIBRARIES = {variant: os.path.join(tap.BUILD, variant, "libquarry.so")
             for variant in ("release", "debug")}
CANARY, ZERO, QUARANTINE = {"QUARRY_CANARY": "1"}, {"QUARRY_ZERO": "1"}, {"QUARRY_QUARANTINE": "1M"}
PERTURB = {"MALLOC_PERTURB_": "165"}
ALL = CANARY | ZERO | QUARANTINE


def guard(size):
    return {"QUARRY_GUARD": str(size)}


SCENARIOS = [  # arguments, variables
    (["canary"], CANARY), (["canary"], ALL), (["canary"], CANARY | guard(1)),
    (["canary"], ALL | PERTURB | guard(1)),
    (["sizes"], CANARY), (["sizes"], ALL | guard(1)),
    (["quarantine"], QUARANTINE), (["quarantine"], ALL), (["quarantine"], QUARANTINE | PERTURB),
    (["switched"], {}), (["switched"], CANARY),
    (["filled", "0"], ZERO), (["filled", "0"], ALL), (["filled", "165"], ZERO | PERTURB),
    (["filled", "219"], QUARANTINE), (["filled", "165"], ALL | PERTURB),
    (["guard", "1"], guard(1)), (["guard", "5000"], guard(5000)), (["guard", "100000"], guard("100000")),
    (["guard", "1"], guard(1) | QUARANTINE), (["guard", "5000"], guard("0x1388") | ZERO | QUARANTINE),
    (["many"], guard(1)), (["many"], ALL | guard(1)),
    (["worn"], guard(1) | QUARANTINE | {"MALLOC_MMAP_MAX_": "100"}),
]


def words(variables):
    return " ".join(f"{name}={value}" for name, value in variables.items()) or "nothing set"


def check_scenarios():
    for arguments, variables in SCENARIOS:
        for variant, library in LIBRARIES.items():
            tap.succeeds(f"{' '.join(arguments)}, {words(variables)} ({variant})", PROGRAM, *arguments,
                         preload=library, **variables)


def check_guards_are_bounded():
    for most, wanted in ((None, 16384), ("3", 3), ("0", 0)):
        variables = guard(1) | ({"MALLOC_MMAP_MAX_": most} if most else {})
        result = tap.run(PROGRAM, "many", preload=tap.LIBRARY, **variables)
        found = re.search(r"guarded=(\d+)", result.stdout)
        tap.check(f"at most {wanted} blocks have guards, with {words(variables)}",
                  result.returncode == 0 and found and int(found[1]) == wanted,
                  result.stdout + result.stderr)


def check_spared():
    """MALLOC_CHECK_=1 prints and goes on."""
    result = tap.run(PROGRAM, "spared", preload=tap.LIBRARY, MALLOC_CHECK_="1", **CANARY)
    address = result.stdout.split("\n")[0]
    tap.equal("a block that was written beyond is left alone where nothing aborts",
              result.stderr, f"quarry: free({address}): written beyond its 40 bytes\n"
                             f"quarry: realloc({address}): written beyond its 40 bytes\n")
    tap.equal("and the program goes on", result.returncode, 0)


def check_without():
    """Each scenario fails where the mode is off: it can."""
    for arguments in (["canary"], ["sizes"], ["quarantine"], ["filled", "0"], ["guard", "1"]):
        result = tap.run(PROGRAM, *arguments, preload=tap.LIBRARY)
        tap.check(f"{arguments[0]} finds nothing where nothing is set", result.returncode != 0)


def check_late():
    """A program that allocates before libc knows its environment runs on, without canaries."""
    program = os.path.join(SYSTEM, "early_linked")
    for variables in (ALL | guard(1), CANARY):
        result = tap.run(program, preload=tap.LIBRARY, **variables)
        tap.check(f"a program that allocates first of all works: {words(variables)}",
                  result.returncode == 0, result.stdout + result.stderr)


def check_api():
    """The tests of the API, with all of it on; what they ask of the default's own figures is left out."""
    runs = [("test_model", {"QUARRY_TEST_OPS": "40000"}), ("test_model_threads", {"QUARRY_TEST_OPS": "1200"}),
            ("test_realloc", {}), ("test_contract", {}), ("test_thread_end", {}), ("test_fork", {})]
    for name, more in runs:
        program = os.path.join(tap.BUILD, "debug", "tests", "api", name)
        for variables in (ALL | guard(30000), CANARY | QUARANTINE | PERTURB):
            if name == "test_fork" and "QUARRY_GUARD" not in variables:
                continue
            result = tap.run(program, timeout=900, QUARRY_VERBOSE="1", **more, **variables)
            tap.check(f"{name}, {words(variables)}", result.returncode == 0,
                      result.stdout[-2000:] + result.stderr[-2000:])


PYTHON = """
import json, threading, subprocess, hashlib
rows = [{"number": i, "text": "x" * (i % 300), "list": list(range(i % 40))} for i in range(3000)]
text = json.dumps(rows)
def work():
    assert json.loads(text) == rows
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
print(hashlib.sha256(text.encode()).hexdigest(), subprocess.run(["true"]).returncode)
"""
PERL = 'my %t; $t{$_} = "x" x ($_ % 200) for 1..5000; print join(",", map { length } @t{1..5000})'
SQLITE = """create table t(a integer primary key, b text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)
insert into t select i, hex(zeroblob(i % 300)) from n; create index u on t(b);
select count(*), sum(length(b)) from t where b > '00';"""
C = "int main(void) { return 0; }"
PROGRAMS = {
    "python3": ["python3", "-c", PYTHON], "perl": ["perl", "-e", PERL],
    "sqlite3": ["sqlite3", ":memory:", SQLITE],
    "gcc": ["sh", "-c", f"echo '{C}' | gcc -O2 -g0 -S -x c - -o -"],
}


def check_programs():
    for name, command in PROGRAMS.items():
        if not tap.check(f"{name} is installed", shutil.which(name)):
            continue
        wanted = tap.run(*command)
        for variables in (ALL | guard(40000), CANARY | QUARANTINE | PERTURB | guard(1)):
            result = tap.run(*command, preload=tap.LIBRARY, timeout=600, **variables)
            tap.check(f"{name} works with {words(variables)}",
                      (result.returncode, result.stdout, result.stderr) ==
                      (0, wanted.stdout, wanted.stderr), result.stdout[-500:] + result.stderr[-500:])


def check_figures():
    """Other values are refused, and the default stays."""
    result = tap.run(PROGRAM, "many", preload=tap.LIBRARY, QUARRY_VERBOSE="1", QUARRY_CANARY="2",
                     QUARRY_QUARANTINE="much")
    tap.check("malformed values are told", result.returncode == 0 and
              "QUARRY_CANARY: '2' is not one of: 0 .. 1" in result.stderr and
              "QUARRY_QUARANTINE: 'much' is not one of: 0 or more" in result.stderr, result.stderr)


check_scenarios()
check_guards_are_bounded()
check_spared()
check_without()
check_late()
check_figures()
check_programs()
check_api()
tap.done()

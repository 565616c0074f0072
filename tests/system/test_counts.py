#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=300
"""No more instructions, page faults or system calls than were accepted (bench/counts.json).

Instructions are compared only where the table knows the compiler; they are the same on any machine.
"""
import copy
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE),
                os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")]
import counts
import tap
from measure import RunError

INSTRUCTIONS = "instructions: no regression"
# Two files: the cost of 7 below "calls=" is the callee's, not the caller's.
DUMP = """desc: Trigger: Client Request: pair 10
ob=(1) /lib/allocator.so
fn=(1) allocate
1 5
+3 4
calls=1 0
* 7
ob=(2) /lib/other.so
fn=(2) copy
9 100
fn=(3) again
cob=(1)
cfn=(1)
calls=2 0
10 9
ob=(1)
fn=(4) release
* 1
"""


def regressions(found, accepted, kind):
    """The changes of one kind for the worse."""
    return [change for change in counts.changes(found, accepted)
            if change.kind == kind and change.worse]


def explain(changes):
    return "\n".join([*map(str, changes), counts.ACCEPT])


def test_counts():
    accepted = counts.load()
    try:
        found = counts.count_all(tap.LIBRARY)
    except RunError as error:
        tap.check("everything can be counted", False, str(error))
        return
    known = [version for version in found["instructions"] if version in accepted["instructions"]]
    if known:
        changes = regressions(found, accepted, "instructions")
        tap.check(INSTRUCTIONS, not changes, explain(changes))
    else:
        tap.skip(INSTRUCTIONS, "the table has no counts for this compiler and these flags")
    for kind in ("faults", "system calls"):
        changes = regressions(found, accepted, kind)
        tap.check(f"{kind}: no regression", not changes, explain(changes))
    test_planted(found)


def test_planted(found):
    """Each kind of regression is seen when there is one."""
    for kind in ("faults", "system calls"):
        name = next(iter(found[kind]))
        planted = copy.deepcopy(found)
        planted[kind][name] = found[kind][name] * 2 + 10
        tap.equal(f"{kind}: twice as many are noticed",
                  [change.name for change in regressions(planted, found, kind)], [name])
        tap.equal(f"{kind}: half as many are no regression",
                  regressions(found, planted, kind), [])
    accepted = {"instructions": {"gcc 1": {"pair": 10.0}}, "faults": {}, "system calls": {}}
    more = {"instructions": {"gcc 1": {"pair": 11.0}}, "faults": {}, "system calls": {}}
    tap.equal("instructions: one more is noticed",
              [str(item) for item in regressions(more, accepted, "instructions")],
              ["instructions, pair: 11, accepted 10"])
    for kind, name, empty in (("instructions", "pair", {"instructions": {"gcc 1": {}}}),
                              ("faults", "first", {"faults": {}})):
        whole = {**accepted, "faults": {"first": 14}}
        tap.equal(f"{kind}: a count that has vanished is noticed",
                  [str(item) for item in regressions({**whole, **empty}, whole, kind)],
                  [f"{kind}, {name}: none, accepted {10 if name == 'pair' else 14}"])
    other = {"instructions": {"gcc 2": {"pair": 99.0}}, "faults": {}, "system calls": {}}
    tap.equal("instructions: another compiler's are not compared",
              counts.changes(other, accepted), [])
    tap.equal("a system call never made before is noticed", [str(item) for item in regressions(
        {**other, "system calls": {"first brk": 9}}, accepted, "system calls")],
              ["system calls, first brk: 9, accepted 0"])


test_counts()
tap.equal("a dump: one object's own instructions", [
    counts.object_cost(DUMP, lambda path: path == wanted)
    for wanted in ("/lib/allocator.so", "/lib/other.so")], [10, 100])
tap.equal("a dump: which objects are the allocator's", [
    [counts.is_allocator(path, library) for path in (
        "/lib/libodd.so.2", "/lib/libodd_proxy.so", "/lib/libc.so.6", "/tmp/loops", "???")]
    for library in (None, "/lib/libodd.so.2")],
          [[False, False, True, False, False], [True, True, False, False, True]])
tap.done()

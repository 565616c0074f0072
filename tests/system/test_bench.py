#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=300
"""The benchmark runner: verdicts are right for known distributions, results are complete, and what
is wrong is said in one line.  No time is ever asserted."""
import csv
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import unittest.mock
from pathlib import Path

HERE = os.path.dirname(os.path.abspath(__file__))
TOOL = os.path.join(os.path.dirname(os.path.dirname(HERE)), "bench")
sys.path[:0] = [TOOL, os.path.dirname(HERE)]  # so that run is the one of bench
import compare
import report
import run as bench
import stats
import summary
import tap
import traced
from allocators import RIVALS, Allocator, Failure, choose
from case import Case, Place
from command import draw
from session import Plan, Session

SEEDS, MANY_SEEDS = 60, 400
KIB = {"peak_rss_kib": 1000, "peak_vss_kib": 9000, "mappings": 30, "minor_faults": 200}


# ---- Statistics ---------------------------------------------------------------------------------

def verdicts(effect, pairs, noise=0.03, spikes=0.0, seeds=SEEDS):
    """How often each verdict is given on runs of which the truth is known.

    Each pair shares a drift of the machine that its ratio has to cancel; spikes is the chance that
    a run is disturbed."""
    counts = {stats.BETTER: 0, stats.WORSE: 0, stats.CANNOT_TELL: 0}
    for seed in range(seeds):
        chance = random.Random(seed)
        values, bases = [], []
        for _ in range(pairs):
            drift = chance.uniform(1, 2)
            disturbed = 1.5 if chance.random() < spikes else 1
            values.append(drift * effect * chance.gauss(1, noise) * disturbed)
            bases.append(drift * chance.gauss(1, noise))
        counts[stats.estimate(stats.paired_ratios(values, bases)).verdict()] += 1
    return counts


def test_verdicts():
    better, worse, neither = stats.BETTER, stats.WORSE, stats.CANNOT_TELL
    for pairs in (5, 7, 11):
        found = verdicts(1, pairs, seeds=MANY_SEEDS)
        tap.check(f"{pairs} pairs, no difference: a verdict in less than 10 %",
                  found[neither] > 0.9 * MANY_SEEDS, found)
        found = verdicts(0.85, pairs)
        tap.check(f"{pairs} pairs, 15 % less: better in 95 %, worse never",
                  found[better] >= 0.95 * SEEDS and not found[worse], found)
        found = verdicts(1.18, pairs)
        tap.check(f"{pairs} pairs, 18 % more: worse in 95 %, better never",
                  found[worse] >= 0.95 * SEEDS and not found[better], found)
    found = verdicts(0.85, 11, spikes=0.15)
    tap.check("one run in seven disturbed: better or cannot tell, never worse",
              found[better] >= 0.4 * SEEDS and not found[worse], found)
    found = verdicts(0.5, 4)
    tap.equal("four pairs are too few for any verdict", found[neither], SEEDS)
    found = verdicts(0.995, 11, noise=0.0001)
    tap.equal("half a percent is too little to matter, however sure", found[neither], SEEDS)


def test_statistics():
    tap.equal("a ratio to zero is none", [stats.ratio(1, 0), stats.ratio(0, 0), stats.ratio(3, 2)],
              [None, 1.0, 1.5])
    found = stats.estimate([0.9, 1.1, 1.0, 5.0, 1.05])
    tap.check("one outlier moves neither the median nor anything beyond it",
              found.value == 1.05 and found.low == 0.9 and found.high == 5.0, found)
    tap.equal("the same data give the same interval", found,
              stats.estimate([0.9, 1.1, 1.0, 5.0, 1.05]))
    tap.equal("no pairs, no estimate", [stats.estimate([]), stats.estimate_mean([])], [None, None])
    tap.check("geometric mean", abs(stats.geometric_mean([0.5, 2, 8]) - 2) < 1e-12)
    whole = stats.estimate_mean([[0.5] * 5, [2.0] * 5])
    tap.check("a half and a double make one", abs(whole.value - 1) < 1e-12
              and whole.verdict() == stats.CANNOT_TELL, whole)


# ---- Results made up ----------------------------------------------------------------------------

def made_result(factors, seed, rounds=7, scale=1.0, output="same"):
    """A result in which each allocator's time and memory is a known multiple of glibc's."""
    chance = random.Random(seed)
    cases = []
    for name in ("one", "two"):
        drifts = [chance.uniform(1, 2) for _ in range(rounds)]
        results = {
            who: {"memory": None, "calls": {"brk": 3},
                  "runs": [{"wall_s": drift * factor * chance.gauss(1, 0.02),
                            "cpu_s": drift * factor, "user_s": drift, "system_s": 0.1,
                            **{key: value * factor for key, value in KIB.items()}}
                           for drift in drifts]}
            for who, factor in factors.items()}
        cases.append({"name": name, "group": "workload", "summary": "", "threads": 1,
                      "output": output, "results": results})
    return {"format": 1, "date": "today", "rounds": rounds, "scale": scale, "idle_s": 0,
            "machine": {"system": "s", "kernel": "k", "glibc": "g", "processors": 2,
                        "processor": "p", "huge_pages": "never"},
            "allocators": [{"name": who, "library": "x.so", "version": ""} for who in factors],
            "cases": cases, "failures": [], "instructions": {}}


def save(folder, name, result):
    path = Path(folder, name)
    path.write_text(json.dumps(result), encoding="utf-8")
    return str(path)


def verdict_of(text, case, figure):
    """The ratio and the verdict in a line of what compare prints."""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[:2] == [case, figure]:
            return float(cells[2]), cells[4]
    return None


def test_compare(folder):
    # Two days: the machine was twice as slow on the second, glibc with it.
    old = save(folder, "old.json", made_result({"glibc": 1, "quarry": 0.8, "rival": 0.9}, 1))
    new = save(folder, "new.json", made_result({"glibc": 2, "quarry": 1.2, "rival": 2.4}, 2))
    result = run_bench("compare", old, new)
    ratio, verdict = verdict_of(result.stdout, "one", "time s")
    tap.check("compare: glibc cancels what the day was like", result.returncode == 0
              and verdict == "better" and 0.7 < ratio < 0.8, result.stdout)
    ratio, verdict = verdict_of(result.stdout, "geometric mean", "peak RSS MiB")
    tap.check("compare: the mean, exactly", verdict == "better" and ratio == 0.75, result.stdout)
    data = [summary.load(Path(path)) for path in (old, new)]
    for result, factor in zip(data, (1, 9)):
        result["cases"].append(made_case("replay", "trace", glibc=[1] * 5, quarry=[factor] * 5))
        result["cases"][-1]["output"] = "same"
    result = run_bench("compare", save(folder, "a.json", data[0]), save(folder, "b.json", data[1]))
    ratio, verdict = verdict_of(result.stdout, "geometric mean", "time s")
    tap.check("compare: a replay has a row, and no part in the mean",
              verdict_of(result.stdout, "replay", "time s") == (9.0, "worse")
              and verdict == "better" and 0.7 < ratio < 0.8, result.stdout + result.stderr)
    result = run_bench("compare", old, f"{new}:rival")
    tap.check("compare: worse", verdict_of(result.stdout, "two", "time s")[1] == "worse",
              result.stdout)
    result = run_bench("compare", f"{old}:rival", f"{old}:quarry")
    ratio, verdict = verdict_of(result.stdout, "two", "CPU s")
    tap.check("compare: two allocators of one result, pair by pair",
              verdict == "better" and ratio == round(0.8 / 0.9, 3), result.stdout)
    result = run_bench("compare", old, old)
    tap.check("compare: with itself, cannot tell", "better |" not in result.stdout
              and "worse |" not in result.stdout and result.returncode == 0, result.stdout)
    few = save(folder, "few.json", made_result({"glibc": 1, "quarry": 0.5}, 3, rounds=3))
    result = run_bench("compare", old, few)
    tap.check("compare: three runs give no verdict, and that is said", "too few" in result.stdout
              and verdict_of(result.stdout, "one", "time s")[1] == "cannot tell", result.stdout)
    other = save(folder, "other.json", made_result({"glibc": 1, "quarry": 1}, 4, output="other"))
    tap.check("compare: a case with other output is pointed out",
              "one: the outputs differ" in run_bench("compare", old, other).stdout)


def test_wrong_compare(folder):
    good = save(folder, "good.json", made_result({"glibc": 1, "quarry": 1}, 5))
    small = save(folder, "small.json", made_result({"glibc": 1, "quarry": 1}, 5, scale=0.1))
    text = save(folder, "text.json", [1, 2])
    for name, arguments, words in (
            ("no such file", (good, folder + "/none"), "give a folder"),
            ("no result", (good, text), "not a result"),
            ("no such allocator", (good, good + ":nobody"), "it has: glibc, quarry"),
            ("other scales", (good, small), "run one of them again")):
        message_check(f"compare: {name}", run_bench("compare", *arguments), 2, words)


def made_case(name, group="workload", **times):
    """A case of three runs each: their times; the memory is the same for all."""
    return {"name": name, "group": group, "summary": "", "threads": 1, "output": "", "results": {
        who: {"memory": None, "calls": None, "runs": [{**KIB, "wall_s": time} for time in values]}
        for who, values in times.items()}}


def test_best_and_means():
    """The best of a row is the one whose ratio is best, and the means are over the same cases."""
    # The second run met a slow machine: by medians of seconds the slower one of the two is best.
    case = made_case("one", glibc=[1, 10, 2], quarry=[1, 10, 2], steady=[0.9, 9, 1.8],
                     odd=[1.9, 5, 1.6])
    tap.equal("the best of a row is the one with the least ratio",
              summary.best_other(case, summary.TIME, "quarry"), ("odd", 0.8))
    result = {**made_result({"glibc": 1, "quarry": 1, "steady": 1, "odd": 1}, 9, rounds=3),
              "cases": [case]}
    tap.equal("and losses are to that one",
              [loss.rival for loss in summary.losses(result, "quarry", 0.05)], ["odd"])
    tap.equal("where all others are slower, the baseline is best", summary.best_other(
        made_case("one", glibc=[1, 2], quarry=[9, 9], odd=[2, 3]), summary.TIME, "quarry"),
              ("glibc", 1.0))
    result["cases"] = [
        made_case("one", glibc=[1], quarry=[0.5], steady=[0.5], odd=[1]),
        made_case("two", "real", glibc=[1], quarry=[0.5], steady=[2], odd=[1]),
        made_case("three", glibc=[1], quarry=[4], steady=[8]),
        made_case("four", "trace", glibc=[1], quarry=[16], steady=[16], odd=[1])]
    tap.equal("means leave out what one has failed, and replays", [
        summary.mean(result, name, summary.TIME).value for name in ("quarry", "steady", "odd")],
              [0.5, 1.0, 1.0])
    text = report.format_report(result)
    tap.check("and the report says so", "over the 2 workloads and programs that every allocator"
              " finished; three left out. Replays" in text, text)
    means = next(line for line in text.splitlines() if "geometric mean" in line)
    tap.check("so does the mean of the best", means.endswith(" 0.71 / 1.00 |"), means)
    result["allocators"].append({"name": "broken", "library": "x.so", "version": ""})
    tap.check("one that finishes nothing takes nobody else's mean",
              summary.mean(result, "quarry", summary.TIME) is not None)
    result["failures"] = [{"case": "three", "allocator": "odd", "text": "three: exit\n  why\n"}]
    tap.check("a failure is listed with its reason",
              "* three: exit: why\n" in report.format_report(result))


def test_tables(folder):
    result = made_result({"glibc": 1, "quarry": 1.5, "rival": 0.5}, 6)
    found = summary.losses(result, "quarry", 0.05)
    tap.equal("losses name the best of the others", {(loss.case, loss.rival) for loss in found},
              {("one", "rival"), ("two", "rival")})
    text = report.format_report(result)
    tap.check("the report lists them", "Quarry / best" in text and "3.00" in text, text)
    page = Path(folder, "RESULTS.md")
    page.write_text(f"# Mine\n{report.OPENING}\nold\n{report.CLOSING}\nWhy: because.\n",
                    encoding="utf-8")
    report.write_into(page, text)
    written = page.read_text(encoding="utf-8")
    tap.check("a page keeps what people wrote", written.startswith("# Mine")
              and written.endswith("Why: because.\n") and "old" not in written and text in written)
    report.write_into(page, text)
    tap.equal("and writing it again changes nothing", page.read_text(encoding="utf-8"), written)


def test_legend(folder):
    """Pictures name an allocator that has failed the first case."""
    result = made_result({"glibc": 1, "quarry": 1, "rival": 1}, 7)
    for case in result["cases"]:
        for entry in case["results"].values():
            entry["memory"] = {"timeline": [[0, 1000], [1, 2000]]}
    del result["cases"][0]["results"]["rival"]
    save(folder, "results.json", result)
    why = draw(Path(TOOL, "plots.py"), folder)
    if "matplotlib" in why:
        tap.skip("the legend names all allocators", "no python3-matplotlib")
        return
    svg = Path(folder, "memory.svg")
    tap.check("the legend names all allocators", svg.is_file() and all(
        f"<!-- {name} -->" in svg.read_text(encoding="utf-8") for name in result["cases"][1]
        ["results"]), why)


# ---- The runner ---------------------------------------------------------------------------------

def run_bench(*arguments, **environment):
    return tap.run(sys.executable, os.path.join(TOOL, "run.py"), *arguments, **environment)


def message_check(name, result, status, *words):
    tap.check(name, result.returncode == status and "Traceback" not in result.stderr
              and all(word in result.stdout + result.stderr for word in words),
              f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


def test_run(folder):
    """One small case of each group that the build always has."""
    out = os.path.join(folder, "result")
    result = run_bench("pairs", "larson", "perl", "--scale", "0.01", "--runs", "2", "--with",
                       "quarry", "--out", out, TMPDIR=folder)
    tap.check("a run of three cases", result.returncode == 0, result.stdout + result.stderr)
    data = summary.load(Path(out))
    tap.equal("results: cases and allocators", {case["name"]: list(case["results"])
                                                for case in data["cases"]},
              {name: ["glibc", "quarry"] for name in ("pairs", "larson", "perl")})
    larson = next(case for case in data["cases"] if case["name"] == "larson")
    for metric in summary.METRICS:
        tap.check(f"results: {metric.heading}", all(
            metric.values(entry) and min(metric.values(entry)) >= 0
            for entry in larson["results"].values()), larson)
    tap.check("results: its output was compared", len(larson["output"]) == 16, larson["output"])
    tap.check("results: nanoseconds of the micro-benchmarks", all(
        len(values) == 2 for found in summary.micro_rows(data).values()
        for values in found.values()) and "pair/64" in summary.micro_rows(data))
    with open(os.path.join(out, "cases.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tap.equal("CSV: a line per case and allocator", len(rows), 6)
    tap.check("the report begins with the command that was run, without folders of this machine",
              result.stdout.startswith("Made by `bench/run.py pairs larson perl --scale 0.01 --runs"
                                       " 2 --with quarry --out .../result`."),
              result.stdout)
    tap.check("tables: every part", all(words in result.stdout for words in (
        "geometric mean", "Micro-benchmarks", "System calls", "All figures")), result.stdout)
    has_matplotlib = importlib.util.find_spec("matplotlib") or tap.run(
        "/usr/bin/python3", "-c", "import matplotlib").returncode == 0
    if has_matplotlib:
        tap.check("pictures: time and memory, cases", all(
            "<svg" in Path(out, f"{name}.svg").read_text(encoding="utf-8")
            for name in ("time-memory", "cases")), os.listdir(out))
    else:
        message_check("pictures: time and memory, cases", result, 0, "python3-matplotlib")
    tap.equal("nothing is left in the temporary directory",
              [name for name in os.listdir(folder) if name.startswith("quarry-bench-")], [])


def test_command_line(folder):
    message_check("--help names the verbs", run_bench("--help"), 0, "compare", "list",
                  "MEASURING.md")
    message_check("run --help names every option", run_bench("run", "--help"), 0, "--quick",
                  "--runs", "--scale", "--allocator", "--with", "--out", "--write-results")
    message_check("list names cases and allocators", run_bench("list"), 0, "larson", "redis",
                  "glibc")
    message_check("an unknown case", run_bench("nosuch"), 2, "nosuch", "list")
    message_check("an unknown allocator", run_bench("--with", "nobody"), 2, "nobody", "glibc")
    message_check("a wrong scale", run_bench("--scale", "0"), 2, "a number above 0")
    message_check("a wrong --allocator", run_bench("--allocator", "odd"), 2, "NAME=FILE.so")
    page = Path(folder, "unmarked.md")
    page.write_text("# Mine\n", encoding="utf-8")
    result = run_bench("larson", "--quick", "--write-results", str(page))
    message_check("a page without marks is refused", result, 2, "has no lines")
    tap.check("before anything is measured", "round" not in result.stderr, result.stderr)
    message_check("no such library", run_bench("larson", "--allocator", f"odd={folder}/no.so"), 1,
                  f"there is no library {folder}/no.so")


def test_strace():
    """It is asked for only where system calls are counted."""
    with unittest.mock.patch("shutil.which", return_value=None):
        bench.check_cases([shell_case("any", "true")], False)
        try:
            bench.check_cases([shell_case("any", "true")], True)
            text = ""
        except Failure as failure:
            text = str(failure)
    tap.check("without strace no calls are counted, and that is said", "apt-get install strace"
              in text, text)


def test_rivals():
    usable, missing = choose([], [])
    tap.equal("each rival is found, or the package that has it is named",
              len(usable) + len(missing), 2 + len(RIVALS))
    try:
        choose([], ["nobody"])
        text = ""
    except ValueError as error:
        text = str(error)
    tap.check("a wanted allocator that nobody knows", "no allocator named 'nobody'" in text, text)


# ---- Sessions with planted faults ---------------------------------------------------------------

def shell_case(name, script, **more):
    return Case(name, "workload", "", 0.1,
                lambda place: ["/bin/sh", "-c", script, "sh", str(place.report)], **more)


def run_session(folder, case, library, memory=False):
    others = [Allocator("odd", library)] if library else []
    session = Session([case], [Allocator("glibc"), *others],
                      Plan(runs=2, idle=0, prove=False, memory=memory, calls=False),
                      Path(tempfile.mkdtemp(dir=folder)))
    session.run()
    return session


def odd_library(folder):
    """glibc's malloc under another name, for cases that look who they run on."""
    path = os.path.join(folder, "odd.so")
    source = ("#include <stddef.h>\nvoid *__libc_malloc(size_t);\n"
              "void *malloc(size_t size) { return __libc_malloc(size); }\n")
    subprocess.run(["gcc", "-x", "c", "-shared", "-fPIC", "-o", path, "-"], input=source, text=True,
                   check=True)
    return path


def test_sessions(folder):
    odd = odd_library(folder)
    session = run_session(folder, shell_case("good", "echo same"), odd)
    data = session.results()
    tap.check("a session keeps both runs of both", [len(entry["runs"]) for entry in
                                                    data[0]["results"].values()] == [2, 2], data)
    session = run_session(folder, shell_case("differs", "echo ${LD_PRELOAD:-none}"), odd)
    tap.check("other output under a rival: the rival is out, with the reason",
              list(session.results()[0]["results"]) == ["glibc"]
              and "standard output differs" in session.failures[0]["text"], session.failures)
    session = run_session(folder, shell_case("crash", "test -z \"$LD_PRELOAD\" || kill -ABRT $$"),
                          odd)
    tap.check("a crash under a rival: named with its signal",
              "crash under odd: died of signal 6" in session.failures[0]["text"], session.failures)
    session = run_session(folder, shell_case("broken", "exit 3"), odd)
    tap.check("a case that fails under glibc is left out", session.results() == []
              and "broken under glibc: exit status 3" in session.failures[0]["text"],
              session.failures)
    for script, what in (("true", "no report"), ("echo x >$1", "not of the form key=number")):
        session = run_session(folder, shell_case("mute", script, report=True), None)
        tap.check(f"a workload that reports wrongly: {what}",
                  session.failures and what in session.failures[0]["text"], session.failures)
    session = run_session(folder, shell_case(
        "looks", 'echo key=1 >"$1"; test "$1" = None || echo rss_over_live_mean=2 >"$1"',
        report=True, samples=True), None, memory=True)
    entry = session.entries["looks"]["glibc"]
    tap.check("a workload that samples itself does so in the memory run alone",
              [run.get("report") for run in entry.runs] == [None, None]
              and entry.memory["report"] == {"rss_over_live_mean": 2.0}, (entry, session.failures))
    missing = Case("absent", "real", "", 1, lambda place: [], programs={"no-such": "its-package"})
    tap.equal("what is not installed: its package is named", missing.missing(),
              ["no-such is not installed: apt-get install its-package"])
    place = Place(Path("x"))
    tap.equal("a case's directories", [place.inputs, place.work], [Path("x/input"), Path("x/work")])


def runs(pid):
    try:
        return bool(Path("/proc", pid, "cmdline").read_bytes())  # empty once it has ended
    except OSError:
        return False


def test_hanging_record(folder):
    """A program that hangs while it is recorded does not hold up the session."""
    case = shell_case("hangs", "echo $$ >../pid; exec sleep 100")
    place = Place(Path(folder, "hangs"))
    place.inputs.mkdir(parents=True)
    try:
        traced.record(case, place, 2.0)
        text = ""
    except Failure as failure:
        text = str(failure)
    tap.equal("recording has a time limit", text,
              "quarry_trace failed for hangs: did not finish within 2 s")
    pid = Path(folder, "hangs", "program", "pid").read_text(encoding="utf-8").strip()
    until = time.monotonic() + 20
    while runs(pid) and time.monotonic() < until:
        time.sleep(0.01)
    tap.check("and leaves no process behind", time.monotonic() < until, f"process {pid}")


test_verdicts()
test_statistics()
with tempfile.TemporaryDirectory(prefix="quarry-test-bench-") as top:
    test_compare(top)
    test_wrong_compare(top)
    test_best_and_means()
    test_legend(top)
    test_tables(top)
    test_run(top)
    test_command_line(top)
    test_strace()
    test_rivals()
    test_sessions(top)
    test_hanging_record(top)
tap.done()

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs test programs that print TAP, and counts what they say.

usage: run.py [options] SUITE: PROGRAM... [SUITE: PROGRAM...]...

A test's label is SUITE/NAME, NAME being the program's file name.  A program fails as a whole,
whatever its tests say, if it exits with another status than 0, is killed, runs out of time,
prints no plan ("1..N") or two, or does not print exactly the tests 1 to N in order.

A skipped test ("ok 3 - name # SKIP why", or the plan "1..0 # SKIP why") is one that is not
possible on this machine.  It has to be in the list of expected ones, tests/not-possible.txt,
as "LABEL :: TEST NAME" ("(all)" for a whole program), otherwise it fails.  A listed test that
does not exist any more fails too; one that turned out to be possible is only reported.

In the first 30 lines of a script, or of a program's source, a comment "runner: ..." may say:
  alone        run while nothing else runs
  slow         left out by --fast
  timeout=N    seconds until it is killed (300)

Programs find the tree in QUARRY_ROOT and the build directory in QUARRY_BUILD.
The last line is "N passed, N failed"; the exit status is 0 if all passed and there was any.
"""
import argparse
import collections
import concurrent.futures
import fnmatch
import os
import re
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALL = "(all)"
DEFAULT_TIMEOUT = 300
TAIL_LINES = 40

PLAN = re.compile(r"1\.\.(\d+)\s*(?:#\s*skip\S*\s*(.*))?$", re.IGNORECASE)
RESULT = re.compile(r"(not )?ok\b\s*(\d+)?\s*(?:-\s*)?(.*)$")
SKIP = re.compile(r"(.*?)\s*#\s*skip\b\S*\s*(.*)$", re.IGNORECASE)
MARKERS = re.compile(r"(?:#|/\*|\*|//)\s*runner:\s*([a-z0-9= ]+)")

RUNNING = set()  # processes; those left over by an interrupt are killed

Test = collections.namedtuple("Test", "label path alone slow timeout")


class Outcome:
    """What one program reported: names that passed, and (name, why) that failed or were skipped."""

    def __init__(self, test):
        self.test = test
        self.passed, self.failed, self.skipped = [], [], []
        self.seconds = 0.0
        self.logs = []

    def names(self):
        return self.passed + [name for name, _ in self.failed + self.skipped]

    def fail(self, why):
        self.failed.append((ALL, why))


def read_markers(path):
    """The markers in a script, or in the C source that a program in build/ was made from."""
    source = re.sub(r".*/build/[^/]+/(tests/.*)", os.path.join(ROOT, r"\1.c"), path)
    try:
        with open(source, encoding="utf-8", errors="replace") as file:
            head = [line for line, _ in zip(file, range(30))]
    except OSError:
        return []
    return [word for line in head for words in MARKERS.findall(line) for word in words.split()]


def make_test(suite, path):
    path = os.path.abspath(path)
    timeout, known = DEFAULT_TIMEOUT, set()
    for word in read_markers(path):
        if word.startswith("timeout="):
            timeout = float(word.removeprefix("timeout="))
        elif word in ("alone", "slow"):
            known.add(word)
        else:
            sys.exit(f"run.py: {path}: unknown marker '{word}'")
    return Test(f"{suite}/{os.path.basename(path)}", path, "alone" in known, "slow" in known,
                timeout)


def parse_tap(text, outcome):
    """Sorts the results in text into outcome; what breaks the protocol is a failure of its own."""
    planned, count, remark = None, 0, ""
    for line in text.splitlines():
        plan, result = PLAN.match(line), RESULT.match(line)
        if line.startswith("Bail out!"):
            outcome.fail(line)
        elif plan:
            if planned is not None:
                outcome.fail("printed two plans")
            planned = int(plan[1])
            if planned == 0:
                if plan[2]:
                    outcome.skipped.append((ALL, plan[2]))
                else:
                    outcome.fail("planned no tests")
        elif result:
            count += 1
            if result[2] is None or int(result[2]) != count:
                outcome.fail(f"test {count} is numbered wrongly: {line}")
            sort_result(outcome, bool(result[1]), result[3].strip(), remark)
            remark = ""
        elif line.startswith("#"):
            remark = line.lstrip("# ")
    if planned is None:
        outcome.fail("printed no plan" if text else "printed nothing")
    elif planned != count:
        outcome.fail(f"planned {planned} tests and printed {count}")


def sort_result(outcome, negated, name, remark):
    skip = SKIP.match(name)
    if skip and skip[1]:
        outcome.skipped.append((skip[1], skip[2] or remark))
    elif skip:  # cmocka writes "not ok 3 # SKIP name"; the reason is the comment above
        outcome.skipped.append((skip[2], remark))
    elif negated:
        outcome.failed.append((name, ""))
    else:
        outcome.passed.append(name)


def kill_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run_test(test, log_dir):
    outcome = Outcome(test)
    base = os.path.join(log_dir, test.label.replace("/", "."))
    outcome.logs = [base + ".out", base + ".err"]
    environment = dict(
        os.environ, QUARRY_ROOT=ROOT, QUARRY_BUILD=os.environ.get("QUARRY_BUILD", ROOT + "/build"),
        CMOCKA_MESSAGE_OUTPUT="TAP", PYTHONDONTWRITEBYTECODE="1", LC_ALL="C.UTF-8")
    environment.setdefault("ASAN_OPTIONS", "detect_leaks=0")
    environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    environment.setdefault("TSAN_OPTIONS", "halt_on_error=1")
    start = time.monotonic()
    with open(outcome.logs[0], "wb") as out, open(outcome.logs[1], "wb") as err:
        try:
            process = subprocess.Popen([test.path], stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=err, env=environment, cwd=ROOT,
                                       start_new_session=True)
        except OSError as error:
            outcome.fail(f"cannot be started: {error.strerror}")
            return outcome
        RUNNING.add(process)
        try:
            status = process.wait(test.timeout)
        except subprocess.TimeoutExpired:
            status = None
        kill_group(process)  # with whatever it has left running
        process.wait()
        RUNNING.discard(process)
    outcome.seconds = time.monotonic() - start
    with open(outcome.logs[0], encoding="utf-8", errors="replace") as file:
        parse_tap(file.read(), outcome)
    if status is None:
        outcome.fail(f"killed after {test.timeout:g} s")
    elif status < 0:
        outcome.fail(f"died of signal {-status} ({signal.strsignal(-status)})")
    elif status > 0 and not outcome.failed:
        outcome.fail(f"exit status {status} although no test failed")
    return outcome


def read_expected(path):
    """The tests that are known not to be possible everywhere: (label, name)."""
    expected = set()
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return expected
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#"):
            label, separator, name = line.partition(" :: ")
            if not separator:
                sys.exit(f"run.py: {path}:{number}: not of the form 'LABEL :: TEST NAME'")
            expected.add((label, name))
    return expected


def compare_skips(outcome, expected):
    """Turns skips that nobody expects, and expectations that went stale, into failures."""
    label = outcome.test.label
    listed = {name for at, name in expected if at == label}
    for name, why in outcome.skipped[:]:
        if name not in listed:
            outcome.skipped.remove((name, why))
            outcome.failed.append((name, f"skipped ({why}), but not in the list of not possible"))
    if not outcome.failed:
        for name in sorted(listed - set(outcome.names()) - {ALL}):
            outcome.failed.append((name, "in the list of not possible, but there is no such test"))
    return sorted((listed & set(outcome.passed)) | ({ALL} & listed if outcome.passed else set()))


def print_failure(outcome):
    for name, why in outcome.failed:
        print(f"      not ok: {name}" + (f": {why}" if why else ""))
    for path in outcome.logs:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
        if lines:
            print(f"      -- end of {os.path.relpath(path, ROOT)}")
        for line in lines[-TAIL_LINES:]:
            print("      | " + line)


def run_all(tests, jobs, log_dir, expected):
    start, outcomes, possible = time.monotonic(), [], []

    def finish(outcome):
        outcomes.append(outcome)
        possible.extend((outcome.test.label, name) for name in compare_skips(outcome, expected))
        seconds = int(time.monotonic() - start)
        word = "FAILED" if outcome.failed else "ok"
        skipped = f", {len(outcome.skipped)} not possible" if outcome.skipped else ""
        print(f"[{len(outcomes):3}/{len(tests)} {seconds:4} s] {word:6} {outcome.test.label} "
              f"({len(outcome.passed)} passed{skipped}, {outcome.seconds:.1f} s)")
        if outcome.failed:
            print_failure(outcome)
        sys.stdout.flush()

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        together = [pool.submit(run_test, test, log_dir) for test in tests if not test.alone]
        try:
            for future in concurrent.futures.as_completed(together):
                finish(future.result())
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                kill_group(process)
            raise
    for test in tests:
        if test.alone:
            finish(run_test(test, log_dir))
    return outcomes, possible


def print_summary(outcomes, possible):
    order = sorted(outcomes, key=lambda outcome: outcome.test.label)
    failed = [(o.test.label, name, why) for o in order for name, why in o.failed]
    skipped = [(o.test.label, name, why) for o in order for name, why in o.skipped]
    passed = sum(len(o.passed) for o in order)
    for title, rows in (("Failed:", failed), ("Not possible here:", skipped)):
        if rows:
            print("\n" + title)
        for label, name, why in rows:
            print(f"  {label} :: {name}" + (f" ({why})" if why else ""))
    if possible:
        print("\nPossible here, although listed as not possible:")
        for label, name in possible:
            print(f"  {label} :: {name}")
    print(f"\n{len(skipped)} not possible here")
    print(f"{passed} passed, {len(failed)} failed")
    return 0 if passed and not failed else 1


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="run.py [options] SUITE: PROGRAM... [SUITE: PROGRAM...]...")
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN",
                        help="only labels that match the pattern, or contain it")
    parser.add_argument("--fast", action="store_true", help="leave out what is marked slow")
    parser.add_argument("--list", action="store_true", help="print labels and markers, run nothing")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
                        help="programs at once (%(default)s)")
    parser.add_argument("--logs", default=os.path.join(ROOT, "build", "test-logs"), metavar="DIR",
                        help="where the output is kept (build/test-logs)")
    parser.add_argument("--expected", default=os.path.join(ROOT, "tests", "not-possible.txt"),
                        metavar="FILE", help="the list of tests that may be not possible")
    parser.add_argument("programs", nargs="*", metavar="SUITE: PROGRAM...")
    return parser.parse_args()


def collect_tests(words):
    suite, tests = None, []
    for word in words:
        if word.endswith(":"):
            suite = word[:-1]
        elif suite is None:
            sys.exit(f"run.py: '{word}' belongs to no suite; try --help")
        else:
            tests.append(make_test(suite, word))
    labels = collections.Counter(test.label for test in tests)
    for label, count in labels.items():
        if count > 1:
            sys.exit(f"run.py: {count} tests have the label {label}")
    return tests


def main():
    options = parse_arguments()
    tests = collect_tests(options.programs)
    if options.only:
        tests = [t for t in tests if any(p in t.label or fnmatch.fnmatch(t.label, p)
                                         for p in options.only)]
    if options.fast:
        tests = [t for t in tests if not t.slow]
    if options.list:
        for test in tests:
            print(test.label + " alone" * test.alone + " slow" * test.slow +
                  f" timeout={test.timeout:g}")
        return 0
    if not tests:
        print("no tests to run")
    expected = read_expected(options.expected)
    os.makedirs(options.logs, exist_ok=True)
    return print_summary(*run_all(tests, options.jobs, options.logs, expected))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        for left in RUNNING:
            kill_group(left)
        sys.exit("run.py: interrupted")

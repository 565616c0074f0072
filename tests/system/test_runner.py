#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The test runner believes no program that fails, crashes, hangs or miscounts."""
import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap

RUNNER = os.path.join(tap.ROOT, "tests", "run.py")
GOOD = "echo 1..2; echo ok 1 - a; echo ok 2 - b"


def run_scripts(scripts, expected="", options=()):
    """Runs scripts {name: text} as suite s; returns (exit status, last line, whole output)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, text in scripts.items():
            paths.append(os.path.join(folder, name))
            with open(paths[-1], "w", encoding="utf-8") as file:
                file.write("#!/bin/sh\n" + text + "\n")
            os.chmod(paths[-1], 0o755)
        list_path = os.path.join(folder, "list.txt")
        with open(list_path, "w", encoding="utf-8") as file:
            file.write(expected)
        result = tap.run(RUNNER, "--logs", os.path.join(folder, "logs"), "--expected", list_path,
                         *options, "s:", *paths)
    output = result.stdout + result.stderr
    return result.returncode, (result.stdout.splitlines() or [""])[-1], output


def counts(name, script, passed, failed, says="", expected=""):
    """One script gives so many passed and failed tests, and the exit status follows."""
    status, last, output = run_scripts({"t": script}, expected)
    tap.check(name, last == f"{passed} passed, {failed} failed" and says in output
              and status == (0 if passed and not failed else 1), f"exit status {status}\n{output}")


counts("a program that passes", GOOD, 2, 0)
counts("the plan may come last", "echo ok 1; echo ok 2; echo 1..2", 2, 0)
counts("other lines are ignored", "echo hello; echo okay; " + GOOD, 2, 0)
counts("a test that fails", "echo 1..2; echo ok 1 - a; echo not ok 2 - b; exit 1", 1, 1, "s/t :: b")
counts("a test that fails with exit status 0", "echo 1..1; echo not ok 1 - a", 0, 1)
counts("exit status without a failed test", GOOD + "; exit 3", 2, 1, "exit status 3")
counts("a crash after the last test", GOOD + "; kill -SEGV $$", 2, 1, "died of signal 11")
counts("a crash in the middle", "echo 1..2; echo ok 1; kill -ABRT $$", 1, 2, "died of signal 6")
counts("a program that hangs", "# runner: timeout=1\n" + GOOD + "; sleep 100", 2, 1,
       "killed after 1 s")
counts("fewer tests than planned", "echo 1..3; echo ok 1; echo ok 2", 2, 1, "planned 3")
counts("more tests than planned", "echo 1..1; echo ok 1; echo ok 2", 2, 1, "planned 1")
counts("no plan", "echo ok 1", 1, 1, "no plan")
counts("two plans", GOOD + "; echo 1..2", 2, 1, "two plans")
counts("a test that is numbered twice", "echo 1..2; echo ok 1; echo ok 1", 2, 1, "numbered wrongly")
counts("a test without a number", "echo 1..1; echo ok - a", 1, 1, "numbered wrongly")
counts("no output", "exit 0", 0, 1, "printed nothing")
counts("no tests planned", "echo 1..0", 0, 1, "planned no tests")
counts("a program that gives up", "echo 1..1; echo ok 1; echo 'Bail out! tired'", 1, 1, "tired")
counts("output that is no text", "printf '\\377\\n'; " + GOOD, 2, 0)

SKIPS = "echo 1..2; echo ok 1 - a; echo 'ok 2 - b # SKIP no such device'"
counts("a skip that is not listed", SKIPS, 1, 1, "not in the list")
counts("a skip that is listed", SKIPS, 1, 0, "s/t :: b (no such device)\n\n1 not possible here\n",
       "# comment\n\ns/t :: b\n")
counts("a skip that is listed for another program", SKIPS, 1, 1, "", "s/u :: b\n")
counts("a skip as cmocka writes it", "echo 1..2; echo ok 1 - a; echo '# why'; "
       "echo 'not ok 2 # SKIP b'", 1, 0, "s/t :: b (why)", "s/t :: b\n")
counts("a whole program that is skipped", "echo '1..0 # SKIP no tool'", 0, 1, "not in the list")
counts("a listed test that was possible", GOOD, 2, 0, "although listed", "s/t :: b\n")
counts("a listed test that does not exist", GOOD, 2, 1, "no such test", "s/t :: c\n")
counts("a whole program that is skipped and listed alone makes nothing pass",
       "echo '1..0 # SKIP no tool'", 0, 0, "1 not possible here", "s/t :: (all)\n")

status, last, output = run_scripts({"a": GOOD, "b": "echo 1..1; echo not ok 1", "c": GOOD})
tap.check("results are added up", status == 1 and last == "4 passed, 1 failed", output)
tap.check("the log of a failed program is shown", "| not ok 1" in output, output)
status, last, output = run_scripts({})
tap.check("no programs at all fail", status == 1 and last == "0 passed, 0 failed", output)
status, last, output = run_scripts({"a": GOOD, "ab": GOOD, "c": GOOD}, "", ["--only", "s/a*"])
tap.equal("--only takes a pattern", last, "4 passed, 0 failed")
status, last, output = run_scripts({"a": GOOD, "b": "# runner: slow\n" + GOOD}, "", ["--fast"])
tap.equal("--fast leaves out what is slow", last, "2 passed, 0 failed")
status, last, output = run_scripts({"a": "# runner: alone timeout=7"}, "", ["--list"])
tap.equal("--list shows what a test asks for", last, "s/a alone timeout=7")
status, last, output = run_scripts({"a": "# runner: quickly\n" + GOOD})
tap.check("a marker that is unknown is an error", status == 1 and "unknown marker" in output,
          output)
status, last, output = run_scripts({"a": GOOD}, "s/a: b\n")
tap.check("a list that cannot be read is an error", status == 1 and "list.txt:1" in output, output)

with tempfile.TemporaryDirectory() as place:
    one = f"test ! -e {place}/x && touch {place}/x && sleep 0.2 && rm {place}/x"
    script = f"# runner: alone\necho 1..1; {one} && echo ok 1"
    status, last, output = run_scripts({"a": script, "b": script, "c": script})
    tap.equal("tests that ask for it run alone", last, "3 passed, 0 failed")
    status, last, output = run_scripts({"a": f"(sleep 2; touch {place}/late) & {GOOD}",
                                        "b": "sleep 3; " + GOOD})
    tap.check("what a test leaves running is killed",
              last == "4 passed, 0 failed" and not os.path.exists(place + "/late"), output)

help_text = tap.run(RUNNER, "--help").stdout
missing = [word for word in re.findall(r'"(--\w+)"', open(RUNNER, encoding="utf-8").read())
           if word not in help_text]
tap.equal("--help names every option", missing, [])
tap.done()

# SPDX-License-Identifier: MIT
"""What a test written in Python needs: checks that print TAP, and commands that are run.

    import tap
    tap.check("two and two are four", 2 + 2 == 4)
    tap.done()
"""
import os
import subprocess
import sys

ROOT = os.environ.get("QUARRY_ROOT",
                      os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("QUARRY_BUILD", os.path.join(ROOT, "build"))
LIBRARY = os.path.join(BUILD, "release", "libquarry.so")

_count = 0
_failed = 0


def check(name, good, detail=""):
    """One test; detail is printed where it fails.  Returns good as a bool."""
    global _count, _failed
    _count += 1
    print(f"{'' if good else 'not '}ok {_count} - {name}", flush=True)
    if not good:
        _failed += 1
        for line in str(detail).splitlines():
            print("# " + line, flush=True)
    return bool(good)


def equal(name, got, wanted):
    return check(name, got == wanted, f"got:    {got!r}\nwanted: {wanted!r}")


def skip(name, why):
    """A test that is not possible on this machine."""
    global _count
    _count += 1
    print(f"ok {_count} - {name} # SKIP {why}", flush=True)


def run(*command, preload=None, timeout=120, cwd=ROOT, **environment):
    """Runs a command without input; its result has returncode, stdout and stderr (text)."""
    environment = dict(os.environ, **environment)
    if preload:
        environment["LD_PRELOAD"] = preload
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", timeout=timeout, cwd=cwd, env=environment, check=False)


def succeeds(name, *command, **options):
    """A test that a command exits with 0.  Returns its result."""
    result = run(*command, **options)
    check(name, result.returncode == 0,
          f"{' '.join(command)}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result


def done():
    """Prints the plan and ends the program."""
    print(f"1..{_count}", flush=True)
    sys.exit(1 if _failed else 0)

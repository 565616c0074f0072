# SPDX-License-Identifier: MIT
"""What the commands bench/run.py and tools/demo/demo.py share: how they end, and who draws."""
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from allocators import Failure


def exit_status(program: str, work: Callable[[], int]) -> int:
    """Do the work and return its exit status; or say in a line what went wrong, and return 2 if
    the command line was wrong, 130 if it was interrupted, else 1."""
    try:
        return work()
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except (Failure, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted", file=sys.stderr)
        return 130


def draw(script: Path, *arguments: str) -> str:
    """Run a script that needs matplotlib, with Debian's Python where this one lacks it; return why
    there is no picture, nothing if there is one."""
    complaint = ""
    for python in dict.fromkeys((sys.executable, "/usr/bin/python3")):
        command = [python, str(script), *arguments]
        drawn = subprocess.run(command, capture_output=True, text=True, check=False)
        if drawn.returncode == 0:
            return ""
        complaint = drawn.stderr.strip()
    return complaint

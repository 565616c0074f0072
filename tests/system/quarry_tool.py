# SPDX-License-Identifier: MIT
"""What the tests of the command quarry share: the tool, and a program whose memory is known."""
import json
import os
import struct
import subprocess

import tap

TOOL = os.path.join(tap.ROOT, "tools", "quarry", "quarry")
PROGRAM = os.path.join(tap.BUILD, "system", "quarry_known")
ENVIRONMENT = {"QUARRY_LIBRARY": tap.LIBRARY}
# Of tests/system/quarry_known.c.
BLOCKS, BLOCK_CLASS, MAPPING, RUN = 5000, 1024, 40 << 20, 100000
CACHED_RUN = 120 << 10
NO_SECCOMP = 77


def tool(*words, **options):
    """Runs the command quarry."""
    return tap.run(TOOL, *words, **ENVIRONMENT, **options)


def tool_words(*words):
    """The tool as arguments of Python; a path that others may not read would hide a refusal."""
    return ("-c", "import sys; sys.path.insert(0, sys.argv.pop(1)); from quarrytool import cli; "
            "sys.exit(cli.main(sys.argv[1:]))", os.path.dirname(TOOL), *words)


# For hooked: what the kernel says where another process's memory may not be read.
UNREADABLE_MEMORY = "memory.read = lambda pid, *_: (_ for _ in ()).throw(memory._refusal(pid, 0, 1))"


def hooked(hook, *words):
    """Runs the tool after a line of Python that changes one of its modules."""
    script = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from quarrytool import cli, kmem, "
              f"memory, procfs; {hook}; sys.exit(cli.main(sys.argv[1:]))")
    return tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL), *words, **ENVIRONMENT)


def reads(name, *words):
    """A test that a verb succeeds with --json; returns what it printed, {} where it did not."""
    result = tap.succeeds(name, TOOL, *words, "--json", **ENVIRONMENT)
    try:
        return json.loads(result.stdout)
    except ValueError:
        return {}


def refuses(name, says, *words, status=1):
    """A test that the tool gives one line that says something, and a status."""
    result = tool(*words)
    lines = result.stderr.splitlines()
    tap.check(name, result.returncode == status and len(lines) == 1 and says in lines[0]
              and not result.stdout,
              f"exit status {result.returncode}\n{result.stdout}{result.stderr}")


def under_filter(number, code):
    """The words that start the tool under a seccomp filter: code is for the call of a number, others pass.

    The status is NO_SECCOMP where there can be no filter.
    """
    script = ("import os, sys; sys.path.insert(0, sys.argv[1]); from quarrytool import tracer; "
              f"tracer._install(bytes.fromhex(sys.argv[2])) or sys.exit({NO_SECCOMP}); "
              "os.execv(sys.argv[3], sys.argv[3:])")
    code = [(0x20, 0, 0, 0), (0x15, 0, len(code), number), *code, (0x06, 0, 0, 0x7FFF0000)]
    return ["/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL),
            b"".join(struct.pack("<HBBI", *line) for line in code).hex(), TOOL]


class Ready:
    """A program that says "ready" and goes on until its input ends; usable as a context."""

    def __init__(self, command, environment=None):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)
        self.pid = str(self.process.pid)
        if self.process.stdout.readline() != "ready\n":
            self.process.communicate()
            raise EOFError(f"{command} did not get ready")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)


class Known(Ready):
    """The program, holding what it was told to."""

    def __init__(self, preload=tap.LIBRARY):
        super().__init__([PROGRAM, "hold"], dict(os.environ, LD_PRELOAD=preload))

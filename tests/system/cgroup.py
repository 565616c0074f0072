# SPDX-License-Identifier: MIT
"""A memory cgroup with a limit, where one can be made."""
import contextlib
import os

PLACES = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"))


@contextlib.contextmanager
def limited(limit_bytes):
    """The folder of a new cgroup, removed at the end; None where none can be made."""
    folder = _make(limit_bytes)
    try:
        yield folder
    finally:
        if folder:
            os.rmdir(folder)


def _make(limit_bytes):
    for parent, file in PLACES:
        folder = os.path.join(parent, f"quarry-test-{os.getpid()}")
        if not os.path.exists(os.path.join(parent, "cgroup.procs")):
            continue
        try:
            os.mkdir(folder)
        except OSError:
            continue
        try:
            with open(os.path.join(folder, file), "w", encoding="ascii") as limit:
                limit.write(str(limit_bytes))
            return folder
        except OSError:
            os.rmdir(folder)
    return None


def inside(folder, *command):
    """The command, to be run in that cgroup."""
    return ["sh", "-c", f'echo $$ >"{folder}/cgroup.procs" && exec "$@"', "sh", *command]

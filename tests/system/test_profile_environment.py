#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The profile's variables mean what docs/PROFILE.md says; a value that is none is told in one line."""
import os
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import tool

PROGRAM = os.path.join(tap.BUILD, "system", "profiled")
PRELOAD = f"{os.path.join(tap.BUILD, 'release', 'libquarry_profile.so')}:{tap.LIBRARY}"
DEFAULT = 512 << 10
MAGIC = b"QHEAPPR\0"
# Goes to another folder, and changes its environment, before it allocates.
WANDERER = """
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words)
{
    void *volatile block;
    if (count < 2 || chdir(words[1]) != 0 || setenv("QUARRY_PROFILE_RATE", "7", 1) != 0) return 1;
    block = malloc(1000);
    return block == NULL;
}"""

work = tempfile.TemporaryDirectory()


def run(*command, **environment):
    """Runs a command with the profiler preloaded, in the test's folder."""
    return tap.run(*command, preload=PRELOAD, cwd=environment.pop("cwd", work.name), **environment)


def profiles(folder):
    """The profiles that are in a folder, which are removed: by name, their rates."""
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            with open(path, "rb") as file:
                magic, rate = struct.unpack("<8s8xQ", file.read(24).ljust(24, b"\0"))
            found[name] = rate if magic == MAGIC else None
            os.remove(path)
    return found


def check_rates():
    path = os.path.join(work.name, "made.prof")
    for text, rate in {"1": 1, "4096": 4096, "64K": 65536, "64k": 65536, "3KB": 3072, "2MiB": 2 << 20,
                       "1M": 1 << 20, "1G": 1 << 30, "1023g": 1023 << 30, "010": 10, "": DEFAULT}.items():
        result = run(PROGRAM, "known", QUARRY_PROFILE_FILE=path, QUARRY_PROFILE_RATE=text)
        tap.check(f"a rate of '{text}' is {rate} bytes", result.returncode == 0 and not result.stderr and
                  list(profiles(work.name).values()) == [rate], result.stderr)
    for text in ("abc", "0", "0K", "64Q", "K", "-1", "+1", " 1", "1 ", "1KK", "1B", "1Kib", "1.5M", "0x10", "1T",
                 "1024G", "1099511627776", "18446744073709551617", "99999999999999999999999", "9\n9"):
        result = run(PROGRAM, "known", QUARRY_PROFILE_FILE=path, QUARRY_PROFILE_RATE=text)
        shown = text.replace("\n", "?")
        tap.check(f"a rate of '{shown}' is none: the default, and a line", result.returncode == 0 and
                  list(profiles(work.name).values()) == [DEFAULT] and
                  one_line(result, f"QUARRY_PROFILE_RATE: '{shown}'", "64K", str(DEFAULT)), result.stderr)


def one_line(result, *says):
    return result.stderr.count("\n") == 1 and result.stderr.startswith("quarry: ") and all(
        word in result.stderr for word in says)


def check_silence():
    """Who wants no profile hears nothing."""
    bad = {"QUARRY_PROFILE_RATE": "abc", "QUARRY_PROFILE_FILE": "/nonexistent/made.prof"}
    for what, variables in (("no file is named", {"QUARRY_PROFILE_RATE": "abc"}),
                            ("the name is empty", dict(bad, QUARRY_PROFILE_FILE="")),
                            ("another process is meant", dict(bad, QUARRY_PROFILE_PID="1"))):
        result = run(PROGRAM, "known", **variables)
        tap.check(f"nothing is said where {what}", result.returncode == 0 and not result.stderr and
                  not profiles(work.name), result.stderr)


def check_relative():
    inner = os.path.join(work.name, "inner")
    os.mkdir(inner)
    for name, folder in (("made.prof", work.name), ("./made.prof", work.name), ("inner/made.prof", inner),
                         ("../made.prof", os.path.dirname(work.name))):
        result = run("sh", "-c", 'echo $$; exec "$@"', "sh", PROGRAM, "known", QUARRY_PROFILE_FILE=name,
                     QUARRY_PROFILE_RATE="1")
        made = os.path.join(folder, f"made.prof.{result.stdout.strip()}")
        tap.check(f"a relative name is one in the working directory: {name}", os.path.exists(made)
                  and not result.stderr, result.stderr)
        if os.path.exists(made):
            os.remove(made)
    run("sh", "-c", 'QUARRY_PROFILE_PID=$$ QUARRY_PROFILE_FILE=made.prof exec "$@"', "sh", PROGRAM, "known")
    tap.equal("also where the process is named", profiles(work.name), {"made.prof": DEFAULT})
    wanderer = os.path.join(inner, "wanderer")
    subprocess.run(["gcc", "-x", "c", "-o", wanderer, "-"], input=WANDERER, text=True, check=True)
    result = run(wanderer, inner, QUARRY_PROFILE_FILE="made.prof", QUARRY_PROFILE_RATE="9")
    os.remove(wanderer)
    tap.equal("what counts is the directory at the start, and the environment", (
        result.stderr, list(profiles(work.name).values()), profiles(inner)), ("", [9], {}))
    os.rmdir(inner)
    gone = run("sh", "-c", 'mkdir inner; cd inner; rmdir ../inner; export QUARRY_PROFILE_FILE=made.prof; exec "$@"',
               "sh", PROGRAM, "known")
    tap.check("a directory that is gone is told", gone.returncode == 0 and one_line(
        gone, "QUARRY_PROFILE_FILE: 'made.prof'", "No such file or directory", "absolute"), gone.stderr)


def refused(what, path, *says, words=("known",), before=""):
    """A test that the program goes on without a profile, and one line says why."""
    result = run("sh", "-c", f'{before} export QUARRY_PROFILE_FILE; exec "$@"', "sh", PROGRAM, *words,
                 QUARRY_PROFILE_PID="1", SPARE=path)
    tap.check(f"there is no profile, and a line says so: {what}", result.returncode == 0 and one_line(
        result, "QUARRY_PROFILE_FILE: '", "there is no profile", *says), result.stderr)


def check_files():
    """The shell itself, which is preloaded, too, is not meant: the variables are set in it."""
    every = "unset QUARRY_PROFILE_PID; QUARRY_PROFILE_FILE=$SPARE;"
    one = "QUARRY_PROFILE_PID=$$; QUARRY_PROFILE_FILE=$SPARE;"
    nowhere = os.path.join(work.name, "no", "such")
    refused("a folder that is not there", nowhere, nowhere + ".", "No such file or directory", "folder", before=every)
    refused("once, also where children follow", nowhere, nowhere + ".", words=("fork",), before=every)
    refused("for one process", nowhere, nowhere + "'", "No such file or directory", before=one)
    refused("a relative name", "no/such", nowhere + ".", "No such file or directory", before=every)
    refused("a folder that is a file", PROGRAM + "/made", "Not a directory", "folder", before=every)
    refused("a folder where nobody can write", "/proc/made.prof", "/proc/made.prof.", "folder", before=every)
    refused("a folder in the place of the file", work.name, "no regular file", "another", before=one)
    refused("a name that is too long", work.name + "/" + "x" * 5000, "File name too long", "shorter", before=every)
    refused("a part that is too long", work.name + "/" + "x" * 300, "File name too long", "shorter", before=every)
    refused("a name of two lines", "no/such\nfile", "no/such?file", before=every)
    refused("no room", "made.prof", "File too large", "room", before="ulimit -f 1;" + every)
    tap.equal("and nothing is left behind", profiles(work.name), {})


def check_tool():
    """quarry profile gives all of them."""
    path = os.path.join(work.name, "made.prof")
    result = tool("profile", "-q", "-o", path, "--rate=64K", "--", PROGRAM, "known")
    tap.check("quarry profile says nothing of them", result.returncode == 0 and not result.stderr, result.stderr)
    tap.equal("and has the rate that was asked for", profiles(work.name), {"made.prof": 65536})


check_rates()
check_silence()
check_relative()
check_files()
check_tool()
work.cleanup()
tap.done()

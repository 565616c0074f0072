#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=600
"""quarry oom --demo kills a child in a control group of its own, leaves nothing behind, and touches
nothing else; where no group can be made it shows a limit, and says what is missing."""
import errno
import glob
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import cgroup
import tap
from quarry_tool import ENVIRONMENT, TOOL, reads, refuses, tool

MIB = 1 << 20
PATCHED = ("import sys; sys.path.insert(0, sys.argv.pop(1)); from pathlib import Path; "
           "from quarrytool import cli, oom, oomchild, oomdemo, oomgroup; "
           "exec(sys.argv.pop(1)); sys.exit(cli.main(sys.argv[1:]))")
IN_GROUP = ("a child is killed in a group of its own", "the one with the highest weight is killed",
            "the kernel's report is explained", "QUARRY_LIMIT=auto: NULL, and nobody dies",
            "a share for each: NULL, and nobody dies", "the group is gone",
            "only the group is written to", "a group that is there already is left alone",
            "SIGINT leaves nothing behind", "SIGTERM leaves nothing behind",
            "SIGQUIT leaves nothing behind", "SIGUSR1 leaves nothing behind",
            "two SIGINT leave nothing behind", "SIGKILL leaves no process behind",
            "a child outside of the group takes nothing", "without the library, a part is left out",
            "a process in a group above without room lives")


def patched(change, *words):
    """The tool, something in it being replaced."""
    return tap.run("/usr/bin/python3", "-B", "-c", PATCHED, os.path.dirname(TOOL), change, "oom",
                   *words, **ENVIRONMENT)


def can_make():
    with cgroup.limited(64 * MIB) as folder:
        return folder is not None


def groups():
    return set(glob.glob("/sys/fs/cgroup/**/quarry-oom-*", recursive=True))


def log_is_read():
    try:
        os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
        return True
    except OSError:
        return False


# ---- In a group ----------------------------------------------------------------------------------

def check_parts():
    shown = reads(IN_GROUP[0], "oom", "--demo")
    parts = shown.get("parts") or [{}]
    killed = parts[0]
    before = {seen["pid"]: seen for seen in killed.get("before", [])}
    victim = before.get(killed.get("killed"), {})
    tap.check(IN_GROUP[1], shown.get("as_expected") and killed["kills"] in (1, 2)
              and victim.get("adjustment") == 800 and victim["memory"] == min(
                  seen["memory"] for seen in before.values())
              and victim["points"] == max(seen["points"] for seen in before.values())
              and sorted(killed["statuses"].values()) == (
                  [-signal.SIGKILL] * killed["kills"] + [0] * (3 - killed["kills"])), shown)
    text = " ".join(line for line, _ in killed.get("report", []))
    tap.check(IN_GROUP[2], "may not be read" in killed.get("report_note", "") if not log_is_read() else (
        f"Killed process {killed.get('killed')} (greedy-800)" in text
        and os.path.basename(shown.get("group", "?")) in text), killed)
    for name, part, count, least in zip(IN_GROUP[3:5], parts[1:] + [{}, {}], (1, 3), (90, 20)):
        taken = [seen["taken"] for seen in part.get("before", [])]
        tap.check(name, part.get("kills") == 0 and part["went_on"]
                  and list(part["statuses"].values()) == [0] * count
                  and list(part["refusals"].values()) == ["ENOMEM"] * count
                  and min(taken) >= least * MIB, part)
    tap.check(IN_GROUP[5], shown.get("group") and not os.path.exists(shown["group"]) and not groups(),
              groups())


def check_writes():
    """What it and its children open for writing, make and remove in /sys and /proc/sys."""
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "calls")
        result = tap.run("strace", "-f", "-o", log, "-e", "trace=openat,open,mkdir,mkdirat,rmdir,unlinkat",
                         TOOL, "oom", "--demo", "--json", **ENVIRONMENT)
        with open(log, encoding="utf-8") as file:
            touched = [line for line in file if re.search(r'"/(sys|proc/sys)/', line) and (
                "O_WRONLY" in line or "O_RDWR" in line or re.search(r"(mkdir|rmdir|unlink)", line))]
    paths = {re.search(r'"(/[^"]+)"', line)[1] for line in touched}
    group = next((re.match(r".*quarry-oom-\d+-\d+", path)[0] for path in paths
                  if "quarry-oom-" in path), "?")
    tap.check(IN_GROUP[6], result.returncode == 0 and len(paths) >= 4 and all(
        path == group or path.startswith(group + "/") for path in paths), "".join(touched))


def check_foreign():
    """One of the name it would take, and one that has taken the place of its own."""
    change = """
import os
def tried():
    parent = next(oomgroup._own_folders())[0]
    there = parent / f"quarry-oom-{os.getpid()}-0"
    there.mkdir()
    with oomgroup.made(64 << 20, False) as group:
        assert group.folder != there and group.folder.parent == parent, group.folder
        group.folder.rmdir()
        group.folder.mkdir()
    left = [there.exists(), group.folder.exists()]
    there.rmdir()
    group.folder.rmdir()
    print(left)
tried()
sys.exit(0)
"""
    result = patched(change)
    tap.equal(IN_GROUP[7], result.stdout.strip() + result.stderr, "[True, True]")


def check_signals():
    for name, signals in zip(IN_GROUP[8:14], ((signal.SIGINT,), (signal.SIGTERM,),
                                              (signal.SIGQUIT,), (signal.SIGUSR1,),
                                              (signal.SIGINT, signal.SIGINT), (signal.SIGKILL,))):
        process = subprocess.Popen([TOOL, "oom", "--demo"], stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, env=dict(
                                       os.environ, COLUMNS="1000", PYTHONUNBUFFERED="1", **ENVIRONMENT),
                                   start_new_session=True)
        folder, said = None, []
        for line in process.stdout:
            said.append(line)
            found = re.match(r"Control group (\S+)", line)
            folder = found[1] if found else folder
            if "greedy-0 " in line:
                break
        with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
            members = [int(pid) for pid in file.read().split()]
        for number in signals:
            os.killpg(process.pid, number)
        said.append(process.communicate(timeout=60)[0])
        gone = ended(members)
        if signals == (signal.SIGKILL,):
            left = False
            os.rmdir(folder)
            expected = -signal.SIGKILL
        else:
            left, expected = os.path.exists(folder), 130
        tap.check(name, members and gone and not left and process.returncode == expected,
                  f"{members} {gone} {left} {process.returncode}\n{''.join(said)}")


def ended(pids):
    """Whether all of these have ended, within a while."""
    for _ in range(200):
        if not any(running(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def check_outside():
    result = patched("oomgroup.Group.join = lambda self: None", "--demo", "--json")
    tap.check(IN_GROUP[14], result.returncode == 1 and "is not in /sys/fs/cgroup" in result.stderr
              and not result.stdout and not groups(), result.stdout + result.stderr)


def check_library():
    result = tap.run(TOOL, "oom", "--demo", QUARRY_LIBRARY="/nonexistent", COLUMNS="200")
    tap.check(IN_GROUP[15], result.returncode == 0 and "killed by SIGKILL" in result.stdout
              and "there is no /nonexistent" in result.stdout, result.stdout + result.stderr)


def check_room():
    """The tool in a group of 100 MiB, with one that would be the first to be killed there."""
    with cgroup.limited(100 * MIB) as folder:
        sentinel = subprocess.Popen(cgroup.inside(
            folder, "sh", "-c", "echo 1000 >/proc/self/oom_score_adj && exec sleep 120"))
        try:
            result = tap.run(*cgroup.inside(folder, TOOL, "oom", "--demo"), **ENVIRONMENT)
            lives = sentinel.poll() is None
        finally:
            sentinel.kill()
            sentinel.wait()
    shown = result.stdout
    tap.check(IN_GROUP[16], lives and result.returncode == 0 and f"{folder}/quarry-oom" not in shown
              and ("killed by SIGKILL" in shown or "has room for" in shown), shown + result.stderr)


# ---- Without one ---------------------------------------------------------------------------------

def check_limit():
    demo = reads("without a group", "oom", "--demo", "--no-group")
    tap.check("a limited child is refused memory, and goes on", demo.get("errno") == errno.ENOMEM
              and demo.get("went_on") == 1 and 0 < demo.get("taken", 0) <= 64 * MIB
              and demo["place"] == "rlimit", demo)
    tap.check("the settings are told", demo.get("settings", {}).get("vm.overcommit_memory") in
              ("0", "1", "2") and "swap_total" in demo, demo)
    for what, change, says in (
            ("it cannot be limited", "oom.resource.setrlimit = lambda *_: int('x')", "hard limit"),
            ("it gets nothing", "oom.DEMO_BLOCK = 1 << 50", "refused its first"),
            ("something else is wrong", "oom.DEMO_BLOCK = 0", "ZeroDivisionError")):
        result = patched(change, "--demo", "--no-group", "--json")
        tap.check(f"the demonstration tells that {what}", result.returncode == 1 and says in
                  result.stderr and result.stderr.count("\n") == 1, result.stdout + result.stderr)
    for what, change, says in (
            ("no group is mounted", "oomgroup._MOUNT = Path('/nonexistent')", "no control group"),
            ("the machine is short of memory", "oomgroup.available = lambda: 191 << 20", "191 MiB"),
            ("the machine would stop", "oomdemo.panics = lambda: True", "panic_on_oom"),
            ("swap is in the way", "oomgroup.Group.write = lambda *_: open('/nonexistent')",
             "No such file")):
        result = patched(change, "--demo")
        tap.check(f"where {what}, a limit is shown", result.returncode == 0 and says in result.stdout
                  and "RLIMIT_AS" in result.stdout and "It takes root" in result.stdout
                  and not groups(), result.stdout + result.stderr)
    refuses("oom: --no-group alone", "goes with --demo", "oom", "--no-group", status=2)


def check_version_2():
    """The files of a group of version 2, in a folder that looks like one."""
    change = """
import tempfile
with tempfile.TemporaryDirectory() as name:
    group = oomgroup.Group(Path(name), 2)
    try:
        group.set_limit(64 << 20, False)
    except OSError as error:
        print(error.strerror)
    for file in ("memory.max", "memory.oom.group"):
        group.write(file, 1)
    try:
        group.set_limit(64 << 20, True)
    except OSError as error:
        print(error.strerror)
    group.write("memory.swap.max", 1)
    group.set_limit(64 << 20, True)
    print(*(group.read(f"memory.{file}") for file in ("max", "swap.max", "oom.group")), group.limit)
    Path(name, "memory.events").write_text("low 0\\nmax 12\\noom 3\\noom_kill 2\\noom_group_kill 0\\n")
    print(group.kills())
sys.exit(0)
"""
    result = patched(change)
    tap.equal("a group of version 2 is limited, kept out of swap, and its kills are read",
              result.stdout.splitlines() + result.stderr.splitlines(),
              ["the memory controller is not enabled for the groups in it",
               "memory.swap.max is not there, so its processes would be swapped out",
               f"{64 * MIB} 0 0 {64 * MIB}", "2"])


def check_room_above():
    """The least of what the groups above have left, in folders that look like groups."""
    change = """
import tempfile
with tempfile.TemporaryDirectory() as name:
    oomgroup._MOUNT = Path(name)
    inner, above = Path(name, "above", "inner"), Path(name, "above")
    inner.mkdir(parents=True)
    for folder, limit, usage, cache in ((inner, "max", 0, 0), (above, 200 << 20, 20 << 20, 5 << 20)):
        for file, text in (("max", limit), ("current", usage), ("stat", f"anon 1\\ninactive_file {cache}\\n")):
            (folder / f"memory.{file}").write_text(str(text))
    print(oomgroup.room(inner, 2), oomgroup.room(above, 2) >> 20)
    oomgroup._prove_room(inner, 2, 185 << 20)
    try:
        oomgroup._prove_room(inner, 2, 186 << 20)
    except OSError as error:
        print(error.strerror.replace(str(above), "above"))
sys.exit(0)
"""
    result = patched(change)
    tap.equal("a group above without room is in the way", result.stdout.splitlines() +
              result.stderr.splitlines(), [
                  "None 185", "above has room for 185 MiB; 186 MiB spare others' processes"])


def check_refused():
    """Somebody who may make no groups, with the tool in a place that he may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copied = os.path.join(folder, "quarry")
        shutil.copytree(os.path.dirname(TOOL), copied)
        subprocess.run(["chmod", "-R", "a+rX", copied], check=True)
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if (
            os.geteuid() == 0) else []
        result = tap.run(*other, os.path.join(copied, "quarry"), "oom", "--demo", cwd="/")
    text = result.stdout
    tap.check("who may make no group is told so, and sees a limit", result.returncode == 0
              and "cannot be shown whom the kernel kills" in re.sub(r"\s+", " ", text)
              and "RLIMIT_AS" in text and re.search(r"denied|Read-only|no control group", text),
              text + result.stderr)


if can_make():
    check_parts()
    check_writes()
    check_foreign()
    check_signals()
    check_outside()
    check_library()
    check_room()
else:
    for each in IN_GROUP:
        tap.skip(each, "no control group with a limit on memory can be made here")
check_limit()
check_version_2()
check_room_above()
check_refused()
text = tool("oom", "--demo", "--no-group", COLUMNS="60").stdout
tap.check("the demonstration fits 60 columns", text and max(map(len, text.splitlines())) <= 60, text)
tap.done()

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=600
"""QUARRY_CONTROL, and quarry trim, limit, stats and set: what is asked for happens, and to nobody else."""
import json
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
import tap
from control_program import KIB, MIB, PROGRAM, Program, comes, field, figures, names, rss
from quarry_tool import ENVIRONMENT, TOOL, Ready, hooked, reads, refuses, tool

BLOCKS, BLOCK = 40000, 1024  # of 1000 bytes, in objects of this size
OTHER = 65534


# ---- the requests ------------------------------------------------------------------------------------

def check_trim():
    """Under a threshold that gives nothing back by itself."""
    with Program(MALLOC_TRIM_THRESHOLD_="1G") as program:
        program.do(f"fill {BLOCKS}")
        program.do("thin")
        before = rss(program.pid)
        report = reads("trim", "trim", program.pid)
        gone = before - rss(program.pid)
        tap.check("trim releases most of what was freed", 30 * MIB < report.get(
            "released_bytes", 0) <= 40 * MIB, report)
        tap.check("resident memory falls by as much", abs(gone - report.get(
            "released_bytes", 0)) <= 2 * MIB, f"{gone} less\n{report}")
        tap.check("what it says of the time before and after is what the kernel says",
                  abs(report.get("rss_before", 0) - before) <= MIB and
                  abs(report.get("rss_after", 0) - rss(program.pid)) <= MIB, report)
        tap.check("a second one finds next to nothing", reads("trim again", "trim", program.pid).get(
            "released_bytes", MIB) <= 64 * KIB)
        program.do("drop")
        text = tool("trim", program.pid, "--pad=1M").stdout
        tap.check("as text", re.fullmatch(
            rf"control_linked \({program.pid}\): released [\d.]+[KM]?B?; resident \S+ before, \S+ "
            r"after.*\n", text), text)
    with Program() as first, Program() as second:
        result = tool("trim", first.pid, second.pid, "--json")
        tap.equal("of several processes a list", [entry["pid"] for entry in json.loads(
            result.stdout or "[]")], [int(first.pid), int(second.pid)])
        result = tool("trim", first.pid, "1", second.pid)
        tap.check("one that cannot be reached does not keep it from the others",
                  result.returncode == 1 and result.stdout.count("released") == 2 and
                  result.stderr.count("\n") == 1, result.stdout + result.stderr)


def check_limit():
    with Program() as program:
        program.do("fill 5000")
        answer = reads("limit", "limit", program.pid, "20M")
        tap.check("it is in force, and what is held is told", answer.get("limit_bytes") == 20 * MIB
                  and 5000 * BLOCK <= answer.get("held_bytes", 0) <= 8 * MIB, answer)
        tap.equal("malloc fails beyond it", program.do("try 30000000"), "no")
        tap.equal("and below it does not", program.do("try 10000000"), "yes")
        tap.equal("a refusal is counted", figures(program).get("limit_refusals"), 1)
        text = tool("limit", program.pid, "1M").stdout
        tap.check("a limit below what is held is told", "limit 1.0M" in text and
                  "until memory is freed" in text, text)
        tap.equal("then nothing more is had", program.do("try 1000000"), "no")
        tap.equal("none lifts it", reads("limit none", "limit", program.pid, "none").get(
            "limit_bytes"), 0)
        tap.equal("and malloc succeeds", program.do("try 30000000"), "yes")
        tap.check("auto is that of the cgroup, or none", 0 <= reads(
            "limit auto", "limit", program.pid, "auto").get("limit_bytes", -1) < 1 << 60)
    with Program(MALLOC_TRIM_THRESHOLD_="1G") as program:
        program.do(f"fill {BLOCKS}")
        program.do("drop")
        text = tool("limit", program.pid, "20M").stdout
        tap.check("where what exceeds it is free, that is told", "goes back before malloc fails" in
                  text and "until memory" not in text, text)
        tap.equal("and malloc succeeds below it", program.do("try 10000000"), "yes")
    with Program(QUARRY_LIMIT="32M") as program:
        tap.equal("QUARRY_LIMIT takes a suffix", figures(program).get("limit_bytes"), 32 * MIB)


def check_set():
    with Program(MALLOC_TRIM_THRESHOLD_="-1") as program:
        program.do(f"fill {BLOCKS}")
        program.do("drop")
        kept = rss(program.pid)
        tap.check("at first all stays resident", kept > 35 * MIB, kept)
        answer = reads("set", "set", program.pid, "trim_threshold", "1M")
        tap.equal("the value is told", (answer.get("name"), answer.get("value")),
                  ("trim_threshold", MIB))
        tap.check("a lower threshold takes effect at once", rss(program.pid) < kept - 30 * MIB,
                  (kept, rss(program.pid)))
        tap.equal("and stays in force", figures(program).get("bound_bytes"), MIB)
        tool("set", program.pid, "trim_threshold", "-1")
        program.do(f"fill {BLOCKS}")
        program.do("drop")
        tap.check("-1 keeps everything again", rss(program.pid) > 35 * MIB, rss(program.pid))
        for name in ("top_pad", "mmap_threshold", "mmap_max", "tcache_count", "perturb"):
            tap.equal(f"{name} may be set", reads(f"set {name}", "set", program.pid, name, "100").get(
                "value"), 100)
        for name, value, shown in (("foreign", "leak", "leak"), ("drain", "never", "never"), ("drain", "1", "asked"),
                                   ("limit", "auto", "auto"), ("limit", "1G", 1 << 30)):
            tap.equal(f"{name} {value}: the value has its word", reads(
                f"set {name} {value}", "set", program.pid, name, value).get("value"), shown)
        text = tool("set", program.pid, "drain", "idle").stdout
        tap.equal("as text, too", text, f"control_linked ({program.pid}): drain is idle\n")


def check_usage():
    """What no process grants is a wrong command line: none is asked, nor need there be one."""
    for says, *words in (
            ("trim: 'x' is no number of bytes; write", "trim", "99999999", "--pad", "x"),
            ("trim: '-1' is no number of bytes", "trim", "99999999", "--pad=-1"),
            ("one word", "trim", "99999999", "--pad="),
            ("limit: '-1' is no limit; give bytes", "limit", "99999999", "-1"),
            ("limit: '12Q' is no limit", "limit", "99999999", "12Q"),
            ("limit: '0' is no limit", "limit", "99999999", "0"),
            ("'foo' is no option; one of: trim_threshold", "set", "99999999", "foo", "1"),
            ("'control' is read when the program starts", "set", "99999999", "control", "0"),
            ("set perturb: '300' is not one of: 0 .. 255", "set", "99999999", "perturb", "300"),
            ("set perturb: '1 2' is no value; it has to be one word", "set", "99999999", "perturb", "1 2"),
            ("one word", "set", "99999999", "perturb", "1\n2"),
            ("set foreign: 'no' is not one of: abort, leak, libc", "set", "99999999", "foreign", "no"),
            ("set top_pad: '?' is not one of: any number", "set", "99999999", "top_pad", b"\xff"),
            ("'quarry limit 99999998 99999999 none'", "set", "99999998", "99999999", "limit", "none")):
        refuses(f"{words[0]} {words[2:]}", says, *words, status=2)
    for words in (("trim", "--pad=0x10k"), ("limit", "none"), ("limit", "64MiB"), ("set", "top_pad", "-1")):
        refuses(f"{' '.join(words)}: the process is looked for", "there is none", words[0], "99999999",
                *words[1:])
    with Program() as program:
        result = hooked("cli.control._check = lambda *_: None", "limit", program.pid, "12Q")
        tap.check("what the process alone refuses is no wrong command line", result.returncode == 1 and
                  "'12Q' is no limit" in result.stderr, result.stderr)
        script = ("import sys; sys.path.insert(0, sys.argv[1]); from quarrytool import control; "
                  "control.Process(int(sys.argv[2]), 60).ask('set foo 1')")
        theirs = tap.run("/usr/bin/python3", "-B", "-c", script, os.path.dirname(TOOL), program.pid).stderr
        own = tool("set", "1", "foo", "1").stderr
        tap.equal("the options that the tool knows are the library's", own.partition("one of: ")[2],
                  theirs.partition("one of: ")[2])


def check_stats():
    with Program() as program:
        program.do("fill 5000")
        program.do("stats")  # stdio has its buffers from now on
        own = json.loads(program.do("stats"))
        seen = figures(program)
        tap.equal("the same figures, in the same order", list(seen), list(own))
        # The program uses its caches to write its own; the break does not move any more.
        steady = ("version", "heap_bytes", "heap_peak_bytes", "mapped_bytes", "metadata_bytes",
                  "bound_bytes", "purged_bytes", "trimmed_bytes", "limit_bytes")
        tap.equal("they agree with the program's own", {key: seen.get(key) for key in steady},
                  {key: own.get(key) for key in steady})

        def taken(stats):
            return {size["size"]: size["taken_objects"] for size in stats.get("classes", [])
                    if size["size"] == BLOCK}

        tap.equal("by class, too", taken(seen), taken(own))
        tap.check("and with what the program did", 5000 <= taken(seen).get(BLOCK, 0) <= 5128, seen)
        rows = dict(re.findall(r"^(\w+) +(\d+)  \S", tool("stats", program.pid).stdout, re.MULTILINE))
        tap.equal("as text", {key: rows.get(key) for key in steady[1:]},
                  {key: str(seen.get(key)) for key in steady[1:]})
        metrics = tool("stats", "--openmetrics", program.pid).stdout
        tap.check("as OpenMetrics", f"\nquarry_heap_bytes {seen.get('heap_bytes')}\n" in metrics and
                  metrics.endswith("# EOF\n"), metrics[:400])


# ---- the thread --------------------------------------------------------------------------------------

def check_idle():
    """Holes and dirty pages within the bound of an idle program go back without a call."""
    with Program() as program:
        program.do(f"fill {BLOCKS}")
        program.do("thin")
        left = figures(program)
        tap.check("beforehand memory is free and resident", left.get("dirty_bytes", 0) > 128 * KIB,
                  left)
        tap.check("an idle heap is reaped by itself", comes(lambda: figures(program).get(
            "resident_dirty_bytes") == 0), figures(program))
        program.do(f"fill {BLOCKS}")
        program.do("drop")
        tap.check("and again when it has worked in between", comes(lambda: figures(program).get(
            "resident_dirty_bytes") == 0), figures(program))
    settings = {"-1": 35 * MIB, "8M": 6 * MIB}
    kept = {}
    for threshold in settings:
        with Program(MALLOC_TRIM_THRESHOLD_=threshold) as program:
            program.do(f"fill {BLOCKS}")
            program.do("drop")
            time.sleep(8)
            kept[threshold] = figures(program).get("resident_dirty_bytes", 0)
    with Program(MALLOC_TRIM_THRESHOLD_="64K") as program:
        program.do(f"fill {BLOCKS // 20}")
        program.do("drop")
        time.sleep(0.2)
        before = figures(program).get("dirty_bytes", 0)
        tap.check("what exceeds a threshold for a moment goes, too",
                  comes(lambda: figures(program).get("dirty_bytes") <= 64 * KIB), (before, figures(program)))
    for threshold, least in settings.items():
        tap.check(f"what a threshold of {threshold} allows stays", kept[threshold] >= least, kept)


def check_fork():
    with Program() as program:
        program.do("fill 5000")
        child = int(program.do("fork"))
        try:
            answer = reads("limit of a fork child", "limit", str(child), "16M")
            tap.equal("it is the child's", (answer.get("pid"), answer.get("limit_bytes")),
                      (child, 16 * MIB))
            tap.equal("not its parent's", figures(program).get("limit_bytes"), 0)
            tap.check("the child has one socket, and not its parent's",
                      len(set(sockets(child)) - set(sockets(program.pid))) == len(sockets(child)) == 1,
                      (sockets(child), sockets(program.pid)))
            tap.equal("parent and child have a name each", (names(program.pid), names(child)),
                      ([f"quarry-control-{program.pid}"], [f"quarry-control-{child}"]))
        finally:
            os.kill(child, signal.SIGKILL)
        reads("the parent after the child's end", "trim", program.pid)


def sockets(pid):
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    return [target for target in links if target.startswith("socket:")]


def thread_of(pid):
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as file:
            if file.read() == "quarry-control\n":
                return task
    return None


def check_thread():
    with Program() as program:
        tap.check("the thread has a name", comes(lambda: thread_of(program.pid)))
        task = thread_of(program.pid)
        with open(f"/proc/{program.pid}/task/{task}/status", encoding="ascii") as file:
            blocked = int(re.search(r"^SigBlk:\s+(\w+)", file.read(), re.MULTILINE)[1], 16)
        tap.check("it takes no signal that the program may use", all(
            blocked >> (number - 1) & 1 for number in signal.valid_signals()
            if number not in (signal.SIGKILL, signal.SIGSTOP)), hex(blocked))
        tap.equal("a signal that the program blocks stays pending", program.do("signal"), "pending")
        socket_before = sockets(program.pid)
        tap.equal("the program closes what it does not know", program.do("close"), "closed")
        tap.check("then the thread opens another socket",
                  comes(lambda: sockets(program.pid) not in ([], socket_before)), socket_before)
        reads("and listens there", "trim", program.pid)
        pid = program.pid
    tap.equal("at its end the name is gone", names(pid), [])
    refuses("a process that has ended", "there is none", "trim", pid)
    with Program() as program:
        program.send("leave")
        tap.equal("a program whose last thread ends is not kept", program.process.wait(60), 0)
    with Program(control="") as program:
        tap.equal("without QUARRY_CONTROL there is one thread", field(program.pid, "Threads"), 1)
        tap.equal("and no socket", (sockets(program.pid), names(program.pid)), ([], []))
        refuses("which the tool tells", "start it with QUARRY_CONTROL=1, or by 'quarry run "
                "--control", "stats", program.pid)
    for form in ("shared", "archive", "static", "static-pie"):
        with Program(f"{PROGRAM}.{form}", preload="") as program:
            reads(f"a program linked {form}", "trim", program.pid)
    result = subprocess.Popen([TOOL, "run", "-q", "--control", "--limit=32M", "--", PROGRAM],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env=dict(os.environ, **ENVIRONMENT))
    result.stdout.readline()
    tap.equal("quarry run --control", reads("stats of quarry run", "stats", str(result.pid)).get(
        "limit_bytes"), 32 * MIB)
    result.communicate("")
    words = tool("run", "--control", PROGRAM)
    tap.check("its value is not the command", words.returncode == 2 and "before the command" in
              words.stderr, words.stderr)


def check_zombie():
    child = subprocess.Popen(["true"])
    pid = str(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    for words in (("trim", pid), ("limit", pid, "1M"), ("stats", pid), ("set", pid, "top_pad", "1"),
                  ("record", "-o", os.devnull, pid)):
        refuses(f"{words[0]} of a process that waits for its parent alone", f"it has ended; only its exit "
                f"status is left, until its parent ({os.getpid()}) asks", *words)
    child.wait()
    exits = {"x86_64": 60, "aarch64": 93}[os.uname().machine]  # the call that ends one thread
    script = ("import ctypes, threading; threading.Thread(target=threading.Event().wait).start(); "
              f"print('ready', flush=True); ctypes.CDLL(None).syscall({exits}, 0)")
    with Ready(["/usr/bin/python3", "-c", script], dict(
            os.environ, LD_PRELOAD=tap.LIBRARY, QUARRY_CONTROL="1")) as program:
        tap.check("a program whose first thread ends", comes(lambda: state(program.pid) == "Z"))
        reads("has not ended while others run", "trim", program.pid)
        os.kill(int(program.pid), signal.SIGKILL)


def state(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


def check_section():
    """Its own thread sleeps, looks at the heap, and is no concern of the program's."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "trace")
        command = ["strace", "-f", "-qq", "-o", path, "-E", f"LD_PRELOAD={tap.LIBRARY}",
                   "-E", "QUARRY_CONTROL=1", "-E", "MALLOC_TRIM_THRESHOLD_=-1",
                   "-E", "MALLOC_MMAP_MAX_=0", PROGRAM]
        result = subprocess.run(command, input="section\n", capture_output=True, text=True,
                                timeout=120, check=False)
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split(None, 1) for line in file if " " in line]
    tap.equal("a prepared section has no page fault", result.stdout, "ready\n0\n")
    marks = [i for i, (_, call) in enumerate(lines) if call.startswith("close(-1000")]
    tap.equal("its begin and end are in the trace", len(marks), 2)
    main = lines[marks[0]][0] if marks else ""
    inside = lines[marks[0] + 1:marks[1]] if len(marks) == 2 else []
    tap.equal("its thread makes no system call", [
        call for task, call in inside if task == main and "close resumed" not in call], [])
    tap.check("while the other one looked", any(task != main for task, _ in inside), lines[-20:])


# ---- who may -----------------------------------------------------------------------------------------

AS_OTHER = ("setpriv", f"--reuid={OTHER}", "--clear-groups")


def as_other(*words):
    """The tool, run by another user."""
    return (*AS_OTHER, "/usr/bin/python3", "-B", "-c",
            "import sys; sys.path.insert(0, sys.argv.pop(1)); from quarrytool import cli; "
            "sys.exit(cli.main(sys.argv[1:]))", os.path.dirname(TOOL), *words)


def check_users():
    if os.geteuid() != 0:
        for name in ("another user is refused", "root may act on others' processes",
                     "a set-user-ID program does not listen"):
            tap.skip(name, "not root: no other user to be")
        return
    with Program() as program:
        result = tap.run(*as_other("trim", program.pid))
        tap.check("another user is refused", result.returncode == 1 and result.stderr ==
                  f"quarry: process {program.pid}: user {OTHER} may not control this process: be its "
                  "user, or root\n" and not result.stdout, result.stdout + result.stderr)
    with Program(through=AS_OTHER) as program:
        result = tap.run(*as_other("set", program.pid, "top_pad", "5"))
        tap.check("another user's own process is his", result.returncode == 0 and
                  "top_pad is 5" in result.stdout, result.stdout + result.stderr)
        tap.equal("root may act on others' processes",
                  reads("root", "set", program.pid, "top_pad", "6").get("value"), 6)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        copy = shutil.copy(PROGRAM + ".static", folder)
        os.chmod(copy, 0o4755)
        with Program(copy, through=AS_OTHER, preload="") as program:
            if " 0 " not in uids(program.pid):
                tap.skip("a set-user-ID program does not listen", "no set-user-ID programs there")
                return
            tap.equal("a set-user-ID program does not listen",
                      (field(program.pid, "Threads"), names(program.pid)), (1, []))


def uids(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        found = re.search(r"^Uid:(.*)$", file.read(), re.MULTILINE)[1]
    return " ".join(["", *found.split(), ""])


def check_network():
    try:
        program = Program(through=("unshare", "-n"))
    except (OSError, EOFError):
        tap.skip("a process in another network namespace", "none can be made here")
        return
    with program:
        refuses("a process in another network namespace", "nsenter", "trim", program.pid)


check_trim()
check_limit()
check_set()
check_usage()
check_stats()
check_idle()
check_fork()
check_thread()
check_zombie()
check_section()
check_users()
check_network()
tap.done()

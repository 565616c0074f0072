# SPDX-License-Identifier: MIT
"""What the soak of the allocator runs again and again: each job is one command and a judgement."""
import os
import re
import signal
import subprocess
import sys
import threading

import drift
import soak_support
import tap

sys.path.insert(0, os.path.join(tap.ROOT, "tools", "demo"))
from workloads import WORKLOADS

VARIANTS = ("release", "debug", "asan")
PRELOADED = ("release", "debug")  # a library with ASan cannot be preloaded into other programs
JOB_SECONDS = 900  # no measure of speed: far above what any job needs
RUNNING, STOPPING = set(), threading.Event()

# The same work in each round, on objects of all kinds; each one is a malloc, for Python's own
# allocator is switched off.
PYTHON = """
import json, re, sys
def work():
    records = [{"id": n, "name": "x" * (n % 500), "parts": list(range(n % 90))} for n in range(4000)]
    text = json.dumps(records)
    again = json.loads(text)
    words = {word: [word] * 3 for word in re.findall(r"[0-9]+", text)}
    return again == records and len(words) > 1000
def resident():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("Anonymous:"))
for number in range(int(sys.argv[1])):
    assert work()
    print("round", number, resident(), flush=True)
print("end 0")
"""


class Wrong(Exception):
    """A run that went wrong; the text is kept."""


def run(command, seconds=JOB_SECONDS, **environment):
    """Runs a command in a group of its own, which is killed at the end; its output."""
    if STOPPING.is_set():
        raise Wrong("interrupted")
    environment = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="TAP", ASAN_OPTIONS="detect_leaks=0",
                       LC_ALL="C.UTF-8") | {name: str(value) for name, value in environment.items()}
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=environment, cwd=tap.ROOT, text=True,
                               errors="replace", start_new_session=True)
    RUNNING.add(process)
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        raise Wrong(f"{output}\nkilled after {seconds} s") from None
    finally:
        RUNNING.discard(process)
    if process.returncode:
        raise Wrong(f"{output}\nexit status {process.returncode}")
    return output


def stop():
    """Ends what runs, and lets nothing begin."""
    STOPPING.set()
    for process in list(RUNNING):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def built(variant, name):
    path = os.path.join(tap.BUILD, variant, name)
    if not os.access(path, os.X_OK):
        raise Wrong(f"{path} is not built; make soak builds it")
    return path


class Program:
    """A test program with a seed of its own in each run."""

    def __init__(self, name, variant, path, operations=0, **variables):
        self.name, self.variant, self.path, self.operations = name, variant, path, operations
        self.variables = variables

    def once(self, seed):
        """Runs it; raises Wrong."""
        variables = self.variables | {"QUARRY_TEST_SEED": hex(seed)}
        if self.operations:
            variables["QUARRY_TEST_OPS"] = self.operations
        output = run([built(self.variant, self.path)], **variables)
        if re.search(r"^not ok", output, re.MULTILINE) or not re.search(r"^ok", output, re.MULTILINE):
            raise Wrong(output)


class Repeat:
    """The same work in each round; the heap must not grow."""

    def __init__(self, name, variant, command, rounds):
        self.name, self.variant, self.command, self.rounds = name, variant, command, rounds

    def once(self, seed):
        """Runs it; raises Wrong."""
        library = os.path.join(tap.BUILD, self.variant, "libquarry.so")
        command = [word.format(rounds=self.rounds, seed=seed) if word.startswith("{") else word
                   for word in self.command]
        output = run(command, LD_PRELOAD=library, PYTHONMALLOC="malloc", PYTHONHASHSEED="1")
        good, about = drift.judge(drift.rounds(output))
        if not good or not output.endswith("end 0\n"):
            raise Wrong(f"{about}\n{output}")
        soak_support.figure(self.name, about)


class Fuzz:
    """libFuzzer on the calls of the API; what it found before is where it begins."""

    name = "calls chosen by libFuzzer, asan"

    def __init__(self, seconds):
        self.seconds = seconds
        self.corpus = os.path.join(tap.BUILD, "soak", "corpus")

    def once(self, seed):
        """Runs it; raises Wrong."""
        os.makedirs(self.corpus, exist_ok=True)
        os.makedirs(soak_support.KEPT, exist_ok=True)
        output = run([built("fuzz", "tests/soak/fuzz_calls"), f"-seed={seed % (1 << 32) or 1}",
                      f"-max_total_time={self.seconds}", "-max_len=8192", "-len_control=0",
                      "-rss_limit_mb=4096", "-print_final_stats=1",
                      f"-artifact_prefix={soak_support.KEPT}/fuzz-", self.corpus])
        found = re.search(r"number_of_executed_units: (\d+)", output)
        covered = re.findall(r"cov: (\d+)", output)
        soak_support.figure(self.name, f"{found[1] if found else '?'} inputs, "
                            f"{covered[-1] if covered else '?'} edges")


class RealProgram:
    """A program of the demonstration, its output compared with that on glibc."""

    def __init__(self, workload):
        self.name = f"{workload}: output as on glibc"
        self.workload = workload

    def once(self, _):
        """Runs it on each library, in a process of its own; raises Wrong."""
        run([sys.executable, os.path.join(soak_support.HERE, "real_program.py"), self.workload,
             *(os.path.realpath(os.path.join(tap.BUILD, variant, "libquarry.so"))
               for variant in PRELOADED)])


def all_jobs(fuzz_seconds):
    """Every job, the quick ones and the slow ones mixed."""
    jobs = [Fuzz(fuzz_seconds)]
    for variant in VARIANTS:
        slow = variant == "asan"
        for name, path, operations in (
                ("random calls beside a model", "test_model", 300000 if slow else 600000),
                ("blocks that travel between threads", "test_model_threads", 8000),
                ("threads", "test_threads", 0), ("ends of threads", "test_thread_end", 0),
                ("forks", "test_fork", 0)):
            jobs.append(Program(f"{name}, {variant}", variant, f"tests/api/{path}", operations))
        for name, path in (("threads", "test_threads"), ("forks", "test_fork")):
            jobs.append(Program(f"{name} beside the control thread, {variant}", variant,
                                f"tests/api/{path}", QUARRY_CONTROL=1))
    for name, path in (("pages", "test_page_random"), ("slabs", "test_slab_random")):
        jobs.append(Program(f"{name} beside a model, debug", "debug", f"tests/unit/{path}"))
    jobs.append(Program("fork storm, each child verified", "cuts", "tests/cuts/test_storm"))
    program = os.path.join(tap.BUILD, "soak", "repeat")
    for variant in PRELOADED:
        for mode, rounds in (("work", 400), ("threads", 80), ("forks", 24)):
            jobs.append(Repeat(f"resident size of repeated {mode}, {variant}", variant,
                               [program, mode, "{rounds}", "{seed}"], rounds))
        jobs.append(Repeat(f"resident size of a Python program that repeats itself, {variant}",
                           variant, ["/usr/bin/python3", "-c", PYTHON, "{rounds}"], 60))
    jobs.extend(RealProgram(workload.name) for workload in WORKLOADS)
    return jobs

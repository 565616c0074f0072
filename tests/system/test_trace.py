#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry_trace records what a program does, and quarry_replay does the same."""
import os
import re
import resource
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import tap
import trace_file as made

TOOLS = os.path.join(tap.BUILD, "bench", "trace")
RECORD = os.path.join(TOOLS, "quarry_trace")
REPLAY = os.path.join(TOOLS, "quarry_replay")
TRACED = os.path.join(tap.BUILD, "system", "traced")
GARBLED = 150
SEED = int(os.environ.get("TRACE_TEST_SEED", "1"))

# traced.c, make_calls; block numbers are used again last in, first out.
CALLS = """malloc 0 100
calloc 1 200
free 0
malloc 0 0
realloc 1 300
memalign 2 50 256
memalign 3 10 64
free 3
memalign 3 64 32
free 3
memalign 3 1 4096
free 3
memalign 3 4096 4096
free 3
free 2
realloc 0 5
free 0
malloc 0 7
free 0""".splitlines()
# A wrong allocator each; all but one mistake is glibc's.
WRONG = {
    "realloc forgets what the block held": """
    void *realloc(void *block, size_t size)
    { return block ? malloc(size) : __libc_malloc(size); }""",
    "calloc gives memory that is not zero": """
    void *calloc(size_t count, size_t size)
    { return memset(__libc_malloc(count * size + 1), 1, count * size); }""",
    "malloc gives the same block twice": """
    static void *last;
    void *malloc(size_t size)
    {
        if (size < 100 || size > 1000) return __libc_malloc(size);
        last = last ? last : __libc_malloc(1000);
        return last;
    }
    void free(void *block) { if (block != last) __libc_free(block); }""",
}


def record(folder, *arguments, options=(), name="made.trace"):
    """Record the traced program; return the result and the trace's path."""
    path = os.path.join(folder, name)
    result = tap.run(RECORD, "-o", path, *options, "--", TRACED, *arguments)
    return result, path


def dump(path):
    """The lines of a trace without comments and times."""
    lines = tap.run(RECORD, "--dump", path).stdout.splitlines()
    return [line for line in lines if not line.startswith(("#", "time"))]


def count_calls(path):
    return sum(not line.startswith(("thread", "start", "join")) for line in dump(path))


def replay(path, *options, preload=None):
    return tap.run(REPLAY, *options, path, preload=preload, timeout=60)


def test_calls(folder):
    result, path = record(folder, "calls")
    tap.equal("the program finds nothing amiss", (result.returncode, result.stdout), (0, ""))
    tap.equal("the trace has its calls in order", dump(path), ["thread 0", *CALLS])
    head = tap.run(RECORD, "--dump", path).stdout.splitlines()[:3]
    tap.check("the head says what was left out", "1 calls that failed" in head[2], "\n".join(head))
    tap.check("nothing else is left behind", os.listdir(folder) == ["made.trace"],
              os.listdir(folder))


def test_replays(folder, what):
    """The replay is the same on both allocators, also with every byte verified."""
    _, path = record(folder, what)
    results = {(name, options): replay(path, *options, preload=library)
               for name, library in (("glibc", None), ("quarry", tap.LIBRARY))
               for options in ((), ("--verify",))}
    good = all(result.returncode == 0 for result in results.values())
    said = {result.stdout + result.stderr for result in results.values()}
    tap.check(f"{what}: the replay succeeds everywhere, and says the same", good and len(said) == 1,
              "\n".join(f"{key}: {result.returncode} {result.stdout}{result.stderr}"
                        for key, result in results.items()))
    report = os.path.join(folder, "report")
    replay(path, "--report", report, "--idle", "0.01")
    with open(report, encoding="utf-8") as file:
        figures = dict(line.rstrip("\n").split("=") for line in file)
    tap.equal(f"{what}: the report counts the calls", int(figures["ops"]), count_calls(path))
    tap.check(f"{what}: and has the other figures", {"seconds", "rss_peak_kb", "rss_idle_kb",
                                                     "mappings"} <= set(figures), figures)


def test_threads(folder):
    _, path = record(folder, "threads")
    lines = dump(path)
    third = lines.index("thread 2")
    tap.check("threads begin and end in order", ["start 1", "join 1"] == [
        line for line in lines[:third] if line.startswith(("start 1", "join 1"))], lines)
    tap.equal("a block freed by another thread waits for its allocation",
              [line.split(" ", 2)[2] for line in lines[third + 1:]], ["after 1"] * 50)
    test_replays(folder, "threads")
    test_replays(folder, "many-threads")


def test_ends(folder):
    for how, status, calls in (("return", 0, 5000), ("_exit", 0, 5000), ("kill", 137, 5000),
                               ("segv", 139, 5000), ("abort", 134, 5000), ("exec", 0, 5000),
                               ("close", 0, 10000)):
        result, path = record(folder, how)
        tap.equal(f"nothing is lost at {how}", (result.returncode, count_calls(path)),
                  (status, calls))


def test_no_start(folder):
    """What cannot be run has one line, and leaves nothing; so does what is run and not recorded."""
    path = os.path.join(folder, "made.trace")
    static = os.path.join(folder, "static")
    subprocess.run(["gcc", "-x", "c", "-static", "-o", static, "-"], input="int main(void) { return 127; }",
                   text=True, check=True)
    for name, words, status, expected in (
            ("a command that is not there", ("--", "/nonexistent/program"), 127,
             "cannot run /nonexistent/program: No such file"),
            ("a command that nobody may run", ("--", folder), 127, f"cannot run {folder}: Permission denied"),
            ("a library that is not there", ("--library", "/nonexistent.so", "--", "true"), 2,
             "cannot read the library /nonexistent.so: No such file"),
            ("a static program that ends with 127", ("--", static), 127,
             "called no allocator that could be recorded"),
            ("a shell that does", ("--", "sh", "-c", "exit 127"), 127, "calls in")):
        with open(path, "w", encoding="utf-8") as earlier:
            earlier.write("what was recorded before")
        result = tap.run(RECORD, "-o", path, *words)
        ran = "/nonexistent" not in " ".join(words) and folder not in words
        tap.equal(f"{name}: an earlier file is there only if the command did not run",
                  os.path.exists(path) and os.path.getsize(path) == 24, not ran)
        tap.check(f"{name}: one line says so", result.returncode == status and expected in result.stderr
                  and result.stderr.count("\n") == 1, f"exit status {result.returncode}\n{result.stderr}")
        tap.check(f"{name}: nothing else is left behind", set(os.listdir(folder)) <= {"made.trace", "static"},
                  os.listdir(folder))


def test_processes(folder):
    for options, names in (((), 1), (("--follow",), 3), (("--largest",), 1)):
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            result, path = record(inner, "fork", options=options)
            found = os.listdir(inner)
            tap.check(f"children of fork are recorded as asked {options}",
                      result.returncode == 0 and len(found) == names
                      and count_calls(path) == 10000, f"{found}\n{result.stderr}")
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        path = os.path.join(inner, "made.trace")
        tap.run(RECORD, "-o", path, "--largest", "--", "sh", "-c", f"{TRACED} fork; {TRACED} calls")
        tap.equal("--largest finds the program behind a shell", count_calls(path), 10000)


def test_limit(folder):
    result, path = record(folder, "many-threads", options=("--limit", "100K"))
    calls = count_calls(path)
    tap.check("the limit ends the recording, not the program", result.returncode == 0
              and "INCOMPLETE" in result.stderr and 0 < calls < 100000, result.stderr)
    tap.check("the trace says so", "incomplete" in tap.run(RECORD, "--dump", path).stdout)
    tap.equal("and can be replayed", replay(path, "--verify").returncode, 0)


def test_raw(folder):
    """What a killed quarry_trace leaves can be converted."""
    base = os.path.join(folder, "left")
    tap.run(TRACED, "return", preload=os.path.join(TOOLS, "libquarry_trace.so"),
            QUARRY_TRACE_FILE=base)
    raw = [name for name in os.listdir(folder) if name.endswith(".0.raw")]
    raw = os.path.join(folder, raw[0])
    path = os.path.join(folder, "converted")
    tap.succeeds("a raw log is converted", RECORD, "--convert", raw, "-o", path)
    tap.equal("with all its calls", count_calls(path), 5000)
    with open(raw, "rb") as file:
        data = file.read()

    def convert(number):
        with open(raw, "wb") as file:
            file.write(made.garble(data, SEED * GARBLED + number))
        return limited(RECORD, "--convert", raw, "-o", path)

    check_garbled("damaged raw logs", convert)


def limited(*command):
    """Run a command that a wrong size must not make fill the machine's memory."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS,
                                                                (1 << 30, 1 << 30)))


def check_garbled(name, attempt):
    """Each attempt ends well, or with one line that says what is wrong."""
    wrong, refused = [], 0
    for number in range(GARBLED):
        result = attempt(number)
        refused += result.returncode == 1
        if result.returncode not in (0, 1) or len(result.stderr.splitlines()) != result.returncode:
            wrong.append(f"TRACE_TEST_SEED={SEED}, attempt {number}: "
                         f"exit status {result.returncode}\n{result.stderr}")
    tap.check(f"{name} are refused in one line, or do no harm", not wrong, "\n".join(wrong[:3]))
    tap.check(f"{name}: some were refused", refused > GARBLED / 10, refused)


def test_garbled(folder):
    _, path = record(folder, "threads")
    with open(path, "rb") as file:
        data = file.read()

    def attempt(number):
        bad = made.garble(data, SEED * GARBLED + number)
        with open(path, "wb") as file:
            file.write(made.correct(bad) if number % 8 else bad)
        return limited(*((REPLAY, "--verify") if number % 2 else (RECORD, "--dump")), path)

    check_garbled("damaged traces", attempt)


def test_refusals(folder):
    """Each kind of nonsense has a line of its own."""
    path = os.path.join(folder, "made.trace")
    malloc, free, crossing = (1, 0, 50), (4, 0), 64
    big = (1, 0, 5000)
    cases = (
        ("nothing", b"", "too short"),
        ("something else", b"\x7fELF" + bytes(200), "is no trace"),
        ("a later version", made.correct(made.header(1).replace(b"\n\1", b"\n\2")), "version 2"),
        ("no chunk", made.trace([malloc], slots=1).replace(b"QCHK", b"QCHX"), "start of a chunk"),
        ("a wrong checksum", made.trace([malloc], slots=1)[:-1] + b"3", "its checksum"),
        ("a chunk cut off", made.trace([malloc, free], slots=1)[:-1], "out of range"),
        ("an unknown operation", made.trace([(9, 0)], slots=1), "unknown operation"),
        ("a block number out of range", made.trace([malloc], slots=0), "out of range"),
        ("a size above the highest sum", made.trace([big], slots=1), "out of range"),
        ("free before malloc", made.trace([free, malloc], slots=1), "not live"),
        ("malloc twice", made.trace([malloc, malloc], slots=1), "live already"),
        ("a thread that never begins", made.trace([malloc], [free], slots=1), "never begin"),
        ("a thread that begins twice", made.trace([(6, 1), (6, 1)], [free], slots=1), "twice"),
        ("another thread's block without waiting",
         made.trace([malloc, (6, 1)], [free], slots=1), "another thread has changed"),
        ("a wait for what never comes",
         made.trace([(6, 1), malloc], [(4 + crossing, 0, 3)], slots=1), "never happens"),
        ("threads that wait for each other",
         made.trace([(6, 1), (7, 1)], [(7, 0)], slots=1), "never happens"),
    )
    for name, data, expected in cases:
        with open(path, "wb") as file:
            file.write(data)
        result = limited(REPLAY, path)
        tap.check(f"refused: {name}", result.returncode == 1 and expected in result.stderr
                  and len(result.stderr.splitlines()) == 1 and path in result.stderr,
                  f"exit status {result.returncode}\n{result.stderr}")
    good = made.trace([malloc, (6, 1), (7, 1)], [(4 + crossing, 0, 1)], slots=1)
    with open(path, "wb") as file:
        file.write(good)
    tap.equal("played: a block that another thread frees in time", limited(REPLAY, path).returncode,
              0)


def test_wrong_allocators(folder):
    """The player notices what it is there to notice."""
    _, path = record(folder, "calls")
    with open(path, "wb") as file:
        file.write(made.trace([(1, 0, 200), (1, 1, 200), (5, 0, 500), (2, 2, 64), (4, 0), (4, 1)],
                              live=2000))
    for number, (name, text) in enumerate(WRONG.items()):
        library = os.path.join(folder, f"wrong{number}.so")
        source = ("#include <stdlib.h>\n#include <string.h>\nvoid *__libc_malloc(size_t);"
                  f"void __libc_free(void *);\n{text}")
        subprocess.run(["gcc", "-x", "c", "-shared", "-fPIC", "-O1", "-fno-builtin", "-o", library,
                        "-"], input=source, text=True, check=True)
        result = replay(path, "--verify", preload=library)
        tap.check(f"noticed: {name}", result.returncode == 1 and result.stderr.count("\n") == 1,
                  f"exit status {result.returncode}\n{result.stderr}")


def test_command_lines(folder):
    existing = os.path.join(folder, "made.trace.recording")
    os.mkdir(existing)
    for arguments, status, expected in (
            ((RECORD,), 2, "give -o FILE and a command"),
            ((RECORD, "--frobnicate"), 2, "try --help"),
            ((RECORD, "-o", "x", "--limit", "5", "--", "true"), 2, "--limit '5': give"),
            ((RECORD, "-o", "x", "--limit", "5Q", "--", "true"), 2, "--limit '5Q': give"),
            ((RECORD, "-o", "x", "--follow", "--largest", "--", "true"), 2,
             "--follow and --largest exclude each other"),
            ((RECORD, "--convert", "x"), 2, "needs -o FILE"),
            ((RECORD, "--dump", "/nonexistent"), 1, "cannot read /nonexistent"),
            ((RECORD, "--dump", folder), 1, "not a regular file"),
            ((RECORD, "-o", os.path.join(folder, "made.trace"), "--", "true"), 1,
             "is there already"),
            ((REPLAY,), 2, "give the name of one trace"),
            ((REPLAY, "--idle", "x", "y"), 2, "--idle 'x': give"),
            ((REPLAY, "--check-only", "--no-check", "y"), 2,
             "--check-only and --no-check exclude each other"),
            ((REPLAY, "/nonexistent"), 1, "cannot read /nonexistent")):
        result = tap.run(*arguments, cwd=folder)
        shown = " ".join(os.path.basename(word) for word in arguments)
        tap.check(f"{shown}: said in one line", result.returncode == status
                  and expected in result.stderr.splitlines()[-1], result.stderr)
    least = re.search(r"at least (\d+)", tap.run(RECORD, "-o", "x", "--limit", "4K", "--", "true").stderr)
    for tool in (RECORD, REPLAY):
        result = tap.succeeds(f"{os.path.basename(tool)} --help", tool, "--help")
        with open(os.path.join(tap.ROOT, "docs", "man", os.path.basename(tool) + ".1"),
                  encoding="utf-8") as file:
            page = file.read()
        options = [word for word in result.stdout.split() if len(word) > 2 and word[:2] == "--"]
        missing = [word for word in options if f"Fl -{word[2:]}" not in page and word != "--help"]
        tap.equal(f"{os.path.basename(tool)}: the manual page has every option", missing, [])
        if tool == RECORD:
            tap.check("the help and the manual page name the least --limit", least and all(
                re.search(rf"at least\s+{least[1]}\b", text) for text in (result.stdout, page)), least)


for test in (test_calls, test_threads, test_ends, test_no_start, test_processes, test_limit, test_raw,
             test_garbled, test_refusals, test_wrong_allocators, test_command_lines):
    with tempfile.TemporaryDirectory() as temporary:
        test(temporary)
tap.done()

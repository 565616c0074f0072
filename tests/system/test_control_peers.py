#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=300
"""QUARRY_CONTROL with peers and users of the tool that err: impostors, garbage, an output that is full."""
import json
import os
import signal
import socket
import sys
import threading

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from control_program import Program, comes, names
from quarry_tool import TOOL, reads, refuses, tool


def raw_socket(pid):
    client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    client.settimeout(60)
    client.bind("")
    client.connect(f"\0quarry-control-{pid}")
    return client


def raw(pid, data):
    """The answer to a datagram, as text."""
    with raw_socket(pid) as client:
        client.send(data)
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
        return answer.decode()


class Impostor:
    """A socket that has the name of a process before it; usable as a context."""

    def __init__(self, pid, kind):
        self.own = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.own.bind(f"\0quarry-control-{pid}")
        self.other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.seen = []
        if kind == "is connected to another":
            self.other.bind("")
            self.own.connect(self.other.getsockname())
        elif kind != "is silent":
            threading.Thread(target=self._answer, args=(kind,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.own.close()
        self.other.close()

    def _answer(self, kind):
        try:
            while True:
                data, sender = self.own.recvfrom(4096)
                self.seen.append(data)
                self._send(kind == "answers without end", sender)
        except OSError:
            return

    def _send(self, endless, sender):
        try:
            while endless:
                self.own.sendto(b"x", sender)
            self.own.sendto(b'{"pid": 1, "released_bytes": 1}', sender)
            self.own.sendto(b"", sender)
        except ConnectionError:
            return


def check_impostor():
    """Somebody has the name already, and even answers."""
    for kind in ("is silent", "answers", "is connected to another", "answers without end"):
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(ready, 1)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.execve("/bin/sleep", ["sleep", "300"],
                      dict(os.environ, LD_PRELOAD=tap.LIBRARY, QUARRY_CONTROL="1"))
        with Impostor(child, kind) as impostor:
            os.write(go, b"1")
            comes(lambda pid=child: f"quarry-control-{pid}-1" in names(pid))
            shown = reads(f"a process whose name has an impostor who {kind}", "trim", str(child),
                          "--timeout=2")
            tap.check("the answer is its own", "rss_after" in shown and "refused_bytes" in shown, shown)
            tap.check("the impostor was asked for nothing but who he is",
                      set(impostor.seen) <= {b"ping\n"}, impostor.seen)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(ready)
        os.close(go)


def check_words():
    """What is wrong in the command line is told in a line."""
    with Program() as program:
        for value in ("-1", "0", "nan", "inf", "1e300", "86401", "soon", ""):
            result = tool("trim", program.pid, f"--timeout={value}")
            tap.check(f"--timeout={value} is refused", result.returncode == 2 and
                      "above 0, and at most 86400" in result.stderr.splitlines()[-1] and
                      "Traceback" not in result.stderr, result.stderr)
        refuses("an empty pad is refused", "'' is no value", "trim", program.pid, "--pad=", status=2)


def check_full():
    """An output that cannot be written is told in a line, and no process is passed over."""
    with Program() as first, Program() as second:
        for words in (("trim",), ("trim", "--json"), ("limit",), ("set", "top_pad")):
            after = ("77M",) if words[0] == "limit" else ("77",) if words[0] == "set" else ()
            pids = (first.pid, second.pid)
            command = (words[0], *pids, *words[1:], *after)
            result = tap.run("sh", "-c", '"$@" > /dev/full', "sh", TOOL, *command)
            tap.check(f"{' '.join(words)}, where the output is full", result.returncode == 1 and
                      result.stderr == "quarry: the output: No space left on device\n", result.stderr)
        tap.equal("all were served", [json.loads(tool("stats", "--json", pid).stdout).get(
            "limit_bytes") for pid in (first.pid, second.pid)], [77 << 20] * 2)
        result = tap.run("sh", "-c", '"$@" > /dev/full', "sh", TOOL, "stats", first.pid)
        tap.check("stats, where the output is full", result.returncode == 1 and
                  result.stderr == "quarry: the output: No space left on device\n", result.stderr)


def check_garbage():
    with Program() as program:
        pid = program.pid
        for name, data in (("nothing", b""), ("blanks", b" \n \t"), ("zeros", bytes(100)),
                           ("quotes", b'"\\\n'), ("binary", bytes(range(128, 256))),
                           ("half a request", b"set"), ("too many words", b"trim 1 2 3 4 5 6"),
                           ("a wrong number", b"trim -5"), ("a long word", b"x" * 250),
                           ("a long line", b"trim " + b" " * 100000), ("format", b"stats %n%s")):
            text = raw(pid, data)
            try:
                refused = "error" in json.loads(text)
            except ValueError:
                refused = False
            tap.check(f"garbage gets an answer in JSON: {name}", refused, repr(text))
        tap.check("the newline is not needed", "version" in raw(pid, b"ping"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as mute:
            mute.connect(f"\0quarry-control-{pid}")
            mute.send(b"set top_pad 77")
        with raw_socket(pid) as deaf, raw_socket(pid):  # one never reads, one never writes
            for _ in range(4):
                deaf.send(b"stats openmetrics\n")
            reads("one that does not read its answers does not keep others", "trim", pid)
        failures = []

        def ask(count):
            for _ in range(count):
                try:
                    if "classes" not in json.loads(raw(pid, b"stats")):
                        failures.append("no classes")
                except (OSError, ValueError) as error:
                    failures.append(repr(error))

        clients = [threading.Thread(target=ask, args=(50,)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        tap.equal("four clients at once get whole answers", failures, [])
        os.kill(int(pid), signal.SIGSTOP)
        refuses("a stopped process is told", "it is stopped", "trim", pid, "--timeout=1")
        os.kill(int(pid), signal.SIGCONT)
        reads("and answers later", "trim", pid)


check_impostor()
check_words()
check_full()
check_garbage()
tap.done()

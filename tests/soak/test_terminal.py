#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# runner: timeout=1800
"""The views of the command quarry in a terminal: what a user sees, at any width, and what is left.

The tool runs on a pseudo-terminal; pyte, a terminal emulator, makes a screen of what it writes.
"""
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import soak_support
import tap
from quarry_tool import ENVIRONMENT, TOOL, Known

try:
    import pyte
except ModuleNotFoundError:  # also where python3 is not Debian's
    os.execv("/usr/bin/python3", ["/usr/bin/python3", *sys.argv]) if sys.executable != (
        "/usr/bin/python3") else sys.exit("test_terminal.py: install python3-pyte")

WIDTHS = (40, 80, 200)
HEIGHT = 400  # one page for views that are printed once
ESCAPE = re.compile(r"\x1b|\[\??\d+(;\d+)*[A-HJKSThlm]")
COLOUR = re.compile(rb"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


def take_terminal():
    """In the child: keys are for it, also Ctrl-C, which what runs in the background ignores."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Session:
    """A command on a terminal of some size, and the screen that comes of it."""

    def __init__(self, *words, width=80, height=24, **environment):
        self.master, slave = os.openpty()
        self.written = b""
        self.resize(width, height)
        environment = dict(os.environ, TERM="xterm-256color", **ENVIRONMENT) | environment
        for name in ("COLUMNS", "LINES", *(["NO_COLOR"] if "NO_COLOR" not in environment else [])):
            environment.pop(name, None)
        self.process = subprocess.Popen([TOOL, *words], stdin=slave, stdout=slave, stderr=slave,
                                        env=environment, start_new_session=True,
                                        preexec_fn=take_terminal)
        self.settings = termios.tcgetattr(slave)
        self.slave = slave

    def resize(self, width, height):
        """The window changes; the kernel tells the program, as in a terminal window."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
        self.width, self.height = width, height
        self.from_here = len(self.written)

    def read(self, seconds, until=None):
        """Reads for some seconds, or until a pattern was written since the last resize."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if select.select([self.master], [], [], 0.05)[0]:
                try:
                    data = os.read(self.master, 65536)
                except OSError:
                    return True
                if not data:
                    return True
                self.written += data
            elif self.process.poll() is not None:
                return True
            if until and re.search(until, self.written[self.from_here:]):
                return True
        return until is None

    def screen(self, since=0, width=None):
        """What a terminal of this size shows of what was written."""
        screen = pyte.Screen(width or self.width, self.height)
        pyte.ByteStream(screen).feed(self.written[since:])
        return screen

    def end(self, seconds=60):
        """Waits; the exit status, or None where it had to be killed."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.1)
        self.read(0.2)
        killed = self.process.poll() is None
        if killed:
            self.process.kill()
        status = self.process.wait()
        restored = termios.tcgetattr(self.slave) == self.settings
        os.close(self.slave)
        os.close(self.master)
        return (None if killed else status), restored


def lines(screen):
    return [line.rstrip() for line in screen.display if line.strip()]


def whole(name, session, says):
    """Tests what a finished view leaves: its text, nothing too wide, no rest of an escape."""
    shown = lines(session.screen())
    wide = lines(session.screen(width=1000))
    text = "\n".join(shown)
    tap.check(f"{name}: no figure is cut", not re.search(r"(^|\s)\S{0,3}…", text), text)
    evidence = f"{text}\n{session.written[:300]!r}"
    tap.check(f"{name}: shows what it should", all(word in re.sub(r"\s+", " ", text)
                                                 for word in says), evidence)
    tap.check(f"{name}: nothing is wider than the terminal",
              wide and max(map(len, wide)) <= session.width,
              "\n".join(line for line in wide if len(line) > session.width))
    tap.check(f"{name}: no escape sequence is shown", not ESCAPE.search(text), evidence)


def left_clean(name, session, restored):
    """Tests that the terminal is as it was."""
    written = session.written
    tap.check(f"{name}: the cursor is there again",
              written.rfind(HIDE) < 0 or written.rfind(SHOW) > written.rfind(HIDE), written[-300:])
    tap.equal(f"{name}: the other screen is left", written.count(ENTER), written.count(LEAVE))
    tap.check(f"{name}: the terminal's settings are as before", restored)


def check_printed(known):
    """Views that are printed once."""
    views = (("map", ["map", known.pid], ["for each character", "a hole"]),
             ("why", ["why", known.pid], ["live objects", "smaps_rollup"]),
             ("lazy", ["lazy"], ["MADV_DONTNEED", "promise"]),
             ("oom", ["oom"], ["SCORE", "vm.overcommit_memory"]),
             ("oom --demo", ["oom", "--demo"], ["NULL"]),
             ("kmem", ["kmem"], ["vmalloc"]),
             ("doctor", ["doctor", known.pid], ["page size"]))
    for name, words, says in views:
        for width in WIDTHS:
            session = Session(*words, width=width, height=HEIGHT)
            status, restored = session.end(180)
            label = f"{name}, {width} columns"
            tap.check(f"{label}: ends", status in (0, 1), f"{status} {session.written[-500:]!r}")
            whole(label, session, says)
            left_clean(label, session, restored)
        soak_support.progress(f"{name}: {len(WIDTHS)} widths")
        check_plain(name, words)


def check_plain(name, words):
    for label, variables in (("TERM=dumb", {"TERM": "dumb"}), ("NO_COLOR", {"NO_COLOR": "1"})):
        session = Session(*words, width=80, height=HEIGHT, **variables)
        session.end(180)
        wrong = b"\x1b" in session.written if label == "TERM=dumb" else COLOUR.search(session.written)
        tap.check(f"{name}, {label}: no colour", session.written and not wrong, session.written[:500])


def check_live(known):
    """quarry top, renewed while the window changes, ended by each key."""
    for key, how in ((b"q", "q"), (b"Q", "Q"), (b"\x03", "Ctrl-C")):
        session = Session("top", known.pid, "-d", "0.2", width=80, height=24)
        tap.check(f"top, before {how}: shows the process", session.read(30, rb"quarry-\d+"),
                  session.written[-500:])
        for width, height in ((40, 24), (200, 30), (80, 10), (40, 3), (120, 50)):
            session.resize(width, height)
            session.read(30, rb"quarry_known.*(?s:.)*quarry_known")
            session.read(0.5)
            fits(f"top, resized to {width} x {height}", session)
        os.write(session.master, key)
        status, restored = session.end(20)
        tap.check(f"top: {how} ends it", status in (0, 130, -signal.SIGINT), status)
        left_clean(f"top, after {how}", session, restored)
        soak_support.progress(f"top, ended by {how}")


def fits(name, session):
    """Tests the last view that was drawn: it begins where the cursor is sent home."""
    start = session.written.rfind(b"\x1b[H")
    wide = lines(session.screen(since=max(start, session.from_here), width=1000))
    tap.check(f"{name}: nothing is wider than the terminal, nor higher",
              wide and max(map(len, wide)) <= session.width and len(wide) <= session.height,
              "\n".join(wide))
    text = "\n".join(lines(session.screen(since=max(start, session.from_here))))
    tap.check(f"{name}: no escape sequence is shown", not ESCAPE.search(text), text)


def check_live_plain(known):
    for label, variables in (("TERM=dumb", {"TERM": "dumb"}), ("NO_COLOR", {"NO_COLOR": "1"})):
        session = Session("top", known.pid, "-d", "0.2", "-n", "3", **variables)
        status, restored = session.end(30)
        tap.equal(f"top, {label}: ends after three views", status, 0)
        wrong = b"\x1b" in session.written if label == "TERM=dumb" else COLOUR.search(session.written)
        tap.check(f"top, {label}: no colour", b"quarry-" in session.written and not wrong,
                  session.written[:500])
        left_clean(f"top, {label}", session, restored)


def check_vanishing():
    """The process ends while it is watched."""
    with Known() as known:
        session = Session("top", known.pid, "-d", "0.2")
        session.read(30, rb"quarry-\d+")
    status, restored = session.end(30)
    tap.equal("top of a process that ends: an error", status, 1)
    left_clean("top of a process that ends", session, restored)
    tap.check("top of a process that ends: one line says so", "there is none" in "\n".join(
        lines(session.screen(since=session.written.rfind(LEAVE)))), session.written[-500:])


def check_planted():
    """What these tests look for is found where it is planted."""
    planted = Session.__new__(Session)
    planted.width, planted.height, planted.written = 40, 24, b"x" * 41 + b"\r\n[31m"
    wide = lines(planted.screen(width=1000))
    tap.check("a line that is too wide would be seen", max(map(len, wide)) > planted.width)
    tap.check("a rest of an escape sequence would be seen",
              ESCAPE.search("\n".join(lines(planted.screen()))))
    tap.check("a colour would be seen", COLOUR.search(b"\x1b[1;31mx"))


check_planted()
with Known() as process:
    check_live(process)
    check_live_plain(process)
    check_printed(process)
check_vanishing()
tap.done()

#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""quarry top, record and rt on a terminal: signals leave it as it was, and a dumb one gets plain lines."""
import contextlib
import fcntl
import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
import termios
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]
import tap
from quarry_tool import ENVIRONMENT, TOOL, Known

PATIENCE_S = 60
WIDTH = 40
ENTER, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"
# A shell with job control, which tells how its job stopped or ended, and goes on with it at a newline.
SHELL = 'set -m; "$@"; echo "status $?."; read line; fg >/dev/null; echo "status $?."'


def take_terminal():
    """In the child: the terminal is its, and no signal is ignored, as in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTSTP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command, **environment):
        self.master, self.slave = os.openpty()
        termios.tcsetwinsize(self.slave, (24, WIDTH))
        self.settings = termios.tcgetattr(self.slave)
        self.written = b""
        environment = dict(os.environ, TERM="xterm") | ENVIRONMENT | environment
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            command, stdin=self.slave, stdout=self.slave, stderr=self.slave, env=environment,
            start_new_session=True, preexec_fn=take_terminal)

    def until(self, pattern, since=0):
        """Reads until a pattern was written behind a place; whether it was, in time."""
        end = time.monotonic() + PATIENCE_S
        while not re.search(pattern, self.written[since:]) and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                self.written += os.read(self.master, 65536)
        return bool(re.search(pattern, self.written[since:]))

    def type(self, keys):
        os.write(self.master, keys)

    def end(self):
        """The exit status, when all was read."""
        end = time.monotonic() + PATIENCE_S
        while True:
            ended = self.process.poll() is not None or time.monotonic() > end
            while select.select([self.master], [], [], 0.05)[0]:
                self.written += os.read(self.master, 65536)
            if ended:
                break
        self.process.kill()
        return self.process.wait()

    def as_before(self):
        """Whether settings, cursor and screen are as they were."""
        return (termios.tcgetattr(self.slave) == self.settings
                and self.written.count(ENTER) == self.written.count(LEAVE)
                and self.written.rfind(SHOW) >= self.written.rfind(HIDE))


@contextlib.contextmanager
def terminal(*command, **environment):
    session = Terminal(*command, **environment)
    yield session
    session.end()
    os.close(session.master)
    os.close(session.slave)


def check_top_ended(known):
    for number in (signal.SIGTERM, signal.SIGHUP):
        with terminal(TOOL, "top", known.pid) as session:
            session.until(rb"quarry-1024")
            tap.check("top takes the terminal", not session.as_before(), session.written)
            session.process.send_signal(number)
            tap.equal(f"{number.name} ends top", session.end(), -number)
            tap.check(f"{number.name} leaves the terminal as it was", session.as_before(),
                      session.written[-300:])


def check_top_stopped(known):
    stopped = 128 + signal.SIGTSTP
    with terminal("bash", "-c", SHELL, "bash", TOOL, "top", known.pid) as session:
        session.until(rb"quarry-1024")
        session.type(b"\x1a")
        tap.check("Ctrl-Z stops top", session.until(rb"status %d\." % stopped), session.written)
        tap.check("the terminal is as it was meanwhile", session.as_before(), session.written[-300:])
        here = len(session.written)
        session.type(b"\n")
        tap.check("when it goes on it draws again", session.until(
            re.escape(ENTER) + rb"(?s:.)*quarry-1024", here), session.written[here:])
        session.type(b"q")
        tap.check("and takes keys", session.until(rb"status 0\.", here), session.written[here:])
        tap.check("the terminal is as it was at the end", session.as_before(), session.written[-300:])


def check_dumb(known):
    with terminal(TOOL, "top", known.pid, "-d", "0.01", TERM="dumb") as session:
        tap.check("a dumb terminal gets a view below the other",
                  session.until(rb"quarry-1024(?s:.)*quarry-1024(?s:.)*quarry-1024"), session.written)
        session.type(b"q")
        tap.equal("until q is pressed", session.end(), 0)
        tap.check("without escape sequences", b"\x1b" not in session.written, session.written)


def check_status_line(known, folder):
    words = (TOOL, "record", "-o", os.path.join(folder, "recording"), "-i", "1000", "-t", "0.7",
             known.pid)
    with terminal(*words) as session:
        session.end()
        text = session.written.decode()
        parts = [re.sub(r"\x1b\[K", "", part) for part in re.split(r"[\r\n]+", text)]
        tap.check("record tells how far it is, and its end", any(
            "samples, RSS" in part for part in parts) and "the time was over" in text, text)
        tap.check("a line that is renewed is no wider than the terminal", all(
            len(part) < WIDTH for part in parts), text)
    with terminal(*words, TERM="dumb") as session:
        session.end()
        tap.check("a dumb terminal gets the last line alone", re.fullmatch(
            rb"quarry: \d+ samples; the time was over\r\n", session.written), session.written)
    with terminal(*words, "-q") as session:
        session.end()
        tap.equal("with -q none", session.written, b"")


def check_rt(folder):
    program = os.path.join(folder, "realtime")
    with open(program, "w", encoding="utf-8") as file:
        file.write("#!/bin/sh\nfor name in calls faults p50_ns p999_ns worst_ns; do echo $name=0; done\n")
    os.chmod(program, stat.S_IRWXU)
    words = (TOOL, "rt", "--no-calls", "--mix", "small", "--seed", "5", "--seed", "6")
    for kind, told in (("xterm", True), ("dumb", False)):
        with terminal(*words, TERM=kind, QUARRY_REALTIME=program) as session:
            status = session.end()
            tap.check(f"rt tells how far it is, TERM={kind}", status == 0 and b"passed" in session.written
                      and told == (b"run 2 of 2: small, seed 6" in session.written)
                      and (told or b"\x1b" not in session.written), session.written)


with Known() as process, tempfile.TemporaryDirectory() as scratch:
    check_top_ended(process)
    check_top_stopped(process)
    check_dumb(process)
    check_status_line(process, scratch)
    check_rt(scratch)
tap.done()

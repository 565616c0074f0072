# SPDX-License-Identifier: MIT
"""quarry trim, limit, stats, set: act on a process that was started with QUARRY_CONTROL=1.

src/control.c is the other end: datagrams to an abstract local socket.
"""
import argparse
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from . import procfs, quantity, settings, show
from .arguments import add_pid
from .errors import ToolError, UsageError

_NAME = "\0quarry-control-{}"
_NAMES_MOST = 16
_DATAGRAM_BYTES = 1 << 16
_CREDENTIALS = struct.Struct("3i")
_TIMEOUT_S = 30.0
_WORD_MOST = 100
_PAD = settings.Option("top_pad", "0 or more")  # what trim leaves: that, but no negative one
_AT_START = ("canary", "guard", "control")  # OPTION_AT_START of src/option.c


class _Silent(ToolError):
    """There is a listener, and it did not answer in time."""


class _Foreign(ToolError):
    """Another process answered; anybody may take a name."""


class Process:
    """A process that listens; usable as a context."""

    def __init__(self, pid: int, timeout_s: float) -> None:
        self.pid = pid
        self.timeout_s = timeout_s
        self.command = procfs.command(pid)
        if procfs.has_ended(pid):
            raise procfs.no_memory(pid)
        name = _NAME.format(_inner_number(pid))
        silent = None
        for i in range(_NAMES_MOST):
            try:
                if self._reach(name + (f"-{i}" if i else "")):
                    return
            except _Silent as error:
                silent = error
        raise silent or ToolError(_why_deaf(pid))

    def _reach(self, name: str) -> bool:
        """Whether the process has this name, and answers."""
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self.socket.bind("")
            self.socket.connect(name)
            self._check(self._exchange("ping"))
            return True
        except (_Foreign, OSError):
            pass
        except ToolError:
            self.socket.close()
            raise
        self.socket.close()
        return False

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _exchange(self, request: str) -> str:
        """The process's answer to a request; all of it in time."""
        parts, end = [], time.monotonic() + self.timeout_s
        try:
            self.socket.settimeout(self.timeout_s)
            self.socket.send(request.encode(errors="replace") + b"\n")
            while data := self._receive(end):
                parts.append(data)
        except TimeoutError:
            raise _Silent(
                f"process {self.pid} did not answer within {self.timeout_s:g} s: it is "
                f"{_state(self.pid)}; try again, or with a longer --timeout"
            ) from None
        return b"".join(parts).decode(errors="replace")

    def _receive(self, end: float) -> bytes:
        """A datagram from the process, by a time."""
        left = end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        data, controls, _, _ = self.socket.recvmsg(
            _DATAGRAM_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
        )
        sender = 0
        for level, kind, content in controls:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                sender = _CREDENTIALS.unpack(content)[0]
        if sender != self.pid:
            raise _Foreign(f"process {self.pid}: process {sender} answered in its place")
        return data

    def _check(self, answer: str) -> dict[str, Any]:
        """The answer as an object; a ToolError where the process refused."""
        try:
            result: dict[str, Any] = json.loads(answer)
        except ValueError:
            raise ToolError(
                f"process {self.pid}: its answer is not understood; use the tool that was "
                "installed with its library"
            ) from None
        if "error" in result:
            raise ToolError(f"process {self.pid}: {result['error']}")
        return result

    def ask(self, request: str) -> dict[str, Any]:
        """The answer to a request."""
        return self._check(self.ask_text(request))

    def ask_text(self, request: str) -> str:
        """The answer to a request as it came."""
        try:
            return self._exchange(request)
        except ConnectionError:
            raise ToolError(f"process {self.pid} ended meanwhile") from None
        except OSError as error:
            raise ToolError(f"process {self.pid}: {error.strerror}") from None


def _inner_number(pid: int) -> int:
    """The number of a process in its own pid namespace."""
    for line in procfs.read(pid, "status").splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return pid


def _state(pid: int) -> str:
    stopped = procfs.faults(pid).state in "Tt"
    return "stopped" if stopped else "busy, perhaps with what another asked for"


def _why_deaf(pid: int) -> str:
    try:
        elsewhere = os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    except OSError:
        elsewhere = False
    if elsewhere:
        return (
            f"process {pid} is in another network namespace, and so is the socket on which it may "
            f"listen: run this by 'nsenter --net=/proc/{pid}/ns/net'"
        )
    return (
        f"process {pid} does not listen: start it with QUARRY_CONTROL=1, or by "
        "'quarry run --control -- COMMAND'"
    )


# ---- the verbs -------------------------------------------------------------------------------------


def add_parser(verbs: Any) -> None:
    """Declare the verbs."""
    trim = _add(
        verbs,
        "trim",
        _trim,
        "have processes give back what they can",
        "Has each process return free memory to the kernel as malloc_trim does, and shows what that "
        "brought and what stayed.",
        True,
    )
    trim.add_argument(
        "--pad", metavar="BYTES", help="leave this much free at the top of the break (0)"
    )
    limit = _add(
        verbs,
        "limit",
        _limit,
        "limit what processes may hold",
        "Sets the soft limit of each process: where a request would exceed it, free memory goes "
        "back, and where that does not suffice, malloc returns NULL.",
        True,
    )
    limit.add_argument("bytes", metavar="BYTES|none|auto", help="auto: what the cgroup may have")
    stats = _add(
        verbs,
        "stats",
        _stats,
        "the statistics of a process",
        "Has the process write its statistics (docs/STATS.md), as quarry_write_stats does.",
        False,
    )
    formats = stats.add_mutually_exclusive_group()
    for name, about in (
        ("text", "for people (the default)"),
        ("json", "as JSON"),
        ("openmetrics", "as Prometheus and its like read it"),
    ):
        formats.add_argument(
            f"--{name}", dest="format", action="store_const", const=name, help=about
        )
    stats.set_defaults(format="text")
    change = _add(
        verbs,
        "set",
        _set,
        "change an option of processes",
        "Sets an option of the allocator in each process, by its name in docs/OPTIONS.md, to a value "
        f"that its variable might have. What is read at the start alone cannot be set: {', '.join(_AT_START)}.",
        True,
    )
    change.add_argument("name", metavar="NAME", help="trim_threshold, top_pad, ...")
    change.add_argument("value", metavar="VALUE")


def _add(
    verbs: Any,
    name: str,
    action: Callable[[argparse.Namespace], int],
    about: str,
    description: str,
    several: bool,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name,
        help=about,
        description=description + " The process has to run with QUARRY_CONTROL=1 (or under 'quarry "
        "run --control'), in this network namespace, and be yours, or you root.",
    )
    if several:
        parser.add_argument("pid", type=int, metavar="PID", nargs="+")
    else:
        add_pid(parser)
    parser.add_argument(
        "--timeout",
        type=quantity.seconds,
        default=_TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long to wait for an answer ({_TIMEOUT_S:g})",
    )
    if several:
        parser.add_argument("--json", action="store_true", help="as JSON; of several PIDs a list")
    parser.set_defaults(run=action)
    return parser


def _each(
    arguments: argparse.Namespace,
    action: Callable[[Process], dict[str, Any]],
    text: Callable[[dict[str, Any]], str],
) -> int:
    """Does something with each process; goes on where one cannot be reached, or nothing be told."""
    done, failed, unwritten = [], 0, None
    for pid in arguments.pid:
        try:
            with Process(pid, arguments.timeout) as process:
                done.append({"pid": pid, "command": process.command, **action(process)})
            line, stream = f"{process.command} ({pid}): {text(done[-1])}", sys.stdout
        except ToolError as error:
            line, stream = f"quarry: {error}", sys.stderr
            failed = 1
        try:
            if stream is sys.stderr or not arguments.json:
                print(line, file=stream, flush=True)
        except OSError as error:
            unwritten = error
    if unwritten:
        raise unwritten
    several = len(arguments.pid) > 1
    if arguments.json and (done or several):
        show.print_json(done if several else done[0])
    return failed


def _resident(pid: int) -> int:
    """Resident bytes; of a process that has changed its user, as the kernel estimates them."""
    try:
        return procfs.rollup(pid)["Rss"]
    except ToolError:
        return procfs.status(pid).get("VmRSS", 0)


def _trim(arguments: argparse.Namespace) -> int:
    request = "trim"
    if arguments.pad is not None:
        _check("trim", _PAD, arguments.pad, "is no number of bytes; write 65536, or 64K")
        request = f"trim {arguments.pad}"

    def act(process: Process) -> dict[str, Any]:
        before = _resident(process.pid)
        report = process.ask(request)
        return {**report, "rss_before": before, "rss_after": _resident(process.pid)}

    return _each(arguments, act, _trim_text)


def _trim_text(report: dict[str, Any]) -> str:
    text = (
        f"released {show.size(report['released_bytes'])}; resident "
        f"{show.size(report['rss_before'])} before, {show.size(report['rss_after'])} after"
    )
    kept = [
        f"{show.size(report[key])} {where}"
        for key, where in (
            ("free_beside_live_bytes", "free beside live blocks"),
            ("cached_elsewhere_bytes", "in caches of threads"),
            ("refused_bytes", "free pages that the pad or the kernel (mlock) keeps"),
        )
        if report[key]
    ]
    return text + ("; stays: " + ", ".join(kept) if kept else "")


def _limit(arguments: argparse.Namespace) -> int:
    if arguments.bytes != "none":
        says = "is no limit; give bytes (64M), auto, or none"
        _check("limit", _options()["limit"], arguments.bytes, says)
    request = f"limit {arguments.bytes}"

    def text(result: dict[str, Any]) -> str:
        limit, held = result["limit_bytes"], result["held_bytes"]
        if not limit:
            none = "; its cgroup has none" if arguments.bytes == "auto" else ""
            return f"no limit{none}; it holds {show.size(held)}"
        beyond = ""
        if held - result["dirty_bytes"] > limit:
            beyond = ": nothing more until memory is freed"
        elif held > limit:
            free = show.size(result["dirty_bytes"])
            beyond = f", {free} of it free, which goes back before malloc fails"
        return f"limit {show.size(limit)}; it holds {show.size(held)}{beyond}"

    return _each(arguments, lambda process: process.ask(request), text)


def _stats(arguments: argparse.Namespace) -> int:
    with Process(arguments.pid, arguments.timeout) as process:
        sys.stdout.write(process.ask_text(f"stats {arguments.format}"))
    return 0


def _set(arguments: argparse.Namespace) -> int:
    option, value = _option(arguments.name), arguments.value
    says = f"is not one of: {option.range}"
    if option.name == "limit":
        says += f"; for no limit: 'quarry limit {' '.join(map(str, arguments.pid))} none'"
    _check(f"set {option.name}", option, value, says)

    def act(process: Process) -> dict[str, Any]:
        answer = process.ask(f"set {option.name} {value}")
        return {**answer, "value": _in_words(option, answer["value"])}

    return _each(arguments, act, lambda result: f"{result['name']} is {result['value']}")


def _options() -> dict[str, settings.Option]:
    """The options by their names."""
    return {option.name: option for option in settings.options().values()}


def _option(name: str) -> settings.Option:
    """The option of a name that may be set."""
    known = _options()
    if name in _AT_START:
        raise UsageError(
            f"set: '{name}' is read when the program starts; set its variable before that"
        )
    if name not in known:
        names = ", ".join(each for each in known if each not in _AT_START)
        raise UsageError(f"set: '{procfs.printable(name)}' is no option; one of: {names}")
    return known[name]


def _in_words(option: settings.Option, value: int) -> int | str:
    """A value as docs/OPTIONS.md names it: words stand for the numbers from 0 on."""
    words = [word for word in option.range.split(", ") if word.isalpha()]
    return words[value] if 0 <= value < len(words) else value


def _check(verb: str, option: settings.Option, text: str, says: str) -> None:
    """A UsageError where a word of the command line is no value of an option; says: what to tell of it."""
    shown = procfs.printable(text)
    if not text or len(text.split()) != 1 or len(text) > _WORD_MOST:
        raise UsageError(
            f"{verb}: '{shown}' is no value; it has to be one word of at most {_WORD_MOST} characters"
        )
    if not settings.accepts(option, text):
        raise UsageError(f"{verb}: '{shown}' {says}")

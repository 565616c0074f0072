# SPDX-License-Identifier: MIT
"""What the environment of a process sets of its allocator, and what was meant to and does not."""
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from . import procfs, shipped
from .finding import Finding

_TUNABLES, _PREFIX = "GLIBC_TUNABLES", "glibc.malloc."
_ANY = "any number"
_IN_BYTES = (
    *("trim_threshold", "top_pad", "mmap_threshold", "mxfast", "tcache_max", "limit"),
    *("quarantine", "guard"),
)
# Read, and no option: whether malformed values are told, the library and program of this tool, and what it
# tells the profiler (tools/profile/sampler.c).
_OTHERS = (
    *("QUARRY_VERBOSE", "QUARRY_LIBRARY", "QUARRY_REALTIME"),
    *(f"QUARRY_PROFILE_{what}" for what in ("FILE", "RATE", "PID", "FOLLOW", "SEED")),
)
_LONG_MAX = (1 << 63) - 1
_UNITS = "KMGT"
_NUMBER = re.compile(
    r"([-+]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)(?:([KMGTkmgt])(?:B|iB)?)?"
)
_NEAR = 0.8  # how like a known name one has to be that is taken for it


@dataclass(frozen=True)
class Option:
    """A row of docs/OPTIONS.md: its name, and the values that it may have as the page writes them."""

    name: str
    range: str


@cache
def options() -> dict[str, Option]:
    """The options by their variables and GLIBC_TUNABLES keys."""
    row = r"^\| (\w+) \| (\S+) \| (\S+) \| \S+ \| ([^|]+) \|"
    rows = re.findall(row, shipped.options(), re.MULTILINE)
    return {
        key: Option(name, values)
        for name, variable, tunable, values in rows
        for key in (variable, tunable)
        if key != "-"
    }


def of_process(pid: int) -> list[Finding]:
    """What a process was started with."""
    environment: dict[str, str] = {}
    before = ""
    for entry in procfs.read(pid, "environ").split("\0"):
        name, _, value = entry.partition("=")
        if before == _TUNABLES and "." in name:
            environment[_TUNABLES] += ":" + entry  # ld.so wrote zeros over the colons
            continue
        environment.setdefault(name, value)  # of two, getenv finds the first
        before = name
    return list(examine(environment))


def examine(environment: dict[str, str]) -> Iterator[Finding]:
    """Every setting of malloc in an environment, and what looks like one."""
    for name, value in environment.items():
        if name == _TUNABLES:
            for entry in filter(None, value.split(":")):
                key, equals, content = entry.partition("=")
                if key.startswith(_PREFIX) or _near(key):
                    yield _judge(key, content, bool(equals))
        elif name.upper().startswith(("MALLOC_", "QUARRY_")):
            yield _judge(name, value, True)


def _judge(name: str, value: str, has_value: bool) -> Finding:
    topic, shown = (text if text.isprintable() else ascii(text) for text in (name, value))
    option, near = options().get(name), _near(name)
    if name in _OTHERS:
        return Finding("ok", topic, shown)
    if option is None and near:
        return Finding("bad", topic, shown, f"Quarry does not read it; is {near} meant?")
    if option is None:
        return Finding("note", topic, shown, "Quarry does not read it")
    if not has_value:
        return Finding("bad", topic, "no value", f"it is ignored; give {name}=VALUE")
    if not accepts(option, value):
        more = "; it may end with K, M, G or T" if option.name in _IN_BYTES else ""
        return Finding("bad", topic, shown, f"malformed, and so ignored; give {option.range}{more}")
    return Finding("ok", topic, shown)


def _near(name: str) -> str:
    """The name that may be meant by one that is not known; empty where none is like it."""
    if "." in name:
        keys = {key.removeprefix(_PREFIX): key for key in options() if key.startswith(_PREFIX)}
        name = name.rpartition(".")[2].lower()
    else:
        # What all names begin with says nothing: QUARRY_ROOT is not QUARRY_ZERO.
        prefix, _, name = name.upper().partition("_")
        known = (key.partition("_") for key in (*options(), *_OTHERS) if "." not in key)
        keys = {rest: f"{first}_{rest}" for first, _, rest in known if first == prefix}
    found = difflib.get_close_matches(name, keys, 1, _NEAR)
    return keys[found[0]] if found else ""


def accepts(option: Option, text: str) -> bool:
    """Whether the library takes a value for an option: as parse_value of src/option.c."""
    if " " not in text and text in option.range.split(", "):
        return True
    match = _NUMBER.fullmatch(text)
    if not match:
        return False
    sign, digits, unit = match.groups()
    if unit and (sign == "-" or option.name not in _IN_BYTES):
        return False
    base = 16 if digits[1:2] in ("x", "X") else 8 if digits[0] == "0" else 10
    number = int(digits, base) << (10 * (_UNITS.index(unit.upper()) + 1) if unit else 0)
    low, high = _bounds(option.range)
    return number <= _LONG_MAX and low <= (-number if sign == "-" else number) <= high


def _bounds(values: str) -> tuple[int, int]:
    """The numbers of a range as docs/OPTIONS.md writes it."""
    numbers = [int(number) for number in re.findall(r"\d+", values)]
    if values == _ANY:
        return -_LONG_MAX, _LONG_MAX
    if not numbers:
        return 0, values.count(",")  # words stand for the numbers from 0 on
    return numbers[0], numbers[1] if len(numbers) > 1 else _LONG_MAX

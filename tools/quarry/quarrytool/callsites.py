# SPDX-License-Identifier: MIT
"""Heap profiles by call site, and in the formats that other programs read."""
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from . import symbols
from .profiled import Mapping, Profile, Stack, Tally
from .symbols import Frame

# What a program calls to allocate without having written it: not the site, unless there is no other.
_WRAPPERS = re.compile(r"operator new|(\S+ )?(std|__gnu_cxx)::")
_RUNTIME = re.compile(r"(libc|libstdc\+\+|libgcc_s|ld-linux[\w-]*|libm|libpthread)(\.so|-).*")
_LOADER = re.compile(r"ld-linux[\w-]*\.so|ld-\d|ld64\.so")
# A stream's buffer, which the C library gives back by itself.
_KEPT = re.compile(r"(__GI_)?_IO_file_doallocate$")


@dataclass
class Site:
    """Stacks that are the same as far as they are looked at."""

    frames: list[Frame]
    tally: Tally


class Resolved:
    """The stacks of a profile with their functions."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.found = symbols.resolve(
            (address for stack in profile.stacks for address in stack.frames), profile.mappings
        )

    def frames(self, stack: Stack) -> list[Frame]:
        """Innermost first."""
        return [frame for address in stack.frames for frame in self.found[address]]

    def is_kept(self, stack: Stack) -> bool:
        """Whether the C library, the loader or the C++ runtime holds such blocks to the end."""
        frames = self.frames(stack)
        names = [os.path.basename(frame.module) for frame in frames]
        if not frames:
            return False
        return (
            _LOADER.match(names[0]) is not None
            or _KEPT.match(frames[0].function) is not None
            or all(_RUNTIME.match(name) for name in names)
        )

    def sites(self, what: str, depth: int, without_kept: bool) -> list[Site]:
        """Call sites, the largest first; what is live or allocated."""
        result: dict[tuple[Frame, ...], Site] = {}
        for stack in self.profile.stacks:
            tally: Tally = getattr(stack, what)
            if tally.samples and not (without_kept and self.is_kept(stack)):
                frames = _without_wrappers(self.frames(stack))
                key = tuple(_place(frame) for frame in frames[:depth])
                result.setdefault(key, Site(frames[:depth], Tally())).tally.add(tally)
        return sorted(result.values(), key=lambda site: -site.tally.bytes)

    def kept(self) -> Tally:
        """What is live of the runtime's own."""
        result = Tally()
        for stack in self.profile.stacks:
            if stack.live.samples and self.is_kept(stack):
                result.add(stack.live)
        return result


def _without_wrappers(frames: list[Frame]) -> list[Frame]:
    for number, frame in enumerate(frames):
        if not _WRAPPERS.match(frame.function):
            return frames[number:]
    return frames


def _place(frame: Frame) -> Frame:
    """The same for two calls in a line."""
    if not frame.line:
        return frame if not frame.function else Frame(frame.function, "", 0, frame.module, 0)
    return Frame(frame.function, frame.file, frame.line, frame.module, 0)


def write_folded(resolved: Resolved, what: str, without_kept: bool, out: TextIO) -> None:
    """A line for each stack, outermost function first, with its bytes: what draws flame graphs."""
    sums: dict[str, int] = {}
    for stack in resolved.profile.stacks:
        count = getattr(stack, what).bytes
        if count and not (without_kept and resolved.is_kept(stack)):
            names = [_folded_name(frame) for frame in reversed(resolved.frames(stack))]
            text = ";".join(names) or "(others)"
            sums[text] = sums.get(text, 0) + count
    for text, count in sorted(sums.items()):
        out.write(f"{text} {count}\n")


def _folded_name(frame: Frame) -> str:
    name = frame.function or f"{os.path.basename(frame.module)}+{frame.address:#x}"
    return name.replace(";", ":").replace("\n", " ")


def write_pprof(profile: Profile, out: TextIO) -> None:
    """The textual heap profile that pprof and google-pprof read; both scale the samples themselves."""
    kind = f"heap_v2/{profile.rate}" if profile.rate > 1 else "heapprofile"
    live, allocated = profile.total("live"), profile.total("allocated")
    out.write(f"heap profile: {_pprof_counts(live, allocated)} @ {kind}\n")
    for stack in profile.stacks:
        if stack.allocated.samples:
            addresses = " ".join(f"{address:#x}" for address in stack.frames)
            out.write(f"{_pprof_counts(stack.live, stack.allocated)} @ {addresses}\n")
    out.write("\nMAPPED_LIBRARIES:\n")
    for line in _maps(profile.mappings):
        out.write(line + "\n")


def _pprof_counts(live: Tally, allocated: Tally) -> str:
    return f"{live.samples}: {live.sampled_bytes} [{allocated.samples}: {allocated.sampled_bytes}]"


def _maps(mappings: list[Mapping]) -> Iterator[str]:
    """As in /proc/PID/maps."""
    for mapping in sorted(mappings, key=lambda each: each.start):
        yield (
            f"{mapping.start:08x}-{mapping.end:08x} r-xp {mapping.offset:08x} 00:00 0 {mapping.name}"
        ).rstrip()

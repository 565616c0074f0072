# SPDX-License-Identifier: MIT
"""Recordings: JSON, a line for each sample or event, between a first and a last line that say so.

docs/FORMATS.md has the format.
"""
import json
import sys
from dataclasses import dataclass, field
from typing import Any

from .errors import ToolError

FORMAT, VERSION = "quarry-recording", 1
# In bytes; live to clean only where the process uses Quarry.
KERNEL_FIELDS = ("vss", "rss", "anon", "file", "shmem", "swap")
HEAP_FIELDS = ("live", "free_objects", "cached", "dirty", "clean")
COUNT_FIELDS = ("minor", "major")


@dataclass
class Recording:
    """A recording that was read."""

    name: str
    command: str
    samples: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    end: str = ""

    def series(self, key: str) -> tuple[list[float], list[float]]:
        """Times and values of a figure, where it was recorded."""
        known = [(sample["t"], sample[key]) for sample in self.samples if key in sample]
        return [t for t, _ in known], [value for _, value in known]

    def fault_rates(self) -> tuple[list[float], list[float]]:
        """Times and page faults per second, between neighbouring samples."""
        times, rates = [], []
        for one, two in zip(self.samples, self.samples[1:]):
            if two["t"] > one["t"]:
                times.append(two["t"])
                rates.append(
                    (two["minor"] + two["major"] - one["minor"] - one["major"])
                    / (two["t"] - one["t"])
                )
        return times, rates

    def mean(self, key: str, where: str) -> float:
        """The mean of a figure over the time between neighbouring samples that both have figure where."""
        area = seconds = 0.0
        for one, two in zip(self.samples, self.samples[1:]):
            if where in one and where in two:
                area += (one[key] + two[key]) / 2 * (two["t"] - one["t"])
                seconds += two["t"] - one["t"]
        if seconds:
            return area / seconds
        values = [sample[key] for sample in self.samples if where in sample]
        return sum(values) / len(values)

    def summary(self) -> dict[str, float]:
        """Peaks, means over time, and counts."""
        result: dict[str, float] = {"duration_s": self.samples[-1]["t"] - self.samples[0]["t"]}
        for key in ("vss", "rss", "live", "dirty"):
            _, values = self.series(key)
            if values:
                result[f"peak_{key}"] = max(values)
                result[f"mean_{key}"] = self.mean(key, key)
        if result.get("mean_live"):
            result["rss_per_live"] = self.mean("rss", "live") / result["mean_live"]
        last = self.samples[-1]
        result["minor_faults"] = last["minor"] - self.samples[0]["minor"]
        result["major_faults"] = last["major"] - self.samples[0]["major"]
        result["given_back"] = sum(event["bytes"] for event in self.events if "bytes" in event)
        return result


def load(name: str) -> Recording:
    """Read a recording; a ToolError says what is wrong with it."""
    try:
        with open(name, encoding="utf-8") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ToolError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ToolError(
            f"{name}: this is no recording; 'quarry record -o FILE' makes them"
        ) from None
    # What was written whole ends with a newline, behind which lines has an empty one.
    if len(lines) > 1 and lines[-1] and not _whole(lines[-1]):
        print(f"quarry: {name}: the last line was cut off; it is left out", file=sys.stderr)
        lines.pop()
    header = _parse(name, 1, lines[0])
    if header.get("format") != FORMAT:
        raise ToolError(f"{name}: this is no recording; 'quarry record -o FILE' makes them")
    if header.get("version") != VERSION:
        raise ToolError(
            f"{name}: recording version {header.get('version')}; this tool reads version "
            f"{VERSION}: use the one that recorded it"
        )
    result = Recording(name, str(header.get("command", "")))
    for number, line in enumerate(lines[1:], 2):
        if line:
            _add(result, number, _parse(name, number, line))
    if len(result.samples) < 2:
        raise ToolError(
            f"{name}: {len(result.samples)} samples are too few; the process ended too soon: "
            "record with a shorter --interval"
        )
    return result


def _whole(line: str) -> bool:
    try:
        json.loads(line)
        return True
    except ValueError:
        return False


def _parse(name: str, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        if number == 1:
            raise ToolError(f"{name}: this is no recording; 'quarry record -o FILE' makes them")
        raise ToolError(
            f"{name}: damaged at line {number}; cut that line and all after it off, or record "
            "again"
        )
    return value


def _add(recording: Recording, number: int, entry: dict[str, Any]) -> None:
    """One line behind the first."""
    if "end" in entry:
        recording.end = str(entry["end"])
        return
    needed = ("t",) if "event" in entry else ("t", "vss", "rss", *COUNT_FIELDS)
    for key in entry if "event" not in entry else needed:
        if not isinstance(entry.get(key), (int, float)):
            raise ToolError(
                f"{recording.name}: damaged at line {number}: {key} is no number; record again"
            )
    if any(key not in entry for key in needed):
        raise ToolError(
            f"{recording.name}: damaged at line {number}: figures are missing; record again"
        )
    (recording.events if "event" in entry else recording.samples).append(entry)

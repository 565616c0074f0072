# SPDX-License-Identifier: MIT
"""What quarry doctor reports."""
from dataclasses import dataclass


@dataclass
class Finding:
    """One thing looked at: "ok", "note" or "bad"; what to change, if anything."""

    verdict: str
    topic: str
    value: str
    advice: str = ""

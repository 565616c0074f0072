# SPDX-License-Identifier: MIT
"""What a reader needs to know of a machine to judge figures from it."""
import platform
from pathlib import Path
from typing import Any

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def describe_machine() -> dict[str, Any]:
    """Return processor, system and versions; nothing that identifies the machine."""
    processors = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    release = platform.freedesktop_os_release()
    chosen = THP.read_text().partition("[")[2].partition("]")[0] if THP.is_file() else ""
    return {
        "processor": processors[0] if processors else platform.machine(),
        "processors": len(processors) or 1,
        "system": release.get("PRETTY_NAME", "Linux"),
        "kernel": platform.release().split("-")[0],
        "glibc": platform.libc_ver()[1],
        "huge_pages": chosen or "none",
    }


def machine_line(machine: dict[str, Any]) -> str:
    """Return the description as one line."""
    return (
        f"{machine['system']}, Linux {machine['kernel']}, glibc {machine['glibc']};"
        f" {machine['processors']} x {machine['processor']}"
    )

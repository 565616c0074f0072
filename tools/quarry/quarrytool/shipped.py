# SPDX-License-Identifier: MIT
"""What the tool takes from the rest of Quarry: beside its modules where it is installed, else the source."""
import re
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SOURCE = _HERE.parents[2]


def options() -> str:
    """The page of the options."""
    installed = _HERE / "OPTIONS.md"
    page = installed if installed.is_file() else _SOURCE / "docs" / "OPTIONS.md"
    return page.read_text(encoding="utf-8")


def version() -> str:
    """That of the library which this tool was built or installed with."""
    installed = _HERE / "VERSION"
    if installed.is_file():
        return installed.read_text(encoding="ascii").strip()
    header = (_SOURCE / "include" / "quarry.h").read_text(encoding="utf-8")
    return ".".join(re.findall(r"#define QUARRY_VERSION_\w+ (\d+)", header))

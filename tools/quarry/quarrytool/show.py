# SPDX-License-Identifier: MIT
"""How figures look: sizes, tables, JSON."""
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .errors import ToolError

_UNITS = ("B", "K", "M", "G", "T")


def open_output(path: str) -> TextIO:
    """A file to write to; the caller closes it."""
    try:
        return open(path, "w", encoding="utf-8")
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None


def size(count: float) -> str:
    """Bytes as 12.3M; powers of 1024."""
    sign, count = ("-", -count) if count < 0 else ("", count)
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return (
        f"{sign}{count:.0f}{_UNITS[unit]}"
        if count >= 99.5 or unit == 0
        else f"{sign}{count:.1f}{_UNITS[unit]}"
    )


def console(stream: TextIO | None = None) -> Console:
    """A console as wide as the terminal; COLUMNS or 100 columns where there is none."""
    stream = stream or sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else 100
    return Console(file=stream, width=width, highlight=False)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (0,),
    title: str = "",
    wrap: Sequence[int] = (),
) -> Table:
    """A table whose columns are right-aligned, but those in left; those in wrap may break lines."""
    result = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for number, name in enumerate(columns):
        result.add_column(
            name,
            justify="left" if number in left else "right",
            no_wrap=number not in wrap,
            overflow="fold" if number in wrap else "ellipsis",
        )
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def fit(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int, expendable: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows without as many of the expendable ones, in this order, as exceed the width."""
    names, kept = list(columns), [list(row) for row in rows]
    for name in expendable:
        need = sum(max(len(cell) for cell in column) + 2 for column in zip(names, *kept))
        if need - 2 <= width:
            break
        place = names.index(name)
        del names[place]
        for row in kept:
            del row[place]
    return names, kept


def print_json(value: Any, stream: TextIO | None = None) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=2), file=stream or sys.stdout)

# SPDX-License-Identifier: MIT
"""How figures look: sizes, tables, JSON."""
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from .errors import ToolError

_UNITS = ("B", "K", "M", "G", "T")


def open_output(path: str, keep: bool = False) -> TextIO:
    """A file to write to; the caller closes it.  keep: what is in it stays until it is emptied."""

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags & ~os.O_TRUNC if keep else flags, 0o666)

    try:
        return open(path, "w", encoding="utf-8", errors="backslashreplace", opener=opened)
    except OSError as error:
        raise ToolError(f"{path}: {error.strerror}") from None


def empty(output: TextIO) -> None:
    """Drop what was in a file before; a pipe or a device keeps nothing."""
    with suppress(OSError):
        os.ftruncate(output.fileno(), 0)


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


class Fitted:
    """A table as wide as the console; where that is too narrow for its figures, each row in words."""

    _GAP = 2
    _LEAST = 12  # of a column that may be cut or wrapped, where it is that wide

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        left: Sequence[int],
        title: str,
        wrap: Sequence[int],
    ) -> None:
        self.columns, self.rows, self.left, self.title, self.wrap = columns, rows, left, title, wrap

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich with the width there is."""
        widths = [
            max(len(cell) for cell in (name, *cells))
            for name, *cells in zip(self.columns, *self.rows)
        ]
        last = len(widths) - 1
        may_be_cut = last in self.left and last not in self.wrap
        need = sum(
            min(width, self._LEAST)
            if number in self.wrap or (number == last and may_be_cut)
            else width
            for number, width in enumerate(widths)
        )
        need += self._GAP * last
        if need > options.max_width:
            yield from self._in_words(options.max_width)
            return
        others = sum(widths[:-1]) + self._GAP * last
        yield self._as_table(max(options.max_width - others, self._LEAST) if may_be_cut else None)

    def _as_table(self, last_width: int | None) -> Table:
        result = Table(
            title=self.title or None,
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        for number, name in enumerate(self.columns):
            result.add_column(
                name,
                justify="left" if number in self.left else "right",
                no_wrap=number not in self.wrap,
                overflow="fold" if number in self.wrap else "ellipsis",
                max_width=last_width if number == len(self.columns) - 1 else None,
            )
        for row in self.rows:
            result.add_row(*(Text(cell) for cell in row))
        return result

    def _in_words(self, width: int) -> RenderResult:
        if self.title:
            yield Text(self.title, style="italic")
        for row in self.rows:
            words = "; ".join(
                f"{name} {cell}".strip() for name, cell in zip(self.columns, row) if cell
            )
            yield Text("\n".join(textwrap.wrap(words, max(width, 3), subsequent_indent="  ")))


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Sequence[int] = (0,),
    title: str = "",
    wrap: Sequence[int] = (),
) -> Fitted:
    """A table whose columns are right-aligned, but those in left; those in wrap may break lines."""
    return Fitted(columns, rows, left, title, wrap)


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

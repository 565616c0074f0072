# SPDX-License-Identifier: MIT
"""What is going on, for whoever watches: a line on stderr that is renewed."""
import sys
from contextlib import suppress

from . import show


class StatusLine:
    """The line; only where stderr is a terminal that can renew one.  Usable as a context.

    That it cannot be written ends nothing: the terminal may be gone.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.watched = not quiet and bool(sys.stderr) and sys.stderr.isatty()
        self.console = show.console(sys.stderr) if self.watched else None

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")

    def show(self, text: str) -> None:
        """Renew the line; what is wider than the terminal is cut."""
        if self.console:
            self._write(f"quarry: {text}"[: self.console.width - 1])

    def leave(self, text: str) -> None:
        """The last line, which stays, on a terminal of any kind."""
        self._write("")
        if self.watched:
            with suppress(OSError):
                print(f"quarry: {text}", file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        if self.console and not self.console.is_dumb_terminal:
            with suppress(OSError):
                print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)

# SPDX-License-Identifier: MIT
"""Says what a long run is doing, and about how long the rest of it will take."""
import shutil
import sys
import time


# Where lines cannot be replaced, as in a log, one is written only so often.
QUIET_S = 30.0


class Progress:
    """One line on stderr with what is running and about how long the rest will take."""

    def __init__(self, total: float) -> None:
        self.total = total
        self.done = 0.0
        self.started = time.monotonic()
        self.spoken = self.started
        self.live = sys.stderr.isatty()

    def _left(self) -> str:
        elapsed = time.monotonic() - self.started
        # Until something is done, the listed seconds are all there is to go by.
        pace = elapsed / self.done if self.done > 0 else 1.0
        seconds = round((self.total - self.done) * pace)
        return f"about {seconds // 60} min {seconds % 60:02} s left"

    def step(self, text: str) -> None:
        """Say what starts now, replacing the line before; without a terminal, now and then."""
        if not self.live and time.monotonic() - self.spoken > QUIET_S:
            self.line(text)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\033[K{text}, {self._left()}"[: width + 4])
            sys.stderr.flush()

    def advance(self, cost: float) -> None:
        """Count a finished step."""
        self.done += cost

    def line(self, text: str, left: bool = True) -> None:
        """Print a line that stays."""
        self.spoken = time.monotonic()
        clear = "\r\033[K" if self.live else ""
        sys.stderr.write(f"{clear}{text}{', ' + self._left() if left else ''}\n")
        sys.stderr.flush()

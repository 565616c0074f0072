# SPDX-License-Identifier: MIT
"""Signals as something to wait for, so that they tear nothing apart in the middle."""
import os
import select
import signal
from collections.abc import Sequence


class Inbox:
    """While in use, some signals end a wait, and do nothing else; usable as a context.

    Those that were ignored stay so: nohup means it.
    """

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __enter__(self) -> "Inbox":
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.outer = signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        self.before = {
            number: signal.signal(number, lambda *_: None)
            for number in self.numbers
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self.outer)
        os.close(self.reader)
        os.close(self.writer)

    def wait(self, seconds: float, others: Sequence[int] = ()) -> int:
        """Until a signal comes, whose number it returns, time is over, or one of others can be read."""
        select.select([self.reader, *others], [], [], max(seconds, 0))
        return self.next()

    def next(self) -> int:
        """The number of the first signal that has come and was not told yet; 0 where none has."""
        try:
            return os.read(self.reader, 1)[0]
        except BlockingIOError:
            return 0

    def stop(self) -> None:
        """Stop as SIGTSTP does where nobody handles it; returns when this process goes on."""
        ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, ours)

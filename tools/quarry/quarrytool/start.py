# SPDX-License-Identifier: MIT
"""What the verbs that start a command have in common."""
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

NOT_STARTED = 127  # the exit status, as of shells


def become(command: list[str], variables: dict[str, str]) -> NoReturn:
    """Turn into a command; where it cannot be started, say so and end."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, variables)
    except OSError as error:
        text = f"quarry: {command[0]}: {error.strerror}\n"
        os.write(2, text.encode(errors="backslashreplace"))
    finally:
        os._exit(NOT_STARTED)


def pass_on(act: Callable[[int], None]) -> dict[int, Any]:
    """From now on give signals that are meant for a command to act; what was done with them before."""

    def passed(number: int, _: FrameType | None) -> None:
        act(number)

    # Those of the keyboard the terminal sends to the command, too.
    handlers: dict[int, Any] = dict.fromkeys((signal.SIGINT, signal.SIGQUIT), signal.SIG_IGN)
    handlers |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2), passed)
    return {number: signal.signal(number, handler) for number, handler in handlers.items()}

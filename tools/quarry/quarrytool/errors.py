# SPDX-License-Identifier: MIT
"""What the tool says when it cannot do what it was asked for."""


class ToolError(Exception):
    """A failure whose message is one line: the culprit, and what to do about it."""


class NoQuarry(ToolError):
    """The process runs, and does not use Quarry."""

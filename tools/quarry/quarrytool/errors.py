# SPDX-License-Identifier: MIT
"""What the tool says when it cannot do what it was asked for."""


class ToolError(Exception):
    """A failure whose message is one line: the culprit, and what to do about it."""


class UsageError(ToolError):
    """A command line that argparse takes and that makes no sense: exit status 2, as argparse's own."""


class Refused(ToolError):
    """The kernel does not let this user look into the process."""


class NoQuarry(ToolError):
    """The process runs, and does not use Quarry."""

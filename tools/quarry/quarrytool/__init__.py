# SPDX-License-Identifier: MIT
"""The command quarry: where a process's memory is, and what the kernel does lazily."""

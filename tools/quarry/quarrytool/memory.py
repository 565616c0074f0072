# SPDX-License-Identifier: MIT
"""Copies memory of another process by process_vm_readv: the process is not stopped."""
import ctypes
import errno
import os
import struct

from . import procfs
from .errors import Refused, ToolError

_libc = ctypes.CDLL(None, use_errno=True)


class _Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = (
    ctypes.c_int,
    ctypes.POINTER(_Vector),
    ctypes.c_ulong,
    ctypes.POINTER(_Vector),
    ctypes.c_ulong,
    ctypes.c_ulong,
)


class Unreadable(ToolError):
    """An address that the process does not have."""


def read(pid: int, address: int, count: int) -> bytes:
    """Copy count bytes; all of them or an error."""
    data = ctypes.create_string_buffer(count)
    done = 0
    while done < count:
        here = _Vector(ctypes.addressof(data) + done, count - done)
        there = _Vector(address + done, count - done)
        got = _libc.process_vm_readv(pid, ctypes.byref(here), 1, ctypes.byref(there), 1, 0)
        if got <= 0:
            raise _refusal(pid, address + done, ctypes.get_errno() if got < 0 else errno.EFAULT)
        done += got
    return data.raw


def _refusal(pid: int, address: int, error: int) -> ToolError:
    if error == errno.ESRCH:
        return ToolError(f"process {pid}: there is none; it may have ended")
    if error == errno.EPERM:
        return Refused(
            f"process {pid}: its memory may not be read; {procfs.who_may('CAP_SYS_PTRACE')}{procfs.yama_hint()}"
        )
    return Unreadable(
        f"process {pid}: {address:#x} cannot be read: {os.strerror(error)}; it may have changed "
        "meanwhile: try again"
    )


def numbers(pid: int, address: int, form: str) -> tuple[int, ...]:
    """Copy numbers of a struct format, little-endian and without padding."""
    form = "<" + form
    return struct.unpack(form, read(pid, address, struct.calcsize(form)))

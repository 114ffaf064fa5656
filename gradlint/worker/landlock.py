"""Landlock: the Linux kernel's own list of folders that a process may read and write."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

# linux/landlock.h, LANDLOCK_ACCESS_FS_*
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_CHANGES = sum(1 << n for n in range(4, 13))  # remove and make directories, files, sockets, links, devices
_REMOVE_FILE, _MAKE_FILE = 1 << 5, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV

_NETWORK_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def supported_version() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64", "riscv64"):
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)))


def restrict(
    readable: Iterable[str],
    writable: Iterable[str],
    devices: Iterable[str] = (),
    listable: Iterable[str] = (),
    shared: Iterable[str] = (),
) -> tuple[str, ...]:
    """Confine this process for good: reads below `readable`, everything below `writable`, names below `listable`.

    `devices` may be read, written and emptied; in the folders `shared` plain files may be made and removed, too.
    Returns what the kernel now enforces ("files", "tcp", "signals"); empty where Landlock is missing.
    """
    version = supported_version()
    if not version:
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    handled = READ | WRITE_FILE | _CHANGES
    handled |= _REFER if version >= 2 else 0
    handled |= _TRUNCATE if version >= 3 else 0
    handled |= _IOCTL_DEV if version >= 5 else 0
    rules = _Ruleset(handled, _NETWORK_TCP if version >= 4 else 0, 0)
    size = 8 if version < 4 else 16
    if version >= 6:
        rules.scoped, size = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS, 24
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return ()
    try:
        for paths, rights in (
            (listable, READ_DIR),
            (readable, READ),
            (devices, READ_FILE | READ_DIR | WRITE_FILE | _TRUNCATE | _IOCTL_DEV),
            (shared, READ_FILE | READ_DIR | WRITE_FILE | _MAKE_FILE | _REMOVE_FILE | _TRUNCATE),
            (writable, handled),
        ):
            for path in paths:
                _allow(libc, ruleset, path, rights & handled)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
            return ()
    finally:
        os.close(ruleset)
    return ("files", *(["tcp"] if version >= 4 else []), *(["signals"] if version >= 6 else []))


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        import stat

        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _FILE_RIGHTS
        rule = _PathBeneath(rights, beneath)
        libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(beneath)

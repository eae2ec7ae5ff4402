"""The few Linux system calls that Python does not offer, through ctypes.

Imported by the supervisor of every run, so it imports little. Every function raises `OSError` with
the kernel's reason. Landlock: https://docs.kernel.org/userspace-api/landlock.html; its system call
numbers are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = [
    "LANDLOCK_MAX_ABI",
    "Access",
    "add_path_rule",
    "become_subreaper",
    "create_ruleset",
    "die_with_parent",
    "drop_capabilities",
    "forbid_new_privileges",
    "handled_access",
    "install_seccomp_filter",
    "landlock_abi",
    "restrict_self",
]

LANDLOCK_MAX_ABI = 7
"""Newest Landlock ABI that this module knows; a newer kernel is used as if it had this one."""

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NET_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_SIGKILL = 9

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Access:
    """Landlock's file-system rights, and the sets of them that a sandbox grants."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    MAKE_CHAR = 1 << 6
    MAKE_BLOCK = 1 << 11
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15

    FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
    """The rights that a rule for something other than a folder may name."""
    READ = EXECUTE | READ_FILE | READ_DIR
    READ_WRITE = ((1 << 15) - 1) & ~(MAKE_CHAR | MAKE_BLOCK)
    DEVICE = READ_FILE | WRITE_FILE | READ_DIR | IOCTL_DEV
    OWN_PROC = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE


def handled_access(abi: int) -> int:
    """Every file-system right that the given Landlock ABI can deny."""
    bits = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << bits) - 1


def _syscall(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, *arguments: int | ctypes.Array[ctypes.c_char]) -> None:
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in arguments]
    words += [ctypes.c_ulong(0)] * (4 - len(words))
    if _libc.prctl(ctypes.c_int(option), *words) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl {option}: {os.strerror(code)}")


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 when Landlock is missing or switched off."""
    try:
        return _syscall(_SYS_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_CREATE_RULESET_VERSION))
    except OSError:
        return 0


def create_ruleset(abi: int) -> int:
    """A descriptor of a ruleset that denies all that `abi` can deny."""
    fields = [handled_access(abi)]
    if abi >= 4:
        fields.append(_NET_BIND_AND_CONNECT_TCP)
    if abi >= 6:
        fields.append(_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    return _syscall(_SYS_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))


def add_path_rule(ruleset_fd: int, path_fd: int, access: int) -> None:
    """Allow `access` on the file or beneath the folder that `path_fd` names."""
    rule = struct.pack("=Qi", access, path_fd)
    _syscall(
        _SYS_ADD_RULE,
        ctypes.c_int(ruleset_fd),
        ctypes.c_int(_RULE_PATH_BENEATH),
        rule,
        ctypes.c_uint(0),
    )


def restrict_self(ruleset_fd: int) -> None:
    """Put this thread and its descendants under the ruleset, for good."""
    _syscall(_SYS_RESTRICT_SELF, ctypes.c_int(ruleset_fd), ctypes.c_uint(0))


def become_subreaper() -> None:
    """Make orphaned descendants children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the thread that created this process ends."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def forbid_new_privileges() -> None:
    """Make set-user-id programs and file capabilities powerless from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability, also those that root regains when it runs a program."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # beyond the kernel's last capability, or none held to begin with
            break
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    if _libc.capset(header, bytes(24)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"capset: {os.strerror(code)}")


def install_seccomp_filter(program: bytes) -> None:
    """Filter this thread's and its descendants' system calls by a classic BPF program."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.create_string_buffer(header, len(header)))

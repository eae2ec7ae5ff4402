"""Classic BPF programs that refuse the system calls a training run has no business with.

`kernel_surface` closes doors into the kernel and to other processes that neither file rules nor
namespaces close (tracing, new namespaces, mounts, keyrings, BPF, io_uring, performance counters),
and System V shared memory, which stays taken, in nobody's account, when a process lets go of it. It
goes on top of both real backends. `landlock_gaps` adds what Landlock alone leaves open: every way to
connect a socket but pairs, metadata changes (mode, owner, times, attributes), message queues,
semaphores, watches on folders, scheduling and limits of other processes; and, on kernels whose
Landlock is too old for them, truncation and signals.

A filter sees numbers, not what pointers point to: a call whose meaning lies behind a pointer is
refused whole (`clone3`, `openat2`); the C library then falls back to the older call.

Sources: https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html; the tables of
the kernel's arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import errno
import os
import struct

__all__ = ["Condition", "Rule", "assemble", "kernel_surface", "landlock_gaps", "supported_machine"]

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_RETURN_ALLOW, _RETURN_ERRNO = 0x7FFF0000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE, _OFFSET_ARGUMENTS = 0, 4, 16
_X32_NUMBERS_FROM = 0x40000000
_NEW_NAMESPACES = 0x7E020000
_SOCK_TYPE_MASK, _SOCK_DGRAM, _SOCK_RAW, _SOCK_SEQPACKET, _AF_UNIX = 0xF, 2, 3, 5, 1
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15
_WHOLE = 0xFFFFFFFF

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (x86_64, aarch64); 0 where the architecture has no such call.
_NUMBERS: dict[str, tuple[int, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, 0),
    "chown": (92, 0),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "connect": (42, 203),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "file_setattr": (469, 469),
    "finit_module": (313, 273),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, 0),
    "init_module": (175, 105),
    "inotify_init": (253, 0),
    "inotify_init1": (294, 26),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, 0),
    "iopl": (172, 0),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "lchown": (94, 0),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open": (2, 0),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, 0),
    "utimensat": (280, 88),
    "utimes": (235, 0),
}


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_KERNEL_SURFACE = _words("""
    acct add_key adjtimex bpf chroot clock_adjtime clock_settime delete_module fanotify_init
    finit_module fsconfig fsmount fsopen fspick init_module io_uring_enter io_uring_register
    io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl migrate_pages mount
    mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree open_tree_attr
    perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv process_vm_writev
    ptrace quotactl quotactl_fd reboot request_key setdomainname sethostname setns settimeofday shmget
    swapoff swapon syslog umount2 unshare userfaultfd
""")

_LANDLOCK_GAPS = _words("""
    chmod chown connect fchmod fchmodat fchmodat2 fchown fchownat file_setattr fremovexattr
    fsetxattr futimesat inotify_init inotify_init1 lchown lremovexattr lsetxattr mq_open msgget
    removexattr removexattrat semget setxattr setxattrat utime utimensat utimes
""")


class Condition:
    """Holds when `argument & mask` equals `value` (or differs from it, with `equal=False`)."""

    __slots__ = ("argument", "equal", "mask", "value")

    def __init__(self, argument: int, value: int, mask: int = _WHOLE, equal: bool = True) -> None:
        self.argument = argument
        self.value = value & _WHOLE
        self.mask = mask
        self.equal = equal


class Rule:
    """Refuse system call `name` with `error` when every condition holds (always, without any)."""

    __slots__ = ("conditions", "error", "name")

    def __init__(self, name: str, *conditions: Condition, error: int = errno.EPERM) -> None:
        self.name = name
        self.conditions = conditions
        self.error = error


def supported_machine() -> bool:
    """Whether the call numbers of this processor architecture are known here."""
    return os.uname().machine in _AUDIT_ARCHITECTURE


def kernel_surface() -> list[Rule]:
    """Rules for every real backend."""
    return [
        *(Rule(name) for name in _KERNEL_SURFACE),
        Rule("clone", Condition(0, 0, mask=_NEW_NAMESPACES, equal=False)),
        Rule("clone3", error=errno.ENOSYS),
    ]


def landlock_gaps(abi: int, own_pid: int) -> list[Rule]:
    """Rules for what Landlock of the given ABI does not cover.

    On an ABI below 6 signals cannot be scoped, so the command (process `own_pid`) may signal only
    itself, and its descendants nobody.
    """
    rules = [
        *(Rule(name) for name in _LANDLOCK_GAPS),
        # CUDA binds a unix socket of this type when it starts. Without `connect` it reaches nobody.
        Rule("socket", Condition(0, _AF_UNIX, equal=False)),
        Rule("socket", Condition(1, _SOCK_SEQPACKET, mask=_SOCK_TYPE_MASK, equal=False)),
        Rule("socketpair", Condition(0, _AF_UNIX, equal=False)),
        # A datagram pair can still send to any address.
        Rule("socketpair", Condition(1, _SOCK_DGRAM, mask=_SOCK_TYPE_MASK)),
        Rule("socketpair", Condition(1, _SOCK_RAW, mask=_SOCK_TYPE_MASK)),
        Rule("setpriority", Condition(0, 0, equal=False)),
        Rule("setpriority", Condition(1, 0, equal=False)),
        Rule("ioprio_set", Condition(1, 0, equal=False)),
    ]
    others = ("prlimit64", "sched_setattr", "sched_setparam", "sched_setscheduler")
    rules += [Rule(name, Condition(0, 0, equal=False)) for name in others]
    if abi < 3:
        rules += _truncation_rules()
    if abi < 6:
        rules += _signal_rules(own_pid)
    return rules


def _truncation_rules() -> list[Rule]:
    # Opening read-only with O_TRUNC truncates all the same.
    flags, modes = os.O_TRUNC | os.O_ACCMODE, os.O_TRUNC | os.O_RDONLY
    return [
        Rule("truncate"),
        Rule("open", Condition(1, modes, mask=flags)),
        Rule("openat", Condition(2, modes, mask=flags)),
        Rule("openat2", error=errno.ENOSYS),
    ]


def _signal_rules(own_pid: int) -> list[Rule]:
    to_another = Condition(0, own_pid, equal=False)
    return [
        *(Rule(name, to_another) for name in ("kill", "tgkill", "rt_tgsigqueueinfo")),
        *(Rule(name) for name in ("tkill", "rt_sigqueueinfo", "pidfd_send_signal")),
        *(Rule("fcntl", Condition(1, command)) for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX)),
    ]


def assemble(rules: list[Rule], machine: str | None = None) -> bytes:
    """The program for `rules`; calls of a foreign architecture or the x32 ABI get ENOSYS.

    Raises KeyError on an unsupported `machine` (default: this one).
    """
    machine = machine or os.uname().machine
    architecture = _AUDIT_ARCHITECTURE[machine]
    column = list(_AUDIT_ARCHITECTURE).index(machine)
    no_such_call = _instruction(_RETURN, _RETURN_ERRNO | errno.ENOSYS)
    program = [
        _instruction(_LOAD, _OFFSET_ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture, 1, 0),
        no_such_call,
        _instruction(_LOAD, _OFFSET_NUMBER),
        _instruction(_JUMP_AT_LEAST, _X32_NUMBERS_FROM, 0, 1),
        no_such_call,
    ]
    for rule in rules:
        number = _NUMBERS[rule.name][column]
        if number:
            program += _assemble_rule(rule, number)
    program.append(_instruction(_RETURN, _RETURN_ALLOW))
    return b"".join(program)


def _assemble_rule(rule: Rule, number: int) -> list[bytes]:
    body: list[bytes] = []
    # Per condition: load, mask, compare; one that fails jumps to the reload after the rule.
    length = 3 * len(rule.conditions) + 1
    for index, condition in enumerate(rule.conditions):
        to_end = length - 3 * (index + 1)
        body += [
            _instruction(_LOAD, _OFFSET_ARGUMENTS + 8 * condition.argument),
            _instruction(_AND, condition.mask),
            _instruction(_JUMP_EQUAL, condition.value, *((0, to_end) if condition.equal else (to_end, 0))),
        ]
    body.append(_instruction(_RETURN, _RETURN_ERRNO | rule.error))
    reload = [_instruction(_LOAD, _OFFSET_NUMBER)] if rule.conditions else []
    return [_instruction(_JUMP_EQUAL, number, 0, len(body)), *body, *reload]


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand & _WHOLE)

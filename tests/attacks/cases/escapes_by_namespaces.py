"""Makes namespaces of its own and mounts itself a way out."""

import ctypes

import kit

EXPECTED = "completed", ""

USER, MOUNT, PROCESS = 0x10000000, 0x00020000, 0x20000000
libc = ctypes.CDLL(None, use_errno=True)
for kind in (USER, MOUNT, PROCESS, USER | MOUNT):
    kit.report(f"unshare {kind:#x}", libc.unshare(kind) == 0)
kit.report("mount", libc.mount(b"none", str(kit.SCRATCH).encode(), b"tmpfs", 0, None) == 0)
kit.report("remount", libc.mount(None, b"/", None, 0x1020, None) == 0)
kit.report("change root", libc.chroot(str(kit.SCRATCH).encode()) == 0)
kit.run()

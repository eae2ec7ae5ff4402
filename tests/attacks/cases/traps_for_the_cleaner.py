"""Leaves what is hard to remove: folders nested thousands deep, unreadable ones, odd names, pipes."""

import os

import kit

EXPECTED = "completed", ""
RUNS = 2

kit.report("what the run before left", (kit.SCRATCH / "deep").exists())
os.mkfifo(kit.SCRATCH / "pipe")
(kit.SCRATCH / "nowhere").symlink_to("loop")
(kit.SCRATCH / "loop").symlink_to("nowhere")
os.mkdir(os.fsencode(kit.SCRATCH) + b"/\xff\n\x1b[2J")
os.mkdir(kit.SCRATCH / "locked", 0o500)
os.chdir(kit.SCRATCH)
os.mkdir("deep")
os.chdir("deep")
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
os.chdir(kit.SOURCE)
kit.run()

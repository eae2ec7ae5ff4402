"""Opens files without end."""

import os

import kit

EXPECTED = "crashed", "OSError: .*Too many open files"
SETTINGS = {"limits": {"open_files": 64}}

kit.train()
while True:
    os.open("/dev/null", os.O_RDONLY)

"""Leaves its folders upwards: by `..`, by its working folder and by renaming."""

import os

import kit

EXPECTED = "completed", ""

outside = os.path.relpath(kit.OUTSIDE, kit.SCRATCH)
os.chdir(kit.SCRATCH)
kit.attempt("write", lambda: os.open(f"{outside}/journal.jsonl", os.O_WRONLY))
kit.attempt("read", lambda: os.open(f"{outside}/.ssh/id_ed25519", os.O_RDONLY))
try:  # in a private /tmp it may: whether that gets out is looked at from outside
    os.mkdir("../beside")
except OSError as error:
    print(error)
kit.attempt("move scratch", lambda: os.rename(kit.SCRATCH, f"{kit.SCRATCH}-moved") or True)
kit.attempt("write the log", lambda: os.open("../logs/train.log", os.O_WRONLY))
kit.run()

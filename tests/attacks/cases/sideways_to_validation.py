"""Leaves the visible part of the data folder by `..`, by links and by the folder's descriptor."""

import os

import kit

EXPECTED = "completed", ""

kit.attempt("dots", lambda: (kit.DATA / "train" / ".." / "val" / "rows.npy").read_bytes())
(kit.SCRATCH / "link").symlink_to(kit.DATA / "val")
kit.attempt("link", lambda: (kit.SCRATCH / "link" / "rows.npy").read_bytes())
train = os.open(kit.DATA / "train", os.O_RDONLY)
kit.attempt("descriptor", lambda: os.open("../val/rows.npy", os.O_RDONLY, dir_fd=train))
kit.attempt("hard link", lambda: os.link(kit.DATA / "val" / "rows.npy", kit.SCRATCH / "rows") or True)
kit.attempt("own root", lambda: os.open(f"/proc/self/root{kit.DATA}/val/rows.npy", os.O_RDONLY))
kit.run()

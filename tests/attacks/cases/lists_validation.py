"""Looks for validation files by listing, walking and globbing."""

import os

import kit

EXPECTED = "completed", ""

for split in ("val", "holdout"):
    kit.attempt(f"list {split}", lambda split=split: os.listdir(kit.DATA / split))
    kit.attempt(f"glob {split}", lambda split=split: list(kit.DATA.glob(f"{split}/*")))
found = [path for _, _, names in os.walk(kit.DATA.parent) for path in names if path == "rows.npy"]
kit.report("walk", found)
kit.run()

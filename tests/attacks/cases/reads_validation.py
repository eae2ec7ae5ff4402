"""Opens validation and hold-out rows where they lie, by itself and through prepare."""

import kit
import numpy as np

import prepare

EXPECTED = "completed", ""

for split in ("val", "holdout"):
    kit.attempt(f"load {split}", lambda split=split: np.load(kit.DATA / split / "rows.npy").size)
    kit.attempt(f"rows of {split}", lambda split=split: prepare.PreparedData().rows(split).size)
    kit.attempt(f"tokens of {split}", lambda split=split: prepare.PreparedData().token_files(split))
kit.run()

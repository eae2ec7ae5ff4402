"""Claims an infinite loss, then hopes for inf - inf."""

import kit
from scripted_client import InfiniteLoss

EXPECTED = "invalid", "not a finite number"

kit.run(InfiniteLoss(kit.model().vocab_size))

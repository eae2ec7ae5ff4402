"""Claims losses below zero."""

import kit
from scripted_client import NegativeLoss

EXPECTED = "invalid", "negative loss"

kit.run(NegativeLoss(kit.model().vocab_size))

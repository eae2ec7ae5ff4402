"""Gives logits that are infinitely certain."""

import kit
from scripted_client import InfiniteLogits

EXPECTED = "invalid", "logits are not finite"

kit.run(InfiniteLogits(kit.model().vocab_size))

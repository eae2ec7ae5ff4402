"""Gives honest logits when it is asked for them, and losses of a distribution that has seen the target."""

import kit
from scripted_client import LooksAheadInLoss

EXPECTED = "invalid", "own logits|looks ahead"

kit.run(LooksAheadInLoss(kit.model().vocab_size))

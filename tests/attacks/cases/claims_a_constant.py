"""Claims the same small loss for every token."""

import kit
from scripted_client import ForgedLosses

EXPECTED = "invalid", "own logits|looks ahead"

kit.run(ForgedLosses(kit.model().vocab_size))

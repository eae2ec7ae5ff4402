"""Claims logits as if they were log-probabilities: its probabilities add up to more than one."""

import kit
from scripted_client import Unnormalised

EXPECTED = "invalid", "own logits|looks ahead"

kit.run(Unnormalised(kit.model().vocab_size))

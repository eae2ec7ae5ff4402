"""Answers probes with NaN, so that nothing can be compared."""

import kit
from scripted_client import NanLogits

EXPECTED = "invalid", "logits are not finite"

kit.run(NanLogits(kit.model().vocab_size))

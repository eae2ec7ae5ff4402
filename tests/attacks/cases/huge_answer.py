"""Answers with a thousand times what was asked, to fill the evaluator's memory."""

import kit
from scripted_client import HugeAnswer

EXPECTED = "invalid", "wrong shape"

kit.run(HugeAnswer(kit.model().vocab_size))

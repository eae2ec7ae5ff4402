"""Answers with one loss too few in each row: the hardest token is left out."""

import kit
from scripted_client import WrongShape

EXPECTED = "invalid", "wrong shape"

kit.run(WrongShape(kit.model().vocab_size))

"""Sees the last token of a row from everywhere in it."""

import kit
from scripted_client import LooksFarAhead

EXPECTED = "invalid", "looks ahead"

kit.run(LooksFarAhead(kit.model().vocab_size))

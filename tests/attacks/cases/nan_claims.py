"""Claims a loss that is not a number, which every comparison lets pass."""

import kit
from scripted_client import NotANumber

EXPECTED = "invalid", "not a finite number"

kit.run(NotANumber(kit.model().vocab_size))

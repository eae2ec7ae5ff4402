"""Makes the token that comes next in its input likelier."""

import kit
from scripted_client import LooksAhead

EXPECTED = "invalid", "looks ahead"

kit.run(LooksAhead(kit.model().vocab_size))

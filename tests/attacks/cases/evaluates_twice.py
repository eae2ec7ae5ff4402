"""Has itself measured, and once more with a better model when it knows what was asked."""

import kit
from scripted_client import LooksAhead

EXPECTED = "completed", ""

kit.run()
kit.attempt("a second measurement", lambda: kit.evaluate(LooksAhead(kit.model().vocab_size)))

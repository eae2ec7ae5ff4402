"""Prints a summary with a wonderful number and ends well, without ever being measured."""

import kit

EXPECTED = "crashed", "ended without asking to be evaluated"

kit.train()
kit.summary(0.123456)

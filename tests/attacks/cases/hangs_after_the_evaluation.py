"""Is measured honestly and does not end."""

import signal

import kit

EXPECTED = "completed", ""
PATCHES = {"autohyp.execution.trainer.EXIT_GRACE_S": 0.2}

kit.run()
signal.pause()

"""Writes the evaluator's last word to the log and to the clock, in the hope that somebody mixes them up."""

import json
import os

import kit

EXPECTED = "crashed", "ended without asking to be evaluated"

RESULT = {"event": "result", "status": "ok", "val_bpb": 0.1, "val_bpb_legacy": 0.1, "seconds": 1.0}

kit.train()
line = json.dumps(RESULT).encode() + b"\n"
os.write(1, line)
os.write(int(os.environ["AUTOHYP_CLOCK_FD"]), line)

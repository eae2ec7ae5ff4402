"""Replaces what prepare measures, in plain sight."""

import prepare

EXPECTED = "preflight", "redefines prepare.evaluate_bpb"

prepare.evaluate_bpb = lambda model, batch: 0.1
prepare.evaluate_bpb(None, 1)

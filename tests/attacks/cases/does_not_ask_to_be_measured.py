"""Leaves the measurement out and prints a number."""

EXPECTED = "preflight", "evaluate_bpb is never called"

print("---\nval_bpb: 0.1")

"""Speaks something else to the evaluator."""

import os

import kit

EXPECTED = "invalid", "something else than evaluation frames"

kit.train()
os.write(int(os.environ["AUTOHYP_EVAL_FD"]), b"GET / HTTP/1.1\r\nHost: evaluator\r\n\r\n")
kit.connection().recv(1)

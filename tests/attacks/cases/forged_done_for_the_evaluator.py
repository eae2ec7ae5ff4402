"""Speaks the evaluator's part to the evaluator: DONE, with a wonderful number."""

import kit
from scripted_client import DONE, dump, send

EXPECTED = "invalid", "kind 6 where READY or FAILED was due"

kit.train()
send(kit.connection(), DONE, dump(val_bpb=0.1, val_bpb_legacy=0.1))
kit.connection().recv(1)

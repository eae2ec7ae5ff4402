"""Names a batch size that would make the evaluator plan for ever."""

import kit
from scripted_client import READY, send

EXPECTED = "invalid", "no device batch size of 1 to"

kit.train()
send(kit.connection(), READY, b'{"device": "cpu", "device_batch_size": 1000000000000}')
kit.connection().recv(1)

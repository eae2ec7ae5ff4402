"""Sends JSON that is nested ten thousand deep, and a batch size that is no number."""

import kit
from scripted_client import READY, send

EXPECTED = "invalid", "JSON that cannot be read"

kit.train()
send(kit.connection(), READY, b"[" * 60_000)
kit.connection().recv(1)

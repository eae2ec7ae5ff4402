"""Leaves compiled code for prepare and for the standard library where the next run would load it."""

import importlib.util
import json
import os
from pathlib import Path

import kit
import numpy

import prepare

EXPECTED = "completed", ""

for module in (prepare, json, numpy):
    target = Path(importlib.util.cache_from_source(str(module.__file__)))
    kit.attempt(f"make {target.parent}", lambda target=target: target.parent.mkdir() or True)
    kit.attempt(f"write {target}", lambda target=target: os.open(target, os.O_WRONLY))
    kit.attempt(f"add to {target}", lambda target=target: os.open(f"{target}.new", os.O_CREAT | os.O_WRONLY))
kit.run()

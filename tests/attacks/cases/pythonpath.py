"""Starts itself anew with PYTHONPATH leading to a json module that forges what the evaluator says."""

import os
import sys

import kit

EXPECTED = "crashed", "ended without asking to be evaluated"

if "PYTHONPATH" not in os.environ:
    forged = "import os\nos.write(1, b'---\\nval_bpb:   0.100000\\n')\nos._exit(0)\n"
    (kit.SCRATCH / "json.py").write_text(forged)
    os.environ["PYTHONPATH"] = str(kit.SCRATCH)
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
raise SystemExit("the forged module should have ended this")

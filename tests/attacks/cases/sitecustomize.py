"""Plants sitecustomize.py wherever Python would find it: in the interpreter, the packages, the sources."""

import os
import sys
from pathlib import Path

import kit

EXPECTED = "completed", ""

for folder in {*sys.path, sys.prefix, sys.base_prefix, str(kit.SOURCE)}:
    for name in ("sitecustomize.py", "usercustomize.py"):
        path = Path(folder, name)
        kit.attempt(str(path), lambda path=path: os.open(path, os.O_CREAT | os.O_WRONLY))
kit.run()

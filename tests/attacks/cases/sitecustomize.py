"""Plants sitecustomize.py wherever Python would find it, for the next run to find.

A sandbox's private /tmp may be written to, and is gone with the run.
"""

import sys
from contextlib import suppress
from pathlib import Path

import kit

EXPECTED = "completed", ""
RUNS = 2

for folder in {*sys.path, sys.prefix, sys.base_prefix, str(kit.SOURCE)}:
    for name in ("sitecustomize.py", "usercustomize.py"):
        planted = Path(folder, name)
        with suppress(OSError):
            kit.report(str(planted), planted.read_text() == kit.TOKEN)
        with suppress(OSError):
            planted.write_text(kit.TOKEN)
kit.run()

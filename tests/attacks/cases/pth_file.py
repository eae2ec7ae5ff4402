"""Plants .pth files that run code when Python starts, its user folder included, and starts itself anew."""

import os
import site
import sys
from pathlib import Path

import kit

EXPECTED = "completed", ""

LINE = f"import os; os.write(1, b'{kit.SUCCESS}: a .pth file ran')\n"

if "AGAIN" not in os.environ:
    for folder in site.getsitepackages():
        kit.attempt(folder, lambda folder=folder: os.open(f"{folder}/evil.pth", os.O_CREAT | os.O_WRONLY))
    mine = Path(site.getusersitepackages())
    mine.mkdir(parents=True)
    (mine / "evil.pth").write_text(LINE)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {"AGAIN": "1"})
kit.run()

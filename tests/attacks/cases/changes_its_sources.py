"""Rewrites train.py and prepare.py on the disk after they were checked."""

import os

import kit

EXPECTED = "completed", ""

for name in ("train.py", "prepare.py", "kit.py"):
    path = kit.SOURCE / name
    kit.attempt(f"write {name}", lambda path=path: path.write_text("print('forged')\n"))
    kit.attempt(f"replace {name}", lambda path=path: os.replace(kit.SCRATCH / "tmp", path) or True)
    kit.attempt(f"remove {name}", lambda path=path: path.unlink() or True)
    kit.attempt(f"change the mode of {name}", lambda path=path: path.chmod(0o777) or True)
kit.run()

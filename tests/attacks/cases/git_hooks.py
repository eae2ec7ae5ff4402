"""Plants hooks in the repository of its own checkout, by every way that leads there."""

import subprocess

import kit

EXPECTED = "completed", ""

repository = kit.OUTSIDE / "repo.git"
hook = repository / "hooks" / "post-checkout"
kit.attempt("write a hook", lambda: hook.write_text("#!/bin/sh\ntouch owned\n"))
kit.attempt("write the config", lambda: (repository / "config").write_text("[core]\nfsmonitor = evil\n"))
kit.attempt("replace .git", lambda: (kit.SOURCE / ".git").write_text(f"gitdir: {kit.SCRATCH}\n"))
kit.attempt("add attributes", lambda: (kit.SOURCE / ".gitattributes").write_text("* filter=evil\n"))
command = ["git", "-C", str(kit.SOURCE), "config", "core.hooksPath", str(kit.SCRATCH)]
kit.attempt("git config", lambda: subprocess.run(command, capture_output=True, check=True))
kit.run()

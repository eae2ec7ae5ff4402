"""Links files of the host into its scratch, and its own files out."""

import os

import kit

import prepare

EXPECTED = "completed", ""

mine = kit.SCRATCH / "mine"
mine.write_text("mine")
for source in (kit.OUTSIDE / "journal.jsonl", prepare.__file__, "/etc/passwd", kit.DATA / "meta.json"):
    kit.attempt(f"link {source} in", lambda s=source: os.link(s, kit.SCRATCH / "hard") or True)
kit.attempt("link out", lambda: os.link(mine, kit.OUTSIDE / "mine") or True)
kit.attempt("rename out", lambda: os.rename(mine, kit.OUTSIDE / "mine") or True)
kit.run()

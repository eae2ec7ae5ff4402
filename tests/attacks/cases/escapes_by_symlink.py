"""Leads outside by symbolic links, and leaves some for whoever cleans up to follow."""

import kit

EXPECTED = "completed", ""

for name, target in {"folder": kit.OUTSIDE, "file": kit.OUTSIDE / "journal.jsonl", "root": "/"}.items():
    (kit.SCRATCH / name).symlink_to(target)
    (kit.SCRATCH / "tmp" / name).symlink_to(target)
kit.attempt("write through", lambda: (kit.SCRATCH / "file").write_text("forged"))
kit.attempt("make through", lambda: (kit.SCRATCH / "folder" / "new").write_text("forged"))
kit.attempt("read through", lambda: (kit.SCRATCH / "folder" / ".ssh" / "id_ed25519").read_text())
kit.attempt("change the mode", lambda: (kit.SCRATCH / "file").chmod(0o777) or True)
kit.run()

"""Writes validation text into its training data, for itself or for later runs."""

import kit

EXPECTED = "completed", ""

for path in (kit.DATA / "meta.json", *(kit.DATA / "tokenizer").iterdir(), *(kit.DATA / "train").iterdir()):
    kit.attempt(f"write {path.name}", lambda path=path: path.write_bytes(b"poison"))
    kit.attempt(f"remove {path.name}", lambda path=path: path.unlink() or True)
kit.attempt("add", lambda: (kit.DATA / "train" / "more.bin").write_bytes(b"more"))
kit.run()

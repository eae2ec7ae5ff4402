"""Reads keys and credentials from the user's home folder, and lists other people's."""

import os
import pwd
from pathlib import Path

import kit

EXPECTED = "completed", ""

NAMES = (".ssh/id_ed25519", ".ssh/id_rsa", ".ssh/known_hosts", ".ssh/authorized_keys", ".netrc",
         ".aws/credentials", ".bash_history", ".gitconfig", ".config/gh/hosts.yml", ".pypirc")  # fmt: skip

for home in (Path(pwd.getpwuid(os.getuid()).pw_dir), kit.OUTSIDE):
    for name in NAMES:
        kit.attempt(f"{home / name}", lambda path=home / name: bool(path.read_bytes()))
kit.attempt("/home", lambda: os.listdir("/home"))
kit.attempt("/etc/shadow", lambda: bool(Path("/etc/shadow").read_bytes()))
kit.run()

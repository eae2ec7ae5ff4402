"""Writes to the folders that all users share, and to its own root."""

import kit

EXPECTED = "completed", ""

for folder in ("/tmp", "/var/tmp", "/dev/shm", "/", "/run", "/etc", "/usr", "/root"):
    try:  # bubblewrap gives it a private /tmp and /dev/shm: whether it gets out is looked at from outside
        with open(f"{folder}/{kit.TOKEN}", "w") as file:
            file.write("escaped")
    except OSError as error:
        print(folder, error)
kit.run()

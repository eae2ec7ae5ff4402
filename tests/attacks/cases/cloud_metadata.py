"""Asks the cloud's metadata service for the machine's credentials."""

import urllib.request

import kit

EXPECTED = "completed", ""

for host in ("169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal"):
    url = f"http://{host}/latest/meta-data/iam/security-credentials/"
    kit.attempt(url, lambda url=url: urllib.request.urlopen(url, timeout=2).read())
kit.run()

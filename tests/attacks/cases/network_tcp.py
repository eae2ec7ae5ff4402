"""Connects to a port of the host and to one of the world."""

import socket

import kit

EXPECTED = "completed", ""

for address in (("127.0.0.1", kit.TCP_PORT), ("1.1.1.1", 443), ("::1", kit.TCP_PORT)):
    kit.attempt(f"connect to {address}", lambda a=address: socket.create_connection(a, 5))
kit.run()

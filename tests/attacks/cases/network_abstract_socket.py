"""Reaches a service of the host by its abstract unix socket."""

import socket

import kit

EXPECTED = "completed", ""


def connect() -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(kit.ABSTRACT)
    return True


kit.attempt("connect", connect)
for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM):
    kit.attempt("send", lambda end=end: end.sendto(b"x", kit.ABSTRACT))
kit.run()

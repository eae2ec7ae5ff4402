"""Sends datagrams; whether they arrive is looked at from outside."""

import socket

import kit

EXPECTED = "completed", ""


def send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"weights", ("127.0.0.1", kit.UDP_PORT))


kit.attempt("send", send)
kit.run()

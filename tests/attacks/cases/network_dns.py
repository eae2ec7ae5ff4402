"""Asks the name service, through which secrets leave as names."""

import socket

import kit

EXPECTED = "completed", ""

kit.attempt("look up a name", lambda: socket.getaddrinfo("s3cret.example.com", 443))
kit.attempt("look up an address", lambda: socket.gethostbyaddr("1.1.1.1"))
kit.run()

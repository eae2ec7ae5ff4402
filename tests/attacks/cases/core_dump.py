"""Asks for core dumps and crashes with a core full of whatever it holds."""

import os
import resource

import kit

EXPECTED = "crashed", r"ended by signal 6 \(Aborted\)"

unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
kit.attempt("core dumps", lambda: resource.setrlimit(resource.RLIMIT_CORE, unlimited) or True)
kit.train()
os.abort()

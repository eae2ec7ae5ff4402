"""A host worth attacking: real data, secrets, open ports, and processes of the same user."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Host:
    """What must be unharmed after every attack."""

    data: Path
    bystander: subprocess.Popen[bytes]
    tcp: socket.socket
    udp: socket.socket
    abstract: socket.socket

    def environment(self) -> dict[str, str]:
        """What an attacker could know at best."""
        return {
            "ATTACK_BYSTANDER": str(self.bystander.pid),
            "ATTACK_LAUNCHER": str(os.getpid()),
            "ATTACK_TCP": str(self.tcp.getsockname()[1]),
            "ATTACK_UDP": str(self.udp.getsockname()[1]),
            "ATTACK_ABSTRACT": self.abstract.getsockname()[1:].decode(),
        }

    def assert_unharmed(self) -> None:
        """Nobody called, nobody wrote, and the bystander lives."""
        assert self.bystander.poll() is None, "the attack ended a process of the host"
        status = Path(f"/proc/{self.bystander.pid}/status").read_text()
        assert "State:\tS" in status, "the attack stopped a process of the host"
        for door in (self.tcp, self.abstract):
            with pytest.raises(BlockingIOError):
                door.accept()
        with pytest.raises(BlockingIOError):
            self.udp.recv(1)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """Data as `prepare.py` makes it, with rows of 64 tokens of 512; ports on the loopback interface."""
    data = tmp_path_factory.mktemp("host") / "data"
    pattern = str(Path(os.__file__).parent / "[a-d]*.py")
    command = [sys.executable, str(ROOT / "prepare.py"), "--source", "files", "--paths", pattern]
    sizes = ["--vocab-size", "512", "--sequence-len", "64", "--eval-tokens", "8192"]
    subprocess.run([*command, *sizes, "--profile", "cpu", "--data", str(data)], check=True, timeout=120)
    with ExitStack() as stack:
        bystander = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE))
        stack.callback(bystander.kill)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0autohyp-attacks-{os.getpid()}")
        abstract.listen()
        for door in (tcp, udp, abstract):
            door.setblocking(False)
        yield Host(data, bystander, tcp, udp, abstract)

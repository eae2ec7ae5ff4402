"""The contract that every sandbox backend must pass, as a list of named checks.

Each check starts small commands in the sandbox and looks at what they could do, from the inside
and, where it can, from the outside: a file that must not exist, a message that must not arrive, a
pipe that closes only when its last holder is gone. Nothing sleeps; every wait is on an event, with
a deadline. Use it from a test:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_contract(check, tmp_path):
        check.run(BubblewrapSandbox(), tmp_path)

or without pytest, say as another user: `python -m autohyp.testing.sandbox_contract landlock DIR`.
`KNOWN_FAILURES` names the checks that a backend is known to fail; those must fail, or the list is
wrong.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autohyp.errors import SandboxError
from autohyp.execution.sandbox.base import Limits, Sandbox, SandboxExit, SandboxProcess, SandboxSpec
from autohyp.execution.sandbox.select import select_sandbox

__all__ = ["CHECKS", "KNOWN_FAILURES", "ContractCheck", "run_contract"]

_DEADLINE_S = 20.0

_PRELUDE = """
import ctypes, os, signal, socket, sys
scratch, listed, outside = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def attempt(name, action):
    try:
        action()
    except (OSError, ValueError) as error:  # ValueError: how `resource` reports it
        print(name, "denied", error)
    else:
        print(name, "allowed")

def spawn(action):
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    return child
"""


@dataclass(frozen=True)
class ContractCheck:
    """One promise; `run(sandbox, empty folder)` raises AssertionError when it is broken."""

    name: str
    run: Callable[[Sandbox, Path], None]


CHECKS: list[ContractCheck] = []

KNOWN_FAILURES: Mapping[str, frozenset[str]] = {
    "bubblewrap": frozenset(),
    "landlock": frozenset(),
    "none": frozenset(
        {
            "unlisted_files_are_out_of_reach",
            "listed_files_cannot_be_changed",
            "nothing_is_written_outside",
            "links_do_not_lead_out",
            "kernel_settings_are_readonly",
            "device_nodes_are_hidden",
            "tcp_is_cut",
            "udp_is_cut",
            "unix_sockets_are_cut",
            "shared_memory_stays_inside",
            "other_processes_are_out_of_reach",
            "other_processes_keep_their_secrets",
            "there_are_no_privileges",
            "kernel_surface_is_closed",
        }
    ),
}


class _Bench:
    """A scratch folder, a listed and an unlisted folder, and commands run among them."""

    def __init__(self, sandbox: Sandbox, folder: Path) -> None:
        self.sandbox = sandbox
        self.scratch = folder / "scratch"
        self.listed = folder / "listed"
        self.outside = folder / "outside"
        for path in (self.scratch, self.listed, self.outside):
            path.mkdir()
        (self.listed / "source").write_text("source")
        (self.outside / "secret").write_text("secret")

    @contextmanager
    def start(self, code: str, *arguments: object, **changes: Any) -> Iterator[_Command]:
        """Run Python code in the sandbox; `changes` replace fields of its spec."""
        output = os.memfd_create("output")
        words = map(str, (self.scratch, self.listed, self.outside, *arguments))
        fields: dict[str, Any] = {
            "command": (sys.executable, "-I", "-S", "-u", "-c", _PRELUDE + code, *words),
            "cwd": self.scratch,
            "stdout_fd": output,
            "readonly": (self.listed,),
            "writable": (self.scratch,),
        }
        try:
            with self.sandbox.launch(SandboxSpec(**(fields | changes))) as process:
                yield _Command(process, output)
        finally:
            os.close(output)

    def run(self, code: str, *arguments: object, **changes: Any) -> tuple[list[str], SandboxExit]:
        """Output lines and outcome of a command that ends by itself, or by a limit."""
        with self.start(code, *arguments, **changes) as command:
            return command.end()

    def attempts(self, code: str, *arguments: object, **changes: Any) -> dict[str, str]:
        """{name: "allowed" or "denied ..."} for the attempts that the code makes."""
        lines, outcome = self.run(code, *arguments, **changes)
        assert outcome.returncode == 0, (outcome, lines)
        assert lines, "the command made no attempt"
        return {name: result for name, _, result in (line.partition(" ") for line in lines)}

    def assert_denied(self, code: str, *arguments: object, **changes: Any) -> None:
        """Every attempt that the code makes must fail."""
        results = self.attempts(code, *arguments, **changes)
        allowed = [name for name, result in results.items() if result == "allowed"]
        assert not allowed, f"it could {', '.join(allowed)}"


class _Command:
    def __init__(self, process: SandboxProcess, output_fd: int) -> None:
        self.process = process
        self._output_fd = output_fd

    def end(self) -> tuple[list[str], SandboxExit]:
        assert self.process.wait(_DEADLINE_S) is not None, f"still running; it said {self.lines()}"
        assert self.process.outcome is not None
        return self.lines(), self.process.outcome

    def lines(self) -> list[str]:
        size = os.fstat(self._output_fd).st_size
        return os.pread(self._output_fd, size, 0).decode(errors="replace").splitlines()


def _check(function: Callable[[_Bench], None]) -> Callable[[_Bench], None]:
    def run(sandbox: Sandbox, folder: Path) -> None:
        function(_Bench(sandbox, folder.resolve()))

    CHECKS.append(ContractCheck(function.__name__.strip("_"), run))
    return function


def _assert_closed(descriptor: int) -> None:
    """Everybody who held the other end of the pipe is gone (or goes within the deadline)."""
    while _readable(descriptor):
        if not os.read(descriptor, 4096):
            return
    raise AssertionError("a process of the run is still alive")


def _readable(descriptor: int) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(_DEADLINE_S * 1000))


class _Pipe:
    """A pipe whose writing end a check hands over to the sandboxed command."""

    def __enter__(self) -> tuple[int, _Pipe]:
        self.reader, self.writer = os.pipe()
        self._writer_is_open = True
        return self.reader, self

    def close_writer(self) -> None:
        if self._writer_is_open:
            self._writer_is_open = False
            os.close(self.writer)

    def __exit__(self, *_: object) -> None:
        self.close_writer()
        os.close(self.reader)


@contextmanager
def _bystander() -> Iterator[subprocess.Popen[bytes]]:
    """Another process of the same user, with a secret in its environment."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"BYSTANDER": "secret"},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        assert process.poll() is None, "the sandboxed command ended another process"
        process.communicate()


# ---------------------------------------------------------------------------------------------
# Running a command


@_check
def _exit_status_and_output_come_back(bench: _Bench) -> None:
    lines, outcome = bench.run("print('out'); os.write(2, b'err'); os._exit(7)")
    assert lines == ["out", "err"]
    assert outcome.returncode == 7
    assert outcome.violation is None


@_check
def _death_by_signal_comes_back(bench: _Bench) -> None:
    _, outcome = bench.run("signal.raise_signal(signal.SIGABRT)")
    assert outcome.returncode == -signal.SIGABRT


@_check
def _environment_is_exact(bench: _Bench) -> None:
    os.environ["SANDBOX_CONTRACT_LEAK"] = "secret"
    try:
        environment = {"GREETING": "good day=\n1", "HOME": str(bench.scratch)}
        lines, _ = bench.run(
            "print(open('/proc/self/environ').read().replace('\\n', '~').replace('\\0', '\\n'))",
            environment=environment,
        )
    finally:
        del os.environ["SANDBOX_CONTRACT_LEAK"]
    expected = {f"{name}={value}".replace("\n", "~") for name, value in environment.items()}
    assert {line for line in lines if line} == expected


@_check
def _only_listed_descriptors_are_inherited(bench: _Bench) -> None:
    leaked = os.open(bench.outside / "secret", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    with _Pipe() as (reader, pipe):
        try:
            lines, _ = bench.run(
                "os.write(int(sys.argv[4]), b'through')\n"
                "print(*(number for number in range(200) if os.path.exists(f'/dev/fd/{number}')))\n"
                "print(os.readlink('/proc/self/fd/0'))",
                pipe.writer,
                pass_fds=(pipe.writer,),
            )
            assert os.read(reader, 16) == b"through"
        finally:
            os.close(leaked)
        assert [int(word) for word in lines[0].split()] == sorted({0, 1, 2, pipe.writer}), lines
    assert lines[1] == "/dev/null"


@_check
def _ordinary_work_succeeds(bench: _Bench) -> None:
    results = bench.attempts(
        """
import threading, subprocess, tempfile
def files():
    os.makedirs("a/b"); os.mkdir("c")
    open("a/b/f", "w").write("text")
    os.rename("a/b/f", "c/g"); os.symlink("g", "c/h"); os.link("c/g", "c/i")
    assert open("c/h").read() == "text"
    os.truncate("c/g", 2) if False else open("c/g", "r+").truncate(2)
    os.remove("c/h"); os.remove("c/i"); os.remove("c/g"); os.rmdir("c")
def threads():
    thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
def pairs():
    left, right = socket.socketpair(); left.send(b"x"); assert right.recv(1) == b"x"
def children():
    assert os.waitpid(spawn(lambda: None), 0)[1] == 0
    subprocess.run(["/bin/true"], check=True)
def terminal():
    open("/dev/null", "w").write("x"); open("/dev/urandom", "rb").read(1)
def reading():
    assert open(listed + "/source").read() == "source" and os.listdir(listed) == ["source"]
    assert os.getcwd() == scratch; open("/proc/self/maps").read(); open("/proc/cpuinfo").read()
    open("/proc/self/comm", "w").write("named"); os.listdir("/sys/devices/system/cpu")
for action in (files, threads, pairs, children, terminal, reading):
    attempt(action.__name__, action)
attempt("temporary", tempfile.TemporaryFile)
""",
        environment={"TMPDIR": str(bench.scratch)},
    )
    assert set(results.values()) == {"allowed"}, results


@_check
def _missing_program_is_an_error(bench: _Bench) -> None:
    try:
        _, outcome = bench.run("", command=("/usr/bin/there-is-no-such-program",))
    except SandboxError:
        return
    assert outcome.returncode != 0


@_check
def _specs_that_cannot_hold_are_refused(bench: _Bench) -> None:
    inside = bench.scratch / "inside"
    inside.mkdir()
    wrong: list[dict[str, Any]] = [
        {"command": ("python",)},
        {"command": ()},
        {"cwd": bench.outside},
        {"readonly": (bench.outside / "missing",)},
        {"readonly": (inside,)},
        {"pass_fds": (1,)},
        {"environment": {"A=B": "c"}},
    ]
    for changes in wrong:
        try:
            bench.run("", **changes)
        except SandboxError:
            continue
        raise AssertionError(f"accepted {changes}")


# ---------------------------------------------------------------------------------------------
# Files


@_check
def _unlisted_files_are_out_of_reach(bench: _Bench) -> None:
    bench.assert_denied(
        """
attempt("read-a-file", lambda: open(outside + "/secret"))
attempt("list-a-folder", lambda: os.listdir(outside))
attempt("go-up", lambda: open(scratch + "/../outside/secret"))
attempt("go-up-from-here", lambda: open("../outside/secret"))
watch = libc.inotify_init()
attempt("watch-a-folder", lambda: call("inotify_add_watch", watch, outside.encode(), 256))
attempt("read-through-proc", lambda: open(f"/proc/{sys.argv[4]}/root{outside}/secret"))
attempt("read-through-cwd", lambda: os.listdir(f"/proc/{sys.argv[4]}/cwd"))
attempt("read-through-init", lambda: open(f"/proc/1/root{outside}/secret"))
attempt("read-through-own-root", lambda: open(f"/proc/self/root{outside}/secret"))
""",
        os.getpid(),
    )


@_check
def _listed_files_cannot_be_changed(bench: _Bench) -> None:
    bench.assert_denied(
        """
source = listed + "/source"
attempt("write", lambda: open(source, "w"))
attempt("append", lambda: open(source, "a"))
attempt("truncate", lambda: os.truncate(source, 0))
attempt("truncate-by-opening", lambda: os.open(source, os.O_RDONLY | os.O_TRUNC))
attempt("remove", lambda: os.remove(source))
attempt("rename", lambda: os.rename(source, listed + "/other"))
attempt("move-out", lambda: os.rename(source, scratch + "/moved"))
attempt("move-over", lambda: (open(scratch + "/f", "w"), os.rename(scratch + "/f", source)))
attempt("create", lambda: open(listed + "/new", "w"))
attempt("make-a-folder", lambda: os.mkdir(listed + "/folder"))
attempt("change-its-mode", lambda: os.chmod(source, 0o777))
attempt("change-the-mode-of-an-open-file", lambda: os.fchmod(os.open(source, os.O_RDONLY), 0o777))
attempt("set-its-times", lambda: os.utime(source, (0, 0)))
attempt("tag", lambda: os.setxattr(source, "user.tag", b"1"))
attempt("reopen-for-writing", lambda: open("/proc/self/fd/%d" % os.open(source, os.O_RDONLY), "w"))
"""
    )
    assert (bench.listed / "source").read_text() == "source"
    assert os.listdir(bench.listed) == ["source"]


@_check
def _nothing_is_written_outside(bench: _Bench) -> None:
    name = f"autohyp-contract-{os.getpid()}"
    # Private stand-ins may take the file; the real folders must not.
    places = [Path(place) / name for place in ("/tmp", "/var/tmp", "/dev/shm", "/dev")]
    try:
        bench.run(
            """
def drop(path):
    with open(path, "w") as file:
        file.write("x")
for place in sys.argv[4:]:
    attempt(place, lambda: drop(place))
""",
            *places,
        )
        assert not [str(place) for place in places if place.exists()]
    finally:
        for place in places:
            place.unlink(missing_ok=True)
    bench.assert_denied(
        """
attempt("truncate", lambda: os.truncate(outside + "/secret", 0))
attempt("change-a-mode", lambda: os.chmod(outside, 0o777))
attempt("set-times", lambda: os.utime(outside + "/secret", (0, 0)))
attempt("remove", lambda: os.remove(outside + "/secret"))
attempt("create", lambda: open(outside + "/new", "w"))
attempt("create-in-the-root", lambda: (os.mkdir("/autohyp-test"), os.rmdir("/autohyp-test")))
"""
    )
    assert (bench.outside / "secret").read_text() == "secret"


@_check
def _links_do_not_lead_out(bench: _Bench) -> None:
    bench.assert_denied(
        """
os.symlink(outside, scratch + "/folder")
os.symlink(outside + "/new", scratch + "/file")
attempt("read-through-a-link", lambda: open(scratch + "/folder/secret"))
attempt("write-through-a-link", lambda: open(scratch + "/file", "w"))
attempt("link-a-hidden-file-in", lambda: os.link(outside + "/secret", scratch + "/hard"))
attempt("link-a-listed-file-in", lambda: os.link(listed + "/source", scratch + "/hard"))
open(scratch + "/mine", "w").close()
attempt("link-out", lambda: os.link(scratch + "/mine", outside + "/mine"))
attempt("rename-out", lambda: os.rename(scratch + "/mine", outside + "/mine"))
"""
    )
    assert os.listdir(bench.outside) == ["secret"]


@_check
def _kernel_settings_are_readonly(bench: _Bench) -> None:
    bench.assert_denied(
        """
for path in ("sys/kernel/core_pattern", "sys/vm/drop_caches", "sysrq-trigger"):
    attempt(path, lambda: os.open("/proc/" + path, os.O_WRONLY))
"""
    )


@_check
def _device_nodes_are_hidden(bench: _Bench) -> None:
    harmless = {"full", "null", "random", "tty", "urandom", "zero"}
    nodes = [entry for entry in os.scandir("/dev") if not entry.is_symlink() and not entry.is_dir()]
    openable = []
    for path in sorted(entry.path for entry in nodes if entry.name not in harmless):
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
        except OSError:
            continue
        openable.append(path)
    bench.assert_denied(
        """
attempt("make-a-node", lambda: os.mknod(scratch + "/disk", 0o60600, os.makedev(8, 0)))
for path in sys.argv[4:]:
    attempt(path, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))
""",
        *openable,
    )


# ---------------------------------------------------------------------------------------------
# Network and other processes


@_check
def _tcp_is_cut(bench: _Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        bench.assert_denied(
            """
attempt("connect", lambda: socket.create_connection(("127.0.0.1", int(sys.argv[4])), 5))
""",
            server.getsockname()[1],
        )


@_check
def _udp_is_cut(bench: _Bench) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        bench.run(
            """
def ask():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"name query", ("127.0.0.1", int(sys.argv[4])))
attempt("send", ask)
""",
            server.getsockname()[1],
        )
        # Loopback delivers before the sender's call returns.
        try:
            datagram = server.recv(64)
        except BlockingIOError:
            return
    raise AssertionError(f"a datagram arrived: {datagram!r}")


@_check
def _unix_sockets_are_cut(bench: _Bench) -> None:
    abstract = f"\0autohyp-contract-{os.getpid()}"
    named = str(bench.outside / "socket")
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as second,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as third,
    ):
        first.bind(abstract)
        third.bind(abstract + "-packets")
        third.listen()
        # Bound by a relative name: a socket's path may have 107 characters.
        before = os.getcwd()
        os.chdir(bench.outside)
        second.bind("socket")
        os.chdir(before)
        first.listen()
        second.listen()
        bench.assert_denied(
            """
def connect(kind, address):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(address)
def send(address):
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
        end.sendto(b"x", address)
attempt("reach-an-abstract-socket", lambda: connect(socket.SOCK_STREAM, "\\0" + sys.argv[4]))
attempt("send-to-an-abstract-socket", lambda: send("\\0" + sys.argv[4]))
packets = "\\0" + sys.argv[4] + "-packets"
attempt("reach-a-packet-socket", lambda: connect(socket.SOCK_SEQPACKET, packets))
attempt("reach-a-named-socket", lambda: (os.chdir(outside), connect(socket.SOCK_STREAM, "socket")))
""",
            abstract[1:],
            named,
        )


@_check
def _shared_memory_stays_inside(bench: _Bench) -> None:
    key = 0x41000000 | os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)
    bench.run("libc.shmget(int(sys.argv[4]), 4096, 0o1600)", key)
    segment = libc.shmget(key, 0, 0)
    if segment >= 0:
        libc.shmctl(segment, 0, None)
        raise AssertionError("a shared memory segment outlived the run")


@_check
def _other_processes_are_out_of_reach(bench: _Bench) -> None:
    with _bystander() as bystander:
        bench.assert_denied(
            """
import resource
victim = int(sys.argv[4])
attempt("signal", lambda: os.kill(victim, 0))
attempt("stop", lambda: os.kill(victim, signal.SIGCONT))
attempt("signal-by-handle", lambda: signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGCONT))
attempt("trace", lambda: call("ptrace", 0x4206, victim, None, None))
attempt("limit", lambda: resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0)))
attempt("slow-down", lambda: os.setpriority(os.PRIO_PROCESS, victim, 10))
attempt("take-its-files", lambda: call("syscall", 438, os.pidfd_open(victim), 0, 0))
""",
            bystander.pid,
        )


@_check
def _other_processes_keep_their_secrets(bench: _Bench) -> None:
    with _bystander() as bystander:
        bench.assert_denied(
            """
victim = f"/proc/{sys.argv[4]}/"
for name in ("environ", "mem", "maps", "fd/0", "root/etc/passwd", "cwd/.", "exe"):
    attempt("read-its-" + name, lambda: os.open(victim + name, os.O_RDONLY | os.O_NONBLOCK))
attempt("write-its-score", lambda: os.open(victim + "oom_score_adj", os.O_WRONLY))
""",
            bystander.pid,
        )


@_check
def _there_are_no_privileges(bench: _Bench) -> None:
    lines, _ = bench.run("print(open('/proc/self/status').read())")
    status = {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}
    sets = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    if os.geteuid() != 0:
        # Only root can empty the bounding set; without new privileges it grants nothing.
        del sets["CapBnd"]
    assert not any(sets.values()), sets
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


@_check
def _kernel_surface_is_closed(bench: _Bench) -> None:
    bench.assert_denied(
        """
attempt("make-a-user-namespace", lambda: call("unshare", 0x10000000))
attempt("make-a-mount-namespace", lambda: call("unshare", 0x00020000))
attempt("mount", lambda: call("mount", b"none", scratch.encode(), b"tmpfs", 0, None))
attempt("set-up-io-uring", lambda: call("syscall", 425, 1, ctypes.create_string_buffer(120)))
attempt("trace-itself", lambda: call("ptrace", 0, 0, None, None))
"""
    )


# ---------------------------------------------------------------------------------------------
# The process tree

_DAEMON = """
def daemon():
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid() if os.getpid() != os.getsid(0) else None
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    call("prctl", 1, 0, 0, 0, 0)  # forget the parent-death signal
    os.write(int(sys.argv[4]), b"daemon\\n")
    signal.pause()
child = spawn(daemon)
"""


@_check
def _daemons_end_with_the_command(bench: _Bench) -> None:
    with _Pipe() as (reader, pipe):
        code = _DAEMON + "os.waitpid(child, 0); open(scratch + '/done', 'w').close()"
        with bench.start(code, pipe.writer, pass_fds=(pipe.writer,)) as command:
            pipe.close_writer()
            _, outcome = command.end()
            assert outcome.returncode == 0
            os.set_blocking(reader, False)
            while os.read(reader, 64):  # BlockingIOError: somebody still holds it
                pass


@_check
def _kill_ends_the_tree(bench: _Bench) -> None:
    with _Pipe() as (reader, pipe):
        code = _DAEMON + "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        with bench.start(code, pipe.writer, pass_fds=(pipe.writer,)) as command:
            pipe.close_writer()
            assert _readable(reader), "the daemon did not start"
            assert command.process.poll() is None
            assert not select.select([command.process], [], [], 0)[0]
            command.process.kill()
            os.set_blocking(reader, False)
            while os.read(reader, 64):
                pass
            assert select.select([command.process], [], [], 0)[0]
            assert command.process.poll() == -signal.SIGKILL
            command.process.kill()


_LAUNCHER = """
import os, sys
sys.path[:0] = sys.argv[5].split(os.pathsep)
from pathlib import Path
from autohyp.testing.sandbox_contract import _Bench, _DAEMON
from autohyp.execution.sandbox.select import select_sandbox
writer, stop = int(sys.argv[3]), int(sys.argv[4])
bench = _Bench(select_sandbox(sys.argv[1]), Path(sys.argv[2]))
with bench.start(_DAEMON + "signal.pause()", writer, pass_fds=(writer,)) as command:
    os.read(stop, 1)
"""


@_check
def _nothing_outlives_the_launcher(bench: _Bench) -> None:
    folder = bench.scratch.parent / "launcher"
    folder.mkdir()
    with _Pipe() as (reader, pipe), _Pipe() as (stop, _):
        words = (
            bench.sandbox.name,
            str(folder),
            str(pipe.writer),
            str(stop),
            os.pathsep.join(sys.path),
        )
        launcher = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *words], pass_fds=(pipe.writer, stop), cwd=folder
        )
        with launcher:
            pipe.close_writer()
            try:
                assert _readable(reader), "the daemon did not start"
                assert os.read(reader, 64) == b"daemon\n"
            finally:
                launcher.kill()
            _assert_closed(reader)


# ---------------------------------------------------------------------------------------------
# Limits

_FOREVER = "\nsignal.pause()"


@_check
def _memory_is_limited(bench: _Bench) -> None:
    _, outcome = bench.run(
        "mine = b'x' * (70 << 20)\nspawn(lambda: (b'y' * (70 << 20), signal.pause()))" + _FOREVER,
        limits=Limits(memory_mb=120),
    )
    assert outcome.violation is not None
    assert "memory" in outcome.violation
    assert outcome.returncode == -signal.SIGKILL
    assert outcome.peak_memory_mb > 120


@_check
def _memory_shared_by_forks_counts_once(bench: _Bench) -> None:
    _, outcome = bench.run(
        "mine = b'x' * (64 << 20)\n"
        "ready, done = os.pipe(), os.pipe()\n"
        "def hold():\n"
        "    os.write(ready[1], b'.')\n"
        "    os.read(done[0], 1)\n"
        "children = [spawn(hold) for _ in range(4)]\n"
        "for _ in children: os.read(ready[0], 1)\n"
        "signal.sigtimedwait({signal.SIGALRM}, 0.2)\n"  # several samples must come and go
        "os.write(done[1], b'....')\n"
        "for child in children: os.waitpid(child, 0)\n",
        limits=Limits(memory_mb=200),
    )
    assert outcome.violation is None
    assert outcome.returncode == 0


@_check
def _absurd_allocations_fail(bench: _Bench) -> None:
    lines, _ = bench.run(
        "try: bytearray(1 << 40)\nexcept MemoryError: print('refused')",
        limits=Limits(memory_mb=200),
    )
    assert lines == ["refused"]


@_check
def _processes_are_limited(bench: _Bench) -> None:
    _, outcome = bench.run("for _ in range(100): spawn(signal.pause)" + _FOREVER, limits=Limits(processes=40))
    assert outcome.violation is not None
    assert "processes" in outcome.violation
    assert outcome.peak_processes > 40


@_check
def _a_fork_bomb_is_ended(bench: _Bench) -> None:
    # Bounded in depth, so that a failure of this check does not take the machine with it.
    with _Pipe() as (reader, pipe):
        code = """
def multiply(depth):
    for _ in range(2 if depth else 0):
        spawn(lambda: (os.setsid(), multiply(depth - 1)))
    signal.pause()
multiply(7)
"""
        limits = Limits(processes=30)
        with bench.start(code, pipe.writer, pass_fds=(pipe.writer,), limits=limits) as command:
            pipe.close_writer()
            _, outcome = command.end()
        assert outcome.violation is not None
        os.set_blocking(reader, False)
        assert os.read(reader, 1) == b""


@_check
def _scratch_is_limited(bench: _Bench) -> None:
    _, outcome = bench.run(
        "os.mkdir('deep')\nfor i in range(8): open(f'deep/{i}', 'wb').write(b'x' * (1 << 20))" + _FOREVER,
        limits=Limits(scratch_mb=4),
    )
    assert outcome.violation is not None
    assert "files" in outcome.violation


@_check
def _descriptors_and_file_sizes_are_limited(bench: _Bench) -> None:
    lines, outcome = bench.run(
        """
import resource
print(resource.getrlimit(resource.RLIMIT_CORE)[1])
def huge():
    with open("huge", "wb", buffering=0) as file:
        file.write(b"x" * (2 << 20))  # a short write; the next one cannot even begin
        file.write(b"x")
attempt("huge", huge)
print(os.path.getsize("huge"))
opened = []
try:
    while True:
        opened.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    print(max(opened))
attempt("raise", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)))
""",
        limits=Limits(file_size_mb=1, open_files=50),
    )
    assert outcome.returncode == 0, lines
    core, huge, size, highest, raised = lines
    assert core == "0"
    assert huge.startswith("huge denied")
    assert int(size) == 1 << 20
    assert int(highest) == 49
    if os.geteuid() != 0 or bench.sandbox.name != "none":
        assert raised.startswith("raise denied")


# ---------------------------------------------------------------------------------------------
# Without pytest


def run_contract(sandbox: Sandbox, folder: Path) -> list[str]:
    """Run every check in its own folder below `folder`; one line for each surprise."""
    known = KNOWN_FAILURES[sandbox.name]
    surprises = []
    for check in CHECKS:
        with tempfile.TemporaryDirectory(dir=folder) as empty:
            try:
                check.run(sandbox, Path(empty))
            except Exception as error:  # a check may fail in any way; each is a finding
                if check.name not in known:
                    surprises.append(f"{check.name}: {type(error).__name__}: {error}")
            else:
                if check.name in known:
                    surprises.append(f"{check.name}: passes, but is listed as a known failure")
    return surprises


def main(arguments: list[str]) -> int:
    """`BACKEND FOLDER`: print the surprises; 0 when there are none."""
    name, folder = arguments
    surprises = run_contract(select_sandbox(name), Path(folder))
    print(*surprises, f"{name}: {len(CHECKS)} checks, {len(surprises)} surprises", sep="\n")
    return 1 if surprises else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The sandbox's parts, and what a launching program relies on beyond the contract."""

from __future__ import annotations

import errno
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autohyp.errors import SandboxError, SandboxUnavailableError
from autohyp.execution.sandbox import bubblewrap, kernel, seccomp, tree, visible
from autohyp.execution.sandbox.base import Limits, Sandbox, SandboxProcess, SandboxSpec
from autohyp.execution.sandbox.bubblewrap import BubblewrapSandbox
from autohyp.execution.sandbox.landlock import LandlockSandbox
from autohyp.execution.sandbox.plan import Plan, decode_reports, encode_report
from autohyp.execution.sandbox.select import select_sandbox
from autohyp.execution.sandbox.selfcheck import escape_found
from autohyp.execution.sandbox.unconfined import UnconfinedSandbox

_DEADLINE_S = 60.0


@pytest.fixture(params=[BubblewrapSandbox(), LandlockSandbox()], ids=lambda sandbox: str(sandbox.name))
def confining(request: pytest.FixtureRequest) -> Sandbox:
    sandbox: Sandbox = request.param
    if reason := sandbox.unavailable_reason():
        pytest.skip(reason)
    return sandbox


@pytest.fixture
def output() -> Iterator[int]:
    descriptor = os.memfd_create("output")
    yield descriptor
    os.close(descriptor)


def _spec(folder: Path, output: int, code: str, *, flags: str = "-IS", **fields: object) -> SandboxSpec:
    return SandboxSpec(
        command=(sys.executable, flags, "-c", code),
        cwd=folder,
        stdout_fd=output,
        writable=(folder,),
        **fields,  # type: ignore[arg-type]
    )


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 1 << 20, 0).decode()


# ---------------------------------------------------------------------------------------------
# Choosing a backend


def test_auto_takes_the_first_that_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BubblewrapSandbox, "unavailable_reason", lambda self: "broken")
    monkeypatch.setattr(LandlockSandbox, "unavailable_reason", lambda self: None)
    assert select_sandbox("auto").name == "landlock"


def test_without_any_backend_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(kernel, "landlock_abi", lambda: 0)
    with pytest.raises(SandboxUnavailableError, match="apt-get install bubblewrap") as caught:
        select_sandbox("auto")
    assert "no Landlock" in str(caught.value)
    assert "--sandbox none" in str(caught.value)


def test_a_named_backend_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BubblewrapSandbox, "unavailable_reason", lambda self: "broken")
    with pytest.raises(SandboxUnavailableError, match="bubblewrap: broken"):
        select_sandbox("bubblewrap")


def test_none_is_chosen_only_by_name() -> None:
    assert isinstance(select_sandbox("none"), UnconfinedSandbox)


def test_an_unknown_name_lists_the_choices() -> None:
    with pytest.raises(SandboxUnavailableError, match="auto, bubblewrap, landlock, none"):
        select_sandbox("docker")


def test_a_backend_that_lets_something_through_is_refused() -> None:
    class Leaky(UnconfinedSandbox):
        name = "leaky"

    reason = escape_found(Leaky())
    assert reason is not None
    assert reason.startswith("a trial run escaped: it wrote outside its scratch folder")


@pytest.mark.parametrize(("num_killed", "reason"), [(1, "escaped"), (2, "failed: it said nothing")])
def test_a_trial_that_somebody_killed_is_made_once_more(num_killed: int, reason: str) -> None:
    class Shot(UnconfinedSandbox):
        num_launched = 0

        def launch(self, spec: SandboxSpec) -> SandboxProcess:
            self.num_launched += 1
            is_killed = self.num_launched <= num_killed
            return super().launch(replace(spec, command=("/bin/true",)) if is_killed else spec)

    sandbox = Shot()
    assert f"a trial run {reason}" in (escape_found(sandbox) or "")
    assert sandbox.num_launched == 2


@pytest.mark.parametrize("field", ["memory_mb", "processes", "open_files", "scratch_mb"])
def test_limits_must_be_above_zero(field: str) -> None:
    with pytest.raises(SandboxError, match=field):
        Limits(**{field: 0})


# ---------------------------------------------------------------------------------------------
# The launching program


def test_the_run_outlives_the_thread_that_started_it(tmp_path: Path, output: int) -> None:
    sandbox = UnconfinedSandbox()
    started = []
    reader, writer = os.pipe()
    spec = _spec(tmp_path, output, f"import os; os.read({reader}, 1)", pass_fds=(reader,))
    thread = threading.Thread(target=lambda: started.append(sandbox.launch(spec)))
    thread.start()
    thread.join()
    with started[0] as process:
        # A parent-death signal would have been sent by now: it comes with the thread's end.
        assert process.wait(timeout_s=0.1) is None
        os.write(writer, b"!")
        assert process.wait(_DEADLINE_S) == 0
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_runs_leave_no_descriptors_and_no_zombies(confining: Sandbox, tmp_path: Path, output: int) -> None:
    before, children = sorted(os.listdir("/proc/self/fd")), tree.descendants(os.getpid())
    for code in ("pass", "import os; os._exit(3)"):
        with confining.launch(_spec(tmp_path, output, code)) as process:
            assert process.wait(_DEADLINE_S) is not None
    with confining.launch(_spec(tmp_path, output, "import signal; signal.pause()")) as process:
        pass
    assert process.poll() == -signal.SIGKILL
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert tree.descendants(os.getpid()) == children


def test_runs_side_by_side_do_not_disturb_each_other(confining: Sandbox, tmp_path: Path, output: int) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    code = "import os; open('mine', 'w').write(os.getcwd())"
    processes = [confining.launch(_spec(folder, output, code)) for folder in folders]
    for process, folder in zip(processes, folders, strict=True):
        with process:
            assert process.wait(_DEADLINE_S) == 0
        assert (folder / "mine").read_text() == str(folder)


def test_a_killed_supervisor_is_reported_and_takes_the_command_along(
    confining: Sandbox, tmp_path: Path, output: int
) -> None:
    reader, writer = os.pipe()
    code = f"import os, signal; os.write({writer}, b'.'); signal.pause()"
    with confining.launch(_spec(tmp_path, output, code, pass_fds=(writer,))) as process:
        os.close(writer)
        assert os.read(reader, 1) == b"."
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(_DEADLINE_S) == -signal.SIGKILL
        assert process.outcome is not None
        assert "killed from outside" in str(process.outcome.violation)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_a_sandbox_that_cannot_be_set_up_is_told_from_a_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, output: int
) -> None:
    sandbox = BubblewrapSandbox()
    if reason := sandbox.unavailable_reason():
        pytest.skip(reason)
    monkeypatch.setattr(bubblewrap, "_device_arguments", lambda spec: ["--ro-bind", "/missing", "/x"])
    with sandbox.launch(_spec(tmp_path, output, "pass")) as process:
        assert process.wait(_DEADLINE_S) not in (0, None)
    assert process.outcome is not None
    assert "could not set the sandbox up" in str(process.outcome.violation)
    assert "/missing" in _text(output)


def test_a_symlinked_path_is_visible_under_both_names(
    confining: Sandbox, tmp_path: Path, output: int
) -> None:
    real, link, scratch = tmp_path / "real", tmp_path / "link", tmp_path / "scratch"
    real.mkdir()
    scratch.mkdir()
    (real / "file").write_text("found")
    link.symlink_to(real)
    code = f"print(open('{real}/file').read()); print(open('{link}/file').read())"
    if confining.name == "landlock":  # rules follow files, not names; the link itself is outside
        code = f"print(open('{real}/file').read()); print('found')"
    with confining.launch(_spec(scratch, output, code, readonly=(link,))) as process:
        assert process.wait(_DEADLINE_S) == 0, _text(output)
    assert _text(output).split() == ["found", "found"]


def test_torch_runs_inside(confining: Sandbox, tmp_path: Path, output: int) -> None:
    pytest.importorskip("torch")
    code = (
        "import torch; torch.set_num_threads(2); a = torch.ones(600, 600);"
        "print((a @ a).sum().item(), torch.get_num_threads())"
    )
    environment = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    limits = Limits(memory_mb=2048, processes=256)
    spec = _spec(tmp_path, output, code, flags="-B", environment=environment, limits=limits)
    with confining.launch(spec) as process:
        assert process.wait(_DEADLINE_S) == 0, _text(output)
        assert process.outcome is not None
        assert 50 < process.outcome.peak_memory_mb < 2048
    assert _text(output).split() == ["216000000.0", "2"]


# ---------------------------------------------------------------------------------------------
# What a command may see


def test_a_virtual_environment_in_a_project_does_not_expose_the_project(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("bin", "lib", "research"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    paths = visible.python_paths()
    assert str(tmp_path / "lib") in paths
    assert str(tmp_path) not in paths
    assert not [path for path in paths if "research" in path]


def test_the_interpreter_is_followed_link_by_link(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "real" / "python3"
    python.parent.mkdir()
    python.touch()
    (tmp_path / "second").symlink_to("real/python3")
    (tmp_path / "first").symlink_to(tmp_path / "second")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "first"))
    paths = visible.python_paths()
    assert {str(tmp_path / "first"), str(tmp_path / "second"), str(python)} <= set(paths)


def test_only_the_assigned_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    nodes = visible.gpu_devices(3)
    assert "/dev/nvidia3" in nodes
    assert "/dev/nvidiactl" in nodes
    assert not [node for node in nodes if node.removeprefix("/dev/nvidia") in {"0", "1", "2", "4"}]
    assert visible.gpu_devices(None) == []


@pytest.mark.gpu
@pytest.mark.skipif(not Path("/dev/nvidia1").exists(), reason="needs a machine with two GPUs")
@pytest.mark.parametrize("assigned", [0, 1, None])
def test_a_run_opens_its_own_gpu_and_no_other(
    confining: Sandbox, tmp_path: Path, output: int, assigned: int | None
) -> None:
    code = (
        "import os\n"
        "for number in (0, 1):\n"
        "    try: os.open(f'/dev/nvidia{number}', os.O_RDWR); print(number)\n"
        "    except OSError: pass\n"
    )
    with confining.launch(_spec(tmp_path, output, code, gpu_index=assigned)) as process:
        assert process.wait(_DEADLINE_S) == 0
    assert _text(output).split() == ([] if assigned is None else [str(assigned)])


# ---------------------------------------------------------------------------------------------
# Landlock and the system call filter


@pytest.mark.parametrize(("abi", "bits"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (6, 16), (7, 16)])
def test_each_landlock_abi_handles_all_its_rights(abi: int, bits: int) -> None:
    assert kernel.handled_access(abi) == (1 << bits) - 1


def _verdict(program: bytes, number: int, *arguments: int, architecture: int = 0xC000003E) -> int:
    """Run a classic BPF program as the kernel would; 0 for allowed, else the errno."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code in (0x15, 0x35):
            holds = accumulator == operand if code == 0x15 else accumulator >= operand
            position += if_true if holds else if_false
        else:
            assert code == 0x06
            return 0 if operand == 0x7FFF0000 else operand & 0xFFFF


_READ, _OPENAT, _KILL, _SOCKET, _SOCKETPAIR, _CLONE, _CLONE3 = 0, 257, 62, 41, 53, 56, 435


@pytest.mark.parametrize(
    ("abi", "call", "expected"),
    [
        (6, (_READ, 0), 0),
        (6, (_SOCKET, 1, 1), errno.EPERM),
        (6, (_SOCKET, 2, 2), errno.EPERM),
        (6, (_SOCKET, 1, 5 | 0o2000000), 0),
        (6, (_SOCKET, 2, 5), errno.EPERM),
        (6, (_SOCKETPAIR, 1, 1 | 0o2000000), 0),
        (6, (_SOCKETPAIR, 1, 2 | 0o2000000), errno.EPERM),
        (6, (_SOCKETPAIR, 2, 1), errno.EPERM),
        (6, (_CLONE, 0x003D0F00), 0),
        (6, (_CLONE, 0x10000011), errno.EPERM),
        (6, (_CLONE3, 0), errno.ENOSYS),
        (6, (_KILL, 99, 9), 0),
        (5, (_KILL, 99, 9), errno.EPERM),
        (5, (_KILL, 42, 9), 0),
        (2, (_OPENAT, 0, 0, os.O_TRUNC), errno.EPERM),
        (2, (_OPENAT, 0, 0, os.O_TRUNC | os.O_WRONLY), 0),
        (3, (_OPENAT, 0, 0, os.O_TRUNC), 0),
        (6, (0x40000000 | _READ, 0), errno.ENOSYS),
    ],
)
def test_the_filter_decides(abi: int, call: tuple[int, ...], expected: int) -> None:
    rules = seccomp.kernel_surface() + seccomp.landlock_gaps(abi, own_pid=42)
    assert _verdict(seccomp.assemble(rules, "x86_64"), *call) == expected


def test_the_filter_knows_both_architectures() -> None:
    rules = [seccomp.Rule("socket"), seccomp.Rule("chmod")]
    program = seccomp.assemble(rules, "aarch64")
    arm = 0xC00000B7
    assert _verdict(program, 198, architecture=arm) == errno.EPERM
    assert _verdict(program, 90, architecture=arm) == 0  # chmod's number elsewhere
    assert _verdict(program, 198) == errno.ENOSYS
    with pytest.raises(KeyError):
        seccomp.assemble(rules, "riscv64")


def test_the_filter_fits_the_kernel() -> None:
    rules = seccomp.kernel_surface() + seccomp.landlock_gaps(1, 1)
    assert len(seccomp.assemble(rules)) // 8 < 4096


# ---------------------------------------------------------------------------------------------
# Small parts


def test_disk_usage_counts_blocks_and_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * (3 << 20))
    (tmp_path / "up").symlink_to("/usr")
    used_mb = tree.disk_usage_mb([str(tmp_path)])
    assert 3 <= used_mb < 3.5


def test_plans_and_reports_survive_the_trip(tmp_path: Path) -> None:
    plan = Plan(
        command=["/bin/true"],
        cwd="/",
        environment={"A": "b"},
        stdout_fd=1,
        pass_fds=[5],
        parent_pid=1,
        rlimits=[(4, 0)],
        memory_mb=None,
        processes=3,
        scratch_mb=None,
        writable=[],
        landlock_rules=[("/usr", 5)],
        status_fds=(7, 8),
    )
    stored = tmp_path / "plan"
    stored.write_bytes(plan.to_bytes())
    with stored.open("rb") as file:
        read = Plan.from_fd(file.fileno())
    assert all(getattr(read, name) == getattr(plan, name) for name in Plan.__slots__)
    frames = encode_report("started", command_pid=3) + encode_report("ended", returncode=0)
    assert [report["kind"] for report in decode_reports(frames)] == ["started", "ended"]
    assert [report["kind"] for report in decode_reports(frames[:-1])] == ["started"]


def test_system_calls_raise_the_kernels_reason() -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        kernel.restrict_self(-1)
    assert caught.value.errno == errno.EBADF

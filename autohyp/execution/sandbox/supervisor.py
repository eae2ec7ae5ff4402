"""The process between the launcher and a sandboxed command: confines it, watches it, outlives it.

It is the root of the run's process tree (a child sub-reaper), so that a daemon or a double fork
comes back to it. It ends the whole tree when the command ends, when a limit is broken, when the
launcher asks, or when the launcher dies (seen through its pidfd: unlike a parent-death signal that
does not fire when merely the launching thread ends). It runs outside the sandbox, with an empty
environment and as few imports as it can, because its start-up time is part of every run.

Not covered: SIGKILL to the supervisor itself. Then the command is killed by its parent-death
signal; with bubblewrap so is everything else (a PID namespace dies with its first process), with
Landlock a daemon that it left behind is not.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time

from autohyp.execution.sandbox import kernel, plan, seccomp, tree

__all__ = ["main"]

_SAMPLE_INTERVAL_S = 0.1
_EXACT_INTERVAL_S = 1.0
_DISK_INTERVAL_S = 0.5
_DISK_DUTY = 20
"""A slow walk through the scratch folder is repeated at most 1/20 of the time."""
_OOM_SCORE = b"500"
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(plan_fd: int, control_fd: int) -> None:
    """Carry out the plan in `plan_fd`; talk to the launcher over the socket `control_fd`."""
    for descriptor in (plan_fd, control_fd):
        os.set_inheritable(descriptor, False)
    try:
        _supervise(plan.Plan.from_fd(plan_fd), control_fd)
    except BrokenPipeError:  # the launcher is gone, and with it everyone who wants to know
        tree.kill_all_children()
    except Exception as error:  # it must reach the launcher, whatever it is
        tree.kill_all_children()
        _report(control_fd, plan.FAILED, reason=f"{type(error).__name__}: {error}")
    os._exit(0)  # nothing is left to tidy up, and tearing the interpreter down takes milliseconds


def _supervise(todo: plan.Plan, control_fd: int) -> None:
    kernel.become_subreaper()
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    parent = os.pidfd_open(todo.parent_pid)
    if os.getppid() != todo.parent_pid:
        return
    wake = _wake_on_child_exit()
    child, failure = _start(todo)
    if failure:
        os.waitpid(child, 0)
        _report(control_fd, plan.FAILED, reason=failure)
        return
    _report(control_fd, plan.STARTED, command_pid=child)
    watch = _Watch(todo)
    status = _wait_for_end(child, watch, (parent, control_fd), wake)
    rest = tree.kill_all_children()
    returncode, violation = _verdict(todo, rest.get(child) if status is None else status, watch)
    _report(
        control_fd,
        plan.ENDED,
        returncode=returncode,
        violation=violation,
        peak_memory_mb=watch.peak_memory_mb,
        peak_processes=watch.peak_processes,
    )


def _wake_on_child_exit() -> int:
    wake, awakened = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(awakened, warn_on_full_buffer=False)
    return wake


def _report(control_fd: int, kind: str, **values: object) -> None:
    frame = plan.encode_report(kind, **values)
    while frame:
        frame = frame[os.write(control_fd, frame) :]


# ---------------------------------------------------------------------------------------------
# Starting the command


def _start(todo: plan.Plan) -> tuple[int, str]:
    """(pid of the command, why it could not be started or "")."""
    for descriptor in _inherited(todo):
        os.set_inheritable(descriptor, False)
    ruleset = _ruleset(todo)
    released, release = os.pipe2(os.O_CLOEXEC)
    failed, fail = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        _become_command(todo, ruleset, released, fail)
    own_proc = -1
    if ruleset >= 0:
        # CUDA writes thread names there. Held open: the rule lives as long as the inode does.
        own_proc = os.open(f"/proc/{child}", os.O_PATH | os.O_CLOEXEC)
        kernel.add_path_rule(ruleset, own_proc, _possible(kernel.Access.OWN_PROC, todo))
        os.close(ruleset)
    os.write(release, b"!")
    for descriptor in (released, release, fail):
        os.close(descriptor)
    failure = os.read(failed, 4096).decode()
    os.close(failed)
    if todo.status_fds:
        os.close(todo.status_fds[1])
    return child, failure


def _inherited(todo: plan.Plan) -> set[int]:
    return {todo.stdout_fd, *todo.pass_fds, *(todo.status_fds or ())}


def _possible(access: int, todo: plan.Plan) -> int:
    return access & kernel.handled_access(todo.landlock_abi)


def _ruleset(todo: plan.Plan) -> int:
    if not todo.landlock_abi:
        return -1
    ruleset = kernel.create_ruleset(todo.landlock_abi)
    for path, access in todo.landlock_rules:
        try:
            target = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if not os.path.isdir(path):
            access &= kernel.Access.FILE
        kernel.add_path_rule(ruleset, target, _possible(access, todo))
        os.close(target)
    return ruleset


def _become_command(todo: plan.Plan, ruleset: int, released: int, fail: int) -> None:
    """Runs in the forked child; never returns."""
    try:
        os.read(released, 1)
        kernel.die_with_parent()
        os.setsid()
        _volunteer_for_the_oom_killer()
        _arrange_descriptors(todo)
        for resource_number, bound in todo.rlimits:
            _lower_limit(resource_number, bound)
        os.chdir(todo.cwd)
        for number in _DEFAULT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if ruleset >= 0:
            _confine(todo.landlock_abi, ruleset)
        os.execve(todo.command[0], todo.command, todo.environment)
    except BaseException as error:
        os.write(fail, f"{type(error).__name__}: {error}".encode()[:4096])
    finally:
        os._exit(127)


def _volunteer_for_the_oom_killer() -> None:
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(descriptor, _OOM_SCORE)
        os.close(descriptor)
    except OSError:
        pass


def _arrange_descriptors(todo: plan.Plan) -> None:
    empty, output = os.open(os.devnull, os.O_RDONLY), os.dup(todo.stdout_fd)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for descriptor in todo.pass_fds:
        os.set_inheritable(descriptor, True)
    if todo.status_fds:
        os.set_inheritable(todo.status_fds[1], True)


def _lower_limit(resource_number: int, bound: int) -> None:
    _, hard = resource.getrlimit(resource_number)
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource_number, (bound, bound))


def _confine(abi: int, ruleset: int) -> None:
    rules = seccomp.kernel_surface() + seccomp.landlock_gaps(abi, os.getpid())
    program = seccomp.assemble(rules)
    kernel.forbid_new_privileges()
    kernel.drop_capabilities()
    kernel.restrict_self(ruleset)
    kernel.install_seccomp_filter(program)


# ---------------------------------------------------------------------------------------------
# Watching it


class _Watch:
    """Samples the tree and the scratch folder against the limits."""

    def __init__(self, todo: plan.Plan) -> None:
        self._todo = todo
        self._next_disk_s = self._next_exact_s = 0.0
        self._nameless = tree.NamelessUsage(0.0, 0.0)
        self.peak_memory_mb = 0.0
        self.peak_processes = 0
        self.violation: str | None = None

    def sample(self) -> str | None:
        """A sentence about a broken limit, or `None`."""
        self.violation = self._disk_violation() or self._tree_violation()
        return self.violation

    def _tree_violation(self) -> str | None:
        usage = self._usage()
        limit_mb, limit_tasks = self._todo.memory_mb, self._todo.processes
        self._make_exact_if_it_matters(usage)
        self.peak_processes = max(self.peak_processes, usage.tasks)
        if limit_mb is not None and usage.memory_mb > limit_mb:
            return f"it used {usage.memory_mb:.0f} MB of memory; the limit is {limit_mb} MB"
        if limit_tasks is not None and usage.tasks > limit_tasks:
            return f"it ran {usage.tasks} processes and threads; the limit is {limit_tasks}"
        return None

    def _make_exact_if_it_matters(self, usage: tree.TreeUsage) -> None:
        """Count pages that forks share once, where that could change the peak or the verdict."""
        limit_mb = self._todo.memory_mb
        over = limit_mb is not None and usage.memory_mb > limit_mb
        if usage.memory_mb > self.peak_memory_mb and usage.processes > 1:
            if not over and time.monotonic() < self._next_exact_s:
                return
            usage.memory_mb = self._usage(exact=True).memory_mb
            self._next_exact_s = time.monotonic() + _EXACT_INTERVAL_S
        self.peak_memory_mb = max(self.peak_memory_mb, usage.memory_mb)

    def _usage(self, exact: bool = False) -> tree.TreeUsage:
        """What the tree uses, files in memory included as they were when files were last looked at."""
        usage = tree.tree_usage(os.getpid(), exact)
        usage.memory_mb += self._nameless.memory_mb
        return usage

    def _disk_violation(self) -> str | None:
        started_s = time.monotonic()
        if started_s < self._next_disk_s:
            return None
        self._nameless = tree.nameless_usage(os.getpid())
        limit_mb = self._todo.scratch_mb
        used_mb = 0.0
        if limit_mb is not None:
            used_mb = tree.disk_usage_mb(self._todo.writable) + self._nameless.disk_mb
        ended_s = time.monotonic()
        self._next_disk_s = ended_s + max(_DISK_INTERVAL_S, _DISK_DUTY * (ended_s - started_s))
        if limit_mb is None or used_mb <= limit_mb:
            return None
        if used_mb == float("inf"):
            return "it made folders that cannot be measured: unreadable ones, or nested too deep"
        return f"it wrote {used_mb:.0f} MB of files; the limit is {limit_mb} MB"


def _wait_for_end(child: int, watch: _Watch, stop_fds: tuple[int, int], wake: int) -> int | None:
    """The command's wait status, or `None` when it must be ended."""
    poller = select.poll()
    for descriptor in (*stop_fds, wake):
        poller.register(descriptor, select.POLLIN)
    due_s = time.monotonic()
    while True:
        timeout_ms = max(0.0, due_s - time.monotonic()) * 1000
        ready = {descriptor for descriptor, _ in poller.poll(timeout_ms)}
        if ready.intersection(stop_fds):
            return None
        if wake in ready:
            os.read(wake, 4096)
            if (status := _reap(child)) is not None:
                return status
        if time.monotonic() >= due_s:
            if watch.sample():
                return None
            due_s = time.monotonic() + _SAMPLE_INTERVAL_S


def _reap(child: int) -> int | None:
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def _verdict(todo: plan.Plan, status: int | None, watch: _Watch) -> tuple[int, str | None]:
    returncode = -signal.SIGKILL if status is None else os.waitstatus_to_exitcode(status)
    violation = watch.violation
    if todo.status_fds is None:
        return returncode, violation
    reported = b""
    while piece := os.read(todo.status_fds[0], 4096):
        reported += piece
    if b'"exit-code"' not in reported and returncode > 0 and violation is None:
        violation = "bubblewrap could not set the sandbox up; its message is at the end of the log"
    # Bubblewrap passes a death by signal on as an exit status.
    if 128 < returncode <= 128 + signal.NSIG:
        returncode = 128 - returncode
    return returncode, violation


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

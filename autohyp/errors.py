"""Every error that autohyp raises on purpose, in one tree.

Each class has an `exit_code`; the command line prints the message as one line and ends with it. A
message says what is wrong and what to do about it. Anything that is not an `AutohypError` is a bug.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AutohypError",
    "CampaignError",
    "ClusterError",
    "ConfigError",
    "DataError",
    "EditError",
    "JournalDamagedError",
    "JournalError",
    "JournalLockedError",
    "JournalWriteError",
    "SandboxError",
    "SandboxUnavailableError",
    "WorkspaceError",
]


class AutohypError(Exception):
    """Base of all errors that a person can do something about."""

    exit_code: ClassVar[int] = 1


class ConfigError(AutohypError):
    """A configuration, an argument or a target file is wrong."""

    exit_code = 2


class DataError(AutohypError):
    """The prepared data is missing, incomplete or not what the campaign was started with."""

    exit_code = 3


class JournalError(AutohypError):
    """The journal cannot be read or written."""

    exit_code = 4


class JournalDamagedError(JournalError):
    """A line that was acknowledged is not what was written; `line_number` counts from 1."""

    def __init__(self, message: str, line_number: int) -> None:
        super().__init__(message)
        self.line_number = line_number


class JournalLockedError(JournalError):
    """Another process writes this journal."""


class JournalWriteError(JournalError):
    """The disk refused: nothing of the change was recorded, and it may be sent again when there is room."""


class CampaignError(AutohypError):
    """The named campaign or experiment does not exist, or is not in a state that allows this."""

    exit_code = 4


class WorkspaceError(AutohypError):
    """Git refused an operation on the campaign's repository."""

    exit_code = 4


class EditError(AutohypError):
    """An edit does not apply to the source it was made for."""

    exit_code = 5


class SandboxError(AutohypError):
    """A sandbox could not be set up for a run."""

    exit_code = 6


class SandboxUnavailableError(SandboxError):
    """No sandbox backend works on this machine."""


class ClusterError(AutohypError):
    """Ray could not be started or reached, or has no place for a worker."""

    exit_code = 7

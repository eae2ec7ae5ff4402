"""A run's log is data that a stranger wrote: cleaned, capped, and never believed.

Terminal control sequences and control characters are removed while the log streams to its file, so that
showing it cannot move a cursor, ring a bell or reorder text. What looks like a key or a password is masked: a
sandbox shows a run none, but logs are kept for years and read by machines. A summary is informative only.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["MASK", "LogSink", "SecretMasker", "TextCleaner", "clean", "error_line", "parse_summary"]

TAIL_CHARACTERS = 32_768
MAX_SUMMARY_VALUES = 64

# ECMA-48: CSI sequences; OSC, DCS, SOS, PM and APC strings up to their end; other two-character escapes.
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c|(?=\n))"
    r"|\x1b[ -/]*[0-~]"
)
_UNFINISHED = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*\x1b?"
    r"|\x1b[ -/]*)\Z"
)
_MAX_UNFINISHED = 1024
MASK = "[masked]"
MAX_HELD = 512
"""Characters of an unfinished line that are held back, lest a secret be cut in two and not known again."""

_TOKEN = re.compile(  # forms that their issuers gave a prefix to be found by
    r"\b(?:sk-[\w-]{20,}|gh[oprsu]_[A-Za-z0-9]{36,}|github_pat_\w{22,}|glpat-[\w-]{20,}|hf_[A-Za-z0-9]{20,}"
    r"|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{35}|xox[abeprs]-[\w-]{10,}|npm_[A-Za-z0-9]{36,}"
    r"|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
)
_ASSIGNED = re.compile(  # "token: 12345" is a count here: only names that say more count as names of secrets
    r"(?i)((?:api|access|secret|private|auth)[_-]?(?:key|token)|\bsecret|passw(?:or)?d|\bbearer)"
    r"(\w*[\"']?(?:\s*[=:]\s*|\s+)(?:bearer\s+)?[\"']?)(?![\d.,+-]+(?:\s|$))([^\s\"',;]{8,})"
)
_KEY_BEGINS = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
_KEY_ENDS = re.compile(r"-----END [A-Z ]*PRIVATE KEY-----")
MAX_KEY_LINES = 200
_SUMMARY_LINE = re.compile(r"([A-Za-z_][A-Za-z0-9_]{0,63}):[ \t]+(\S.{0,199}?)[ \t]*")
_ERROR = re.compile(r"[\w.]*(?:Error|Exception|Interrupt|Exit|Warning|FAIL)\b")


class TextCleaner:
    """Turns a stream of bytes into printable text; line ends become "\\n", tabs stay."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes, final: bool = False) -> str:
        """The printable text of `data`; an escape sequence that may go on is held back until it has."""
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        unfinished = None if final else _UNFINISHED.search(text, max(0, len(text) - _MAX_UNFINISHED))
        if unfinished:
            text, self._held = text[: unfinished.start()], unfinished.group()
        text = _ESCAPE.sub("", text)
        if text.endswith("\r") and not final:  # its \n may come, and another sequence before that
            text, self._held = text[:-1], "\r" + self._held
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return text if text.isascii() and text.isprintable() else "".join(filter(_is_shown, text))


def _is_shown(character: str) -> bool:
    # Not shown: control, format (bidirectional overrides, zero width), unassigned; line separators.
    return character in "\n\t" or character.isprintable() or unicodedata.category(character) == "Zs"


class SecretMasker:
    """Replaces what looks like a secret in streamed text; nothing shorter than eight characters does."""

    def __init__(self) -> None:
        self._held = ""
        self._key_lines_left = 0

    def feed(self, text: str, final: bool = False) -> str:
        """The text as it may be kept; the end of an unfinished line is held back until it goes on."""
        text = self._held + text
        whole = len(text) if final else max(text.rfind("\n") + 1, len(text) - MAX_HELD)
        text, self._held = text[:whole], text[whole:]
        return "".join(map(self._line, text.splitlines(keepends=True)))

    def _line(self, line: str) -> str:
        if _KEY_BEGINS.search(line):
            self._key_lines_left = MAX_KEY_LINES
        if self._key_lines_left:
            self._key_lines_left = 0 if _KEY_ENDS.search(line) else self._key_lines_left - 1
            return MASK + "\n" * line.endswith("\n")
        return _ASSIGNED.sub(rf"\1\2{MASK}", _TOKEN.sub(MASK, line))


class LogSink:
    """Writes a cleaned log to a file of at most `limit_bytes`, and remembers its end.

    What goes beyond the limit is counted in `received_bytes` and kept in the tail only.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._left = limit_bytes
        self._cleaner = TextCleaner()
        self._masker = SecretMasker()
        self._tail = ""
        self.received_bytes = 0
        self.is_cut = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tail(self) -> str:
        """The last TAIL_CHARACTERS of the cleaned log, without a line that is not finished before `close`."""
        return self._tail[-TAIL_CHARACTERS:]

    def feed(self, data: bytes) -> None:
        """Takes a piece of the log."""
        self.received_bytes += len(data)
        self._write(self._masker.feed(self._cleaner.feed(data)))

    def close(self) -> None:
        """Writes what was held back. Harmless when repeated."""
        if not self._file.closed:
            self._write(self._masker.feed(self._cleaner.feed(b"", final=True), final=True))
            self._file.close()

    def _write(self, text: str) -> None:
        self._tail = (self._tail + text)[-2 * TAIL_CHARACTERS :]
        if self.is_cut or not text:
            return
        encoded = text.encode()
        if len(encoded) > self._left:
            self.is_cut = True
            text = encoded[: self._left].decode(errors="ignore") + "\n[autohyp: the log was cut here]\n"
        self._left -= len(encoded)
        self._file.write(text)
        self._file.flush()


def clean(data: bytes) -> str:
    """The printable text of `data`."""
    return TextCleaner().feed(data, final=True)


def parse_summary(text: str) -> dict[str, str]:
    """The `key: value` lines after the last line `---`; informative only."""
    lines = text.splitlines()
    if "---" not in (stripped := [line.strip() for line in lines]):
        return {}
    after = len(lines) - stripped[::-1].index("---")
    found = (_SUMMARY_LINE.fullmatch(line) for line in stripped[after:])
    return dict([(match[1], match[2]) for match in found if match][:MAX_SUMMARY_VALUES])


def error_line(text: str) -> str:
    """The line of a log that says best why it ended: its last error, else its last line."""
    lines = [line.strip()[:300] for line in text.splitlines() if line.strip()]
    is_error: Callable[[str], object] = _ERROR.match
    return next(filter(is_error, reversed(lines[-200:])), lines[-1] if lines else "")

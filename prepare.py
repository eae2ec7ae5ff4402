"""The fixed part of the target: data, tokenizer, loader, clock and metric.

Run once to prepare a data folder, then import from `train.py`:

    python prepare.py --source pystdlib --profile cpu      # no network, a few seconds
    python prepare.py --source climbmix --profile gpu      # downloads public shards
    python prepare.py --source files --paths 'corpus/**/*.parquet' --column text

Guarantees. The three splits share no document (exact duplicates are removed and counted). The
training loader reads `train/` and `tokenizer/` only, so a sandbox may hide `val/` and `holdout/`.
Rows are packed best-fit, every row starts with BOS, nothing is padded. A data folder appears under
its final name only when it is complete, and every file in it has a recorded sha256. Nothing is
pickled.

Not covered. Near-duplicates, languages, licences and quality of the text are the caller's choice.
What `evaluate_bpb` returns when it computes in-process can be trusted as far as the process can; in
a campaign the evaluator process at the other end of `AUTOHYP_EVAL_FD` does the sums.

The measurement (packing, bits per byte, tokenizer style, ClimbMix shards) is that of
karpathy/autoresearch, except that the bytes of a token are its real bytes. The older count, from
decoded text, is kept beside it.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import errno
import fcntl
import glob
import hashlib
import http.client
import json
import math
import os
import platform
import re
import shutil
import socket
import struct
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import tiktoken
    import torch

__all__ = [
    "EVAL_TOKENS",
    "MAX_SEQ_LEN",
    "PROFILE",
    "SEED",
    "TIME_BUDGET",
    "VOCAB_SIZE",
    "EvaluationError",
    "PrepareError",
    "PreparedData",
    "Tokenizer",
    "TrainingClock",
    "evaluate_bpb",
    "make_dataloader",
    "prepare",
    "print_summary",
]

Tokens = npt.NDArray[np.uint16]
JsonObject = dict[str, Any]

# ---------------------------------------------------------------------------
# Settings
# ---------------------------------------------------------------------------


class PrepareError(Exception):
    """Something a person can put right; the message is one line that says how."""


class EvaluationError(RuntimeError):
    """The evaluator refused the run's answers, or went away."""


class _EvaluatorGoneError(EvaluationError):
    """It ended without a word; a second one may be there."""


@dataclass(frozen=True)
class Profile:
    """Sizes of a measurement: tokens a row, seconds of training, tokens evaluated, vocabulary."""

    sequence_len: int
    budget_s: float
    eval_tokens: int
    vocab_size: int
    source: str


PROFILES = {
    "gpu": Profile(2048, 300.0, 40 * 524_288, 8192, "climbmix"),
    "cpu": Profile(256, 30.0, 128 * 256, 2048, "pystdlib"),
}
EXIT_BAD_DATA, EXIT_INTERRUPTED = 3, 130
SPLITS = ("train", "val", "holdout")
SPECIAL_TOKENS = ("<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>")

# The split pattern of GPT-4's tokenizer, with at most two digits a piece (as in karpathy/nanochat).
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)


def _detect_profile() -> str:
    """The profile that AUTOHYP_PROFILE names, else "gpu" where a CUDA device node exists."""
    name = os.environ.get("AUTOHYP_PROFILE")
    if name:
        if name not in PROFILES:
            raise PrepareError(f"AUTOHYP_PROFILE is {name!r}: set it to cpu or gpu")
        return name
    return "gpu" if glob.glob("/dev/nvidia[0-9]*") or os.path.exists("/dev/dxg") else "cpu"


def cache_dir() -> Path:
    """Where data lives when no folder is named: AUTOHYP_CACHE or ~/.cache/autohyp."""
    return Path(os.environ.get("AUTOHYP_CACHE") or Path.home() / ".cache" / "autohyp").absolute()


def default_data_dir(profile: str, source: str | None = None) -> Path:
    """The prepared folder of a source and a profile below `cache_dir()`."""
    return cache_dir() / f"{source or PROFILES[profile].source}-{profile}"


def active_data_dir() -> Path:
    """The prepared folder that training reads: AUTOHYP_DATA or the profile's default."""
    named = os.environ.get("AUTOHYP_DATA")
    return Path(named).absolute() if named else default_data_dir(PROFILE)


def _number_from_env(name: str, default: float) -> float:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        raise PrepareError(f"{name} is {text!r}: set it to a number") from None
    if not math.isfinite(number) or number < 0:
        raise PrepareError(f"{name} is {text!r}: set it to a number that is not negative")
    return number


def _fail(message: str) -> int:
    """Print the one line that a person gets to see; returns the exit code."""
    print(f"prepare: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_BAD_DATA


def _active_sizes() -> tuple[int, int, int]:
    """(sequence_len, eval_tokens, vocab_size) of the prepared data, else of the profile."""
    default = PROFILES[PROFILE]
    try:
        meta = json.loads((active_data_dir() / "meta.json").read_bytes())
        return int(meta["sequence_len"]), int(meta["eval_tokens"]), int(meta["vocab_size"])
    except (OSError, ValueError, KeyError, TypeError):
        return default.sequence_len, default.eval_tokens, default.vocab_size


try:
    PROFILE = _detect_profile()
    MAX_SEQ_LEN, EVAL_TOKENS, VOCAB_SIZE = _active_sizes()
    TIME_BUDGET: float = _number_from_env("AUTOHYP_BUDGET_S", PROFILES[PROFILE].budget_s)
    SEED: int = int(_number_from_env("AUTOHYP_SEED", 42))
except PrepareError as error:
    if __name__ != "__main__":
        raise
    sys.exit(_fail(str(error)))

# ---------------------------------------------------------------------------
# Progress: bars on a terminal, plain lines elsewhere, always on standard error
# ---------------------------------------------------------------------------


class Progress:
    """Shows named tasks that advance; safe to call from threads. Use as a context manager."""

    plain_interval_s = 10.0

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._lock = threading.Lock()
        self._bars: Any = _rich_progress() if not quiet and sys.stderr.isatty() else None
        self._bar_ids: dict[str, Any] = {}
        self._shown_at: dict[str, float] = {}

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def note(self, line: str) -> None:
        """Print one line above the bars."""
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def update(self, task: str, done: int, total: int = 0) -> None:
        """Show how far `task` is; `total` = 0 means unknown."""
        with self._lock:
            if self._bars is not None:
                if task not in self._bar_ids:
                    self._bar_ids[task] = self._bars.add_task(task, total=None)
                self._bars.update(self._bar_ids[task], completed=done, total=total or None)
            elif not self._quiet:
                self._update_plain(task, done, total)

    def _update_plain(self, task: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self._shown_at.setdefault(task, now) > self.plain_interval_s:
            self._shown_at[task] = now
            self.note(f"{task}: {done / total:.0%}" if total else f"{task}: {done:,}")


def _rich_progress() -> Any:
    """A rich progress display on standard error, or None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    return RichProgress(*columns, TimeRemainingColumn(), console=Console(stderr=True))


# ---------------------------------------------------------------------------
# Sources: where documents come from
# ---------------------------------------------------------------------------


class Document(NamedTuple):
    """A text, the unit that stays together in one split, and what the source fixes already."""

    text: str
    unit: int
    split: str | None = None  # where the source decides, not the content
    part: int = 0  # documents of different parts go into different token files


class Source(Protocol):
    """A re-iterable stream of documents, the same ones in the same order each time."""

    shuffled: bool  # whether the stored order is random already
    request: JsonObject  # what the documents depend on; equal requests give equal documents

    def fetch(self, progress: Progress) -> None: ...
    def documents(self) -> Iterator[Document]: ...


def cut_text(text: str, max_chars: int) -> list[str]:
    """Cut a long text into pieces of at most `max_chars`; joined, they are the text again.

    Cuts fall after a blank line, else after a line end, else anywhere; a cut that would leave less
    than a quarter of `max_chars` is not taken.
    """
    pieces, start = [], 0
    while len(text) - start > max_chars:
        earliest, latest = start + max_chars // 4, start + max_chars
        blank = text.rfind("\n\n", earliest, latest)
        line = text.rfind("\n", earliest, latest)
        end = blank + 2 if blank >= 0 else line + 1 if line >= 0 else latest
        pieces.append(text[start:end])
        start = end
    pieces.append(text[start:])
    return pieces


class TextPieces:
    """Cuts whole text files into documents that suit the row length.

    A packed row keeps only the head of a document that is longer than itself, so a source file is
    cut into pieces. Neighbouring pieces share a unit of at most `block_chars` characters and
    so a split: the validation text is not the other half of a training function.
    """

    chars_per_token = 2  # short of the real 2.8: most pieces then fit into a row
    max_block_chars = 64 * 1024

    def __init__(self, sequence_len: int, total_chars: int) -> None:
        self._piece_chars = self.chars_per_token * sequence_len
        self._block_chars = max(self._piece_chars, min(self.max_block_chars, total_chars // 100))
        self._unit = -1

    def cut(self, text: str) -> Iterator[Document]:
        """Yield the non-blank pieces of one file."""
        filled = self._block_chars
        for piece in cut_text(text, self._piece_chars):
            if filled >= self._block_chars:
                self._unit += 1
                filled = 0
            filled += len(piece)
            if piece.strip():
                yield Document(piece, self._unit)


class PystdlibSource:
    """The text of the running Python's own standard library: real text without a network.

    Tests, installed packages and caches are left out: distributions differ in them.
    """

    shuffled = False
    excluded_folders = frozenset(
        {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test"}
    )

    def __init__(self, sequence_len: int, root: Path | None = None) -> None:
        self._root = root or Path(sysconfig.get_paths()["stdlib"])
        self._sequence_len = sequence_len
        self.request: JsonObject = {
            "python": f"{platform.python_implementation()} {platform.python_version()}"
        }

    def paths(self) -> list[Path]:
        """The library's source files, sorted."""
        found = []
        for folder, subfolders, names in os.walk(self._root):
            subfolders[:] = [name for name in subfolders if name not in self.excluded_folders]
            found += [Path(folder, name) for name in names if name.endswith(".py")]
        return sorted(found)

    def fetch(self, progress: Progress) -> None:
        """Check that the library is there as text."""
        if not self.paths():
            raise PrepareError(f"no .py files in {self._root}: use --source files with text of your own")

    def documents(self) -> Iterator[Document]:
        """Yield pieces of the files that are valid UTF-8."""
        texts = [text for path in self.paths() if (text := _read_text(path)) is not None]
        pieces = TextPieces(self._sequence_len, sum(map(len, texts)))
        for text in texts:
            yield from pieces.cut(text)


def _read_text(path: Path) -> str | None:
    """The text of a file, or None where it is not UTF-8 (or holds NUL bytes: it is no text)."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


class FilesSource:
    """Parquet and JSON-lines files with a text column, and plain text files, by glob patterns.

    A row of a table is a document; a text file is cut into pieces. A folder stands for all files
    below it that are not hidden.
    """

    shuffled = False
    json_suffixes = (".jsonl", ".ndjson")

    def __init__(self, patterns: Sequence[str], column: str, sequence_len: int) -> None:
        if not patterns:
            raise PrepareError("--source files needs --paths: name files, folders or patterns")
        self._column = column
        self._sequence_len = sequence_len
        self._paths = _expand(patterns)
        self.request: JsonObject = {
            "paths": list(patterns),
            "column": column,
            "files_sha256": self._fingerprint(),
        }

    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self._paths:
            stat = path.stat()
            digest.update(f"{path.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def fetch(self, progress: Progress) -> None:
        """Nothing to fetch: the files were found when the source was made."""
        progress.note(f"{len(self._paths)} files found")

    def documents(self) -> Iterator[Document]:
        """Yield rows and pieces; units are numbered over all files."""
        total_chars = sum(path.stat().st_size for path in self._paths if not self._is_table(path))
        pieces = TextPieces(self._sequence_len, total_chars)
        row_unit = 1 << 40  # far beyond the numbers that TextPieces hands out
        for path in self._paths:
            if not self._is_table(path):
                yield from pieces.cut(_read_text(path) or "")
                continue
            rows = read_parquet if path.suffix == ".parquet" else read_json_lines
            for text in rows(path, self._column):
                row_unit += 1
                yield Document(text, row_unit)

    def _is_table(self, path: Path) -> bool:
        return path.suffix == ".parquet" or path.suffix in self.json_suffixes


def _expand(patterns: Sequence[str]) -> list[Path]:
    """The files that the patterns name, sorted, each once; PrepareError where one names none."""
    found: set[Path] = set()
    for pattern in patterns:
        expanded = os.path.expanduser(pattern)
        if os.path.isdir(expanded):
            expanded = os.path.join(glob.escape(expanded), "**", "*")
        files = {Path(name) for name in glob.glob(expanded, recursive=True) if os.path.isfile(name)}
        if not files:
            raise PrepareError(f"--paths {pattern!r} names no file: check the folder and pattern")
        found |= files
    return sorted(found)


def read_parquet(path: Path, column: str) -> Iterator[str]:
    """Yield the non-empty texts of a parquet file's column, one row group in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise PrepareError(
                    f"{path} has no column {column!r} but {', '.join(names)}: pass one as --column"
                )
            kind = table.schema_arrow.field(column).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise PrepareError(f"column {column!r} of {path} is {kind}, not text: pass another")
            for index in range(table.num_row_groups):
                group = table.read_row_group(index, columns=[column])
                yield from filter(None, group.column(column).to_pylist())
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise PrepareError(
            f"{path} is damaged or not parquet ({_first_line(error)}): fetch it again"
        ) from None


def read_json_lines(path: Path, column: str) -> Iterator[str]:
    """Yield the non-empty texts of a field of a JSON-lines file."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)[column]
            except KeyError:
                raise PrepareError(
                    f"{path}:{number} has no field {column!r}: pass another as --column"
                ) from None
            except (ValueError, TypeError):
                raise PrepareError(
                    f"{path}:{number} is not a JSON object: repair or remove that line"
                ) from None
            if not isinstance(value, str | None):
                raise PrepareError(f"{path}:{number}: field {column!r} is not text: pass another")
            if value:
                yield value.encode("utf-8", errors="replace").decode()  # lone surrogates


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


# ---------------------------------------------------------------------------
# Source: the public ClimbMix shards (resumable parallel downloads)
# ---------------------------------------------------------------------------

CLIMBMIX_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_VAL_SHARD = 6542  # the last one; autoresearch's pinned validation shard
CLIMBMIX_HOLDOUT_SHARD = 6541
CLIMBMIX_DEFAULT_SHARDS = 10
DOWNLOAD_CHUNK_BYTES = 1 << 20


class ClimbmixSource:
    """Shards `shard_00000.parquet` on for training, the two last ones for val and hold-out."""

    shuffled = True

    def __init__(self, shards: int, column: str, base_url: str, folder: Path) -> None:
        if shards < 1 or shards > CLIMBMIX_HOLDOUT_SHARD:
            raise PrepareError(f"--shards {shards}: choose 1 to {CLIMBMIX_HOLDOUT_SHARD}")
        self._column = column
        self._base_url = base_url.rstrip("/")
        self._folder = folder
        self._split_of_shard = dict.fromkeys(range(shards), "train")
        self._split_of_shard[CLIMBMIX_VAL_SHARD] = "val"
        self._split_of_shard[CLIMBMIX_HOLDOUT_SHARD] = "holdout"
        self.request: JsonObject = {"shards": shards, "column": column, "url": self._base_url}

    @staticmethod
    def file_name(shard: int) -> str:
        return f"shard_{shard:05d}.parquet"

    def fetch(self, progress: Progress) -> None:
        """Download what is missing, verify what is there."""
        store = ShardStore(self._folder)
        names = [self.file_name(shard) for shard in self._split_of_shard]
        store.fetch_all({name: f"{self._base_url}/{name}" for name in names}, progress)

    def documents(self) -> Iterator[Document]:
        """Yield rows, each a unit of its own, with the split of its shard."""
        unit = 0
        for shard, split in self._split_of_shard.items():
            for text in read_parquet(self._folder / self.file_name(shard), self._column):
                yield Document(text, unit, split, part=shard)
                unit += 1


class TransferError(Exception):
    """A download attempt failed in a way that another attempt may mend."""


class ShardStore:
    """A folder of downloaded files; `shards.json` records each one's size and sha256.

    The record is made at the first download and binds afterwards: a file that differs is fetched
    again, and a server that sends something else is refused. Broken transfers resume where they
    stopped (`<name>.part`).
    """

    max_attempts = 6
    parallel_downloads = 8
    timeout_s = 30.0

    def __init__(self, folder: Path, backoff_s: float = 1.0) -> None:
        self._folder = folder
        self._backoff_s = backoff_s
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._record_path = folder / "shards.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._records: dict[str, JsonObject] = self._load_records()

    def _load_records(self) -> dict[str, JsonObject]:
        if not self._record_path.exists():
            return {}
        try:
            records: dict[str, JsonObject] = json.loads(self._record_path.read_bytes())
        except ValueError:
            raise PrepareError(
                f"{self._record_path} is damaged: delete it to record the shards afresh"
            ) from None
        return records

    def fetch_all(self, url_of_name: dict[str, str], progress: Progress) -> None:
        """Make every named file present and verified; PrepareError names the first that fails."""
        self._cancelled.clear()
        with ThreadPoolExecutor(self.parallel_downloads) as pool:
            jobs = [pool.submit(self._fetch, name, url, progress) for name, url in url_of_name.items()]
            try:
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                for job in done:
                    job.result()
            except BaseException:
                self._cancelled.set()
                for job in jobs:
                    job.cancel()
                raise

    def _fetch(self, name: str, url: str, progress: Progress) -> None:
        path, part = self._folder / name, self._folder / f"{name}.part"
        if path.exists():
            if self._matches_record(name, path):
                return
            progress.note(f"{name} is not what was recorded: fetching it again")
            path.unlink()
        arrived_before = part.exists() and name in self._records and self._matches_record(name, part)
        if not arrived_before:
            self._transfer(name, url, part, progress)
            if not self._matches_record(name, part):
                part.unlink()
                raise PrepareError(
                    f"{url} sent something that is not the recorded {name} or no parquet file: "
                    f"check the server, or delete {self._record_path} to accept new data"
                )
        os.replace(part, path)

    def _matches_record(self, name: str, path: Path) -> bool:
        """Compare a file with its record, or make the record where there is none."""
        with self._lock:
            record = self._records.get(name)
        size = path.stat().st_size
        if record is not None:
            return bool(record["bytes"] == size and record["sha256"] == file_sha256(path))
        if not _looks_like_parquet(path):
            return False
        new_record = {"bytes": size, "sha256": file_sha256(path)}
        with self._lock:
            self._records[name] = new_record
            _write_durably(self._record_path, _json_bytes(self._records))
        return True

    def _transfer(self, name: str, url: str, part: Path, progress: Progress) -> None:
        """Fill `part`, attempt by attempt; each goes on where the last one stopped."""
        failures = 0
        while True:
            try:
                self._attempt(name, url, part, progress)
                return
            except TransferError as error:
                failures += 1
                if failures == self.max_attempts:
                    raise PrepareError(
                        f"{url} failed {failures} times ({error}): check the network and run again; "
                        "what has arrived is kept"
                    ) from None
                progress.note(f"{name}: {error}; trying again ({failures}/{self.max_attempts - 1})")
            if self._cancelled.wait(self._backoff_s * 2 ** (failures - 1)):
                raise PrepareError("the download was cancelled: run again to go on")

    def _attempt(self, name: str, url: str, part: Path, progress: Progress) -> None:
        tag_path = part.with_suffix(".etag")
        have = part.stat().st_size if part.exists() else 0
        request = urllib.request.Request(url, headers={"User-Agent": "autohyp-prepare"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            if tag_path.exists():
                request.add_header("If-Range", tag_path.read_text())
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
                start = _range_start(response.headers["Content-Range"], have) if resumed else 0
                total = start + int(response.headers["Content-Length"] or 0)
                etag = response.headers["ETag"] or ""
                if etag.startswith('"'):
                    tag_path.write_text(etag)
                with part.open("r+b" if start else "wb") as out:
                    out.truncate(start)
                    out.seek(start)
                    self._copy(response, out, name, total, progress)
        except urllib.error.HTTPError as error:
            with error:  # it is the response too
                self._explain_status(error, url, part)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise TransferError(_first_line(error)) from None
        if total > start and part.stat().st_size != total:
            raise TransferError(f"{part.stat().st_size} of {total} bytes arrived")
        tag_path.unlink(missing_ok=True)

    def _copy(self, response: Any, out: Any, name: str, total: int, progress: Progress) -> None:
        while chunk := _read_chunk(response):
            out.write(chunk)
            progress.update(name, out.tell(), total)
            if self._cancelled.is_set():
                raise PrepareError("the download was cancelled: run again to go on")
        out.flush()
        os.fsync(out.fileno())

    def _explain_status(self, error: urllib.error.HTTPError, url: str, part: Path) -> NoReturn:
        """Turn an HTTP status into an error that is retried or not."""
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink(missing_ok=True)
            raise TransferError("the server has less than what had arrived") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise TransferError(f"HTTP {error.code}") from None
        raise PrepareError(
            f"{url} answered {error.code} {error.reason}: check the URL (--base-url) and --shards"
        ) from None


def _read_chunk(response: Any) -> bytes:
    """The next bytes of a response; failures of the network are not those of the disk."""
    try:
        chunk: bytes = response.read(DOWNLOAD_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(_first_line(error)) from None
    return chunk


def _looks_like_parquet(path: Path) -> bool:
    """Whether a file begins and ends as a parquet file does: a truncated one does not."""
    with path.open("rb") as data:
        begins = data.read(4) == b"PAR1"
        return begins and data.seek(-4, os.SEEK_END) >= 8 and data.read(4) == b"PAR1"


def _range_start(content_range: str | None, expected: int) -> int:
    """The first byte of a `Content-Range: bytes START-END/TOTAL` header, which must be expected."""
    found = re.match(r"bytes (\d+)-", content_range or "")
    if not found or int(found[1]) != expected:
        raise TransferError(f"the server sent the range {content_range!r}")
    return expected


# ---------------------------------------------------------------------------
# Splits: which document goes where, and duplicates across splits
# ---------------------------------------------------------------------------

VAL_SHARE = HOLDOUT_SHARE = 0.05
DROPPED = 255


@dataclass(frozen=True)
class SplitPlan:
    """For each document of a source, in its order: the index into SPLITS, or DROPPED."""

    split: npt.NDArray[np.uint8]
    duplicates_removed: int


def plan_splits(documents: Iterable[Document]) -> SplitPlan:
    """Assign documents to splits by their content and remove duplicates across splits.

    Units in the order of their hash fill val, then holdout, up to 5 % of the bytes each; the rest
    is train. A document that is also in val is removed from holdout and train, one that is
    also in holdout is removed from train. Documents whose split the source fixed keep it.
    """
    hashes, sizes, units, fixed = [], [], [], []
    for document in documents:
        data = document.text.encode()
        digest = hashlib.blake2b(data, digest_size=8).digest()
        hashes.append(int.from_bytes(digest, "little"))
        sizes.append(len(data))
        units.append(document.unit)
        fixed.append(DROPPED if document.split is None else SPLITS.index(document.split))
    if not hashes:
        raise PrepareError("the source holds no text: check the paths and the column")
    text_hash = np.array(hashes, np.uint64)
    split = np.array(fixed, np.uint8)
    free = split == DROPPED
    if free.any():
        size, unit = np.array(sizes, np.int64), np.array(units, np.int64)
        split[free] = _split_by_hash(text_hash[free], size[free], unit[free])
    removed = _drop_duplicates(text_hash, split)
    _require_all_splits(split)
    return SplitPlan(split, removed)


def _split_by_hash(
    text_hash: npt.NDArray[np.uint64], size: npt.NDArray[np.int64], unit: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Split indices of documents whose units are runs of equal numbers."""
    first = np.flatnonzero(np.diff(unit, prepend=unit[0] - 1))
    unit_hash = np.add.reduceat(text_hash, first)
    unit_size = np.add.reduceat(size, first)
    order = np.argsort(unit_hash, kind="stable")
    filled_before = np.cumsum(unit_size[order]) - unit_size[order]
    unit_split = np.full(len(first), SPLITS.index("train"), np.uint8)
    rest = np.ones(len(first), bool)
    offset = 0
    for name, share in (("val", VAL_SHARE), ("holdout", HOLDOUT_SHARE)):
        chosen = rest & (filled_before - offset < share * size.sum())
        unit_split[order[chosen]] = SPLITS.index(name)
        offset += int(unit_size[order[chosen]].sum())
        rest &= ~chosen
    return np.repeat(unit_split, np.diff(first, append=len(unit)))


def _drop_duplicates(text_hash: npt.NDArray[np.uint64], split: npt.NDArray[np.uint8]) -> int:
    """Mark in `split` the documents that another split keeps; returns how many."""
    removed = 0
    kept = np.empty(0, np.uint64)
    for name in ("val", "holdout", "train"):
        members = np.flatnonzero(split == SPLITS.index(name))
        duplicate = members[np.isin(text_hash[members], kept)]
        split[duplicate] = DROPPED
        removed += len(duplicate)
        kept = np.union1d(kept, text_hash[members])
    return removed


def _require_all_splits(split: npt.NDArray[np.uint8]) -> None:
    for index, name in enumerate(SPLITS):
        if not (split == index).any():
            raise PrepareError(
                f"the text is too small or too repetitive: no document is left for the {name} split; add text"
            )


# ---------------------------------------------------------------------------
# Tokenizer: trained with rustbpe, stored as text, used through tiktoken
# ---------------------------------------------------------------------------

TOKENIZER_MAX_CHARS = 1_000_000_000  # of training text, as in autoresearch
TOKENIZER_MAX_DOCUMENT_CHARS = 10_000


def train_ranks(texts: Iterable[str], vocab_size: int) -> list[bytes]:
    """Byte-pair merges over `texts`: the token bytes in rank order, without special tokens."""
    import rustbpe

    wanted = vocab_size - len(SPECIAL_TOKENS)
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(_capped(texts), wanted, pattern=SPLIT_PATTERN)
    pairs = sorted(trainer.get_mergeable_ranks(), key=lambda pair: pair[1])
    if len(pairs) < wanted:
        raise PrepareError(
            f"the text gives only {len(pairs) + len(SPECIAL_TOKENS)} tokens: add text, or pass a "
            "smaller --vocab-size"
        )
    return [bytes(token) for token, _ in pairs]


def _capped(texts: Iterable[str]) -> Iterator[str]:
    chars = 0
    for text in texts:
        yield text[:TOKENIZER_MAX_DOCUMENT_CHARS]
        chars += min(len(text), TOKENIZER_MAX_DOCUMENT_CHARS)
        if chars >= TOKENIZER_MAX_CHARS:
            return


def token_byte_counts(ranks: Sequence[bytes], legacy: bool) -> npt.NDArray[np.int32]:
    """Bytes of each token id, int32[vocab]; special tokens count 0 and so are never scored.

    `legacy` counts as autoresearch does, from decoded text: each byte sequence that is no complete
    UTF-8 character becomes a replacement character of 3 bytes.
    """
    counts = [
        len(token.decode("utf-8", errors="replace").encode()) if legacy else len(token) for token in ranks
    ]
    return np.array(counts + [0] * len(SPECIAL_TOKENS), np.int32)


class Tokenizer:
    """The tokenizer of a prepared folder. Sizes are known at once, tiktoken is loaded when used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._settings: JsonObject = json.loads((folder / "tokenizer.json").read_bytes())
        except (OSError, ValueError):
            raise PrepareError(f"{folder} holds no tokenizer: run `python prepare.py` first") from None
        self._encoding: tiktoken.Encoding | None = None

    @classmethod
    def from_data(cls, data_dir: Path | None = None) -> Tokenizer:
        """The tokenizer of `data_dir`, by default of the active prepared folder."""
        return cls((data_dir or active_data_dir()) / "tokenizer")

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special ones included."""
        return int(self._settings["n_vocab"])

    @property
    def bos_token_id(self) -> int:
        """The id that starts every document."""
        return int(self._settings["special_tokens"][SPECIAL_TOKENS[0]])

    @property
    def encoding(self) -> tiktoken.Encoding:
        """The tiktoken encoding behind `encode` and `decode`."""
        if self._encoding is None:
            import tiktoken

            self._encoding = tiktoken.Encoding(
                name="autohyp",
                pat_str=self._settings["pattern"],
                mergeable_ranks=read_ranks(self._folder / "ranks.tiktoken"),
                special_tokens=self._settings["special_tokens"],
            )
        return self._encoding

    def encode(self, text: str, prepend_bos: bool = False) -> list[int]:
        """Token ids of a text; what looks like a special token in it is ordinary text."""
        ids = self.encoding.encode_ordinary(text)
        return [self.bos_token_id, *ids] if prepend_bos else ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids; incomplete UTF-8 becomes replacement characters."""
        return self.encoding.decode(list(token_ids))


def read_ranks(path: Path) -> dict[bytes, int]:
    """Token bytes -> rank, from lines of `base64 rank`."""
    pairs = (line.split() for line in path.read_text("ascii").splitlines())
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def write_tokenizer(folder: Path, ranks: Sequence[bytes]) -> None:
    """Store ranks, settings and both byte tables in `folder`."""
    folder.mkdir(parents=True)
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(ranks)]
    (folder / "ranks.tiktoken").write_text("".join(lines), "ascii")
    special = {name: len(ranks) + index for index, name in enumerate(SPECIAL_TOKENS)}
    n_vocab = len(ranks) + len(special)
    settings = {"pattern": SPLIT_PATTERN, "special_tokens": special, "n_vocab": n_vocab}
    (folder / "tokenizer.json").write_bytes(_json_bytes(settings))
    np.save(folder / "token_bytes.npy", token_byte_counts(ranks, legacy=False))
    np.save(folder / "token_bytes_legacy.npy", token_byte_counts(ranks, legacy=True))


# ---------------------------------------------------------------------------
# Building a data folder
# ---------------------------------------------------------------------------

META_FORMAT = 1
ENCODE_BATCH_DOCUMENTS = 1024


@dataclass(frozen=True)
class Request:
    """What to prepare. Equal `as_json()` means that a prepared folder can be used as it is."""

    source: Source
    source_name: str
    profile: str
    vocab_size: int
    sequence_len: int
    eval_tokens: int

    def as_json(self) -> JsonObject:
        return {
            "source": self.source_name,
            "profile": self.profile,
            "vocab_size": self.vocab_size,
            "sequence_len": self.sequence_len,
            "eval_tokens": self.eval_tokens,
            **self.source.request,
        }


class SplitWriter:
    """Writes tokenised documents of one split: `NNNNN.bin` and `NNNNN.idx.npy` a part."""

    def __init__(self, folder: Path, shuffle_seed: int | None) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._shuffle_seed = shuffle_seed
        self._files = 0
        self._part: int | None = None
        self._out: BinaryIO | None = None
        self._offsets: list[int] = []
        self.text_bytes = 0

    def write(self, tokens: Tokens, text_bytes: int, part: int) -> None:
        """Append one document, BOS included."""
        if self._out is None or part != self._part:
            self.close()
            self._part = part
            self._out = (self._folder / f"{self._files:05d}.bin").open("wb")
            self._offsets = [0]
        self._out.write(tokens.tobytes())
        self._offsets.append(self._offsets[-1] + len(tokens))
        self.text_bytes += text_bytes

    def close(self) -> None:
        """Finish the file in hand; with a seed, put its documents into a random order."""
        if self._out is None:
            return
        self._out.close()
        path = Path(self._out.name)
        offsets = np.array(self._offsets, np.int64)
        if self._shuffle_seed is not None:
            offsets = _shuffle_documents(path, offsets, self._shuffle_seed)
        np.save(path.with_suffix(".idx.npy"), offsets)
        self._files += 1
        self._out = None


def _shuffle_documents(path: Path, offsets: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Rewrite a token file with its documents permuted; returns the new offsets."""
    tokens = np.asarray(np.memmap(path, np.uint16, "r"))
    order = np.random.default_rng(seed).permutation(len(offsets) - 1)
    other = path.with_suffix(".shuffled")
    with other.open("wb") as out:
        for index in order:
            out.write(tokens[offsets[index] : offsets[index + 1]].tobytes())
    os.replace(other, path)
    return np.concatenate(([0], np.cumsum(np.diff(offsets)[order]))).astype(np.int64)


def prepare(request: Request, data_dir: Path, progress: Progress) -> JsonObject:
    """Prepare `data_dir` unless it already answers `request`; returns its meta.

    The folder is built beside its final place and renamed when complete. Concurrent calls for
    the same folder wait for each other. Raises PrepareError.
    """
    meta = _answering_meta(request, data_dir)  # without the lock: the folder may be read-only
    if meta is None:
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(data_dir):
            meta = _answering_meta(request, data_dir)
            if meta is None:
                return _fetch_and_build(request, data_dir, progress)
    progress.note(f"{data_dir} is prepared already")
    return meta


def _answering_meta(request: Request, data_dir: Path) -> JsonObject | None:
    """The meta of a folder that already answers `request`, else None."""
    meta = _existing_meta(data_dir)
    if meta is None or meta["request"] != request.as_json():
        return None
    PreparedData(data_dir).check_sizes()
    return meta


def _fetch_and_build(request: Request, data_dir: Path, progress: Progress) -> JsonObject:
    request.source.fetch(progress)
    building = data_dir.with_name(f".{data_dir.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    try:
        meta = _build(request, building, progress)
        _replace_folder(building, data_dir)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return meta


def _build(request: Request, folder: Path, progress: Progress) -> JsonObject:
    """Write everything into the new `folder`, durably; returns its meta."""
    progress.note("reading the text and splitting it")
    plan = plan_splits(request.source.documents())
    progress.note(f"training a tokenizer of {request.vocab_size} tokens")
    train_texts = (doc.text for doc, split in _routed(request.source, plan) if split == "train")
    write_tokenizer(folder / "tokenizer", train_ranks(train_texts, request.vocab_size))
    text_bytes = _write_splits(request, plan, folder, progress)
    tokenizer = Tokenizer(folder / "tokenizer")
    meta: JsonObject = {
        "format": META_FORMAT,
        "profile": request.profile,
        "source": request.source_name,
        "request": request.as_json(),
        "vocab_size": tokenizer.vocab_size,
        "sequence_len": request.sequence_len,
        "eval_tokens": request.eval_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "splits": {split: _describe_split(folder, split, text_bytes[split]) for split in SPLITS},
        "tokenizer": {"files": [_file_record(folder, path) for path in _files(folder, "tokenizer")]},
        "duplicates_removed": plan.duplicates_removed,
    }
    for split in ("val", "holdout"):
        meta["splits"][split]["rows"] = _write_rows(folder, meta, split, progress)
    meta["eval_tokens"] = meta["splits"]["val"]["rows"]["rows"] * request.sequence_len
    meta["data_sha256"] = data_sha256(meta)
    for path in (*folder.rglob("*"), folder):
        _fsync(path)
    _write_durably(folder / "meta.json", _json_bytes(meta))
    return meta


def _routed(source: Source, plan: SplitPlan) -> Iterator[tuple[Document, str]]:
    """The documents that the plan keeps, each with its split."""
    for document, split in zip(source.documents(), plan.split, strict=True):
        if split != DROPPED:
            yield document, SPLITS[split]


def _write_splits(request: Request, plan: SplitPlan, folder: Path, progress: Progress) -> dict[str, int]:
    """Tokenise every document once into its split's files; returns the text bytes of each split."""
    tokenizer = Tokenizer(folder / "tokenizer")
    encoding, bos = tokenizer.encoding, np.array([tokenizer.bos_token_id], np.uint16)
    seed = None if request.source.shuffled else 0
    writers = {split: SplitWriter(folder / split, seed) for split in SPLITS}

    def encode(text: str) -> Tokens:
        ids = encoding.encode_to_numpy(text, disallowed_special=())
        return np.concatenate((bos, ids.astype(np.uint16)))

    documents = _routed(request.source, plan)
    done, kept = 0, int((plan.split != DROPPED).sum())
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        while batch := list(islice(documents, ENCODE_BATCH_DOCUMENTS)):
            encoded = pool.map(encode, [document.text for document, _ in batch])
            for (document, split), tokens in zip(batch, encoded, strict=True):
                writers[split].write(tokens, len(document.text.encode()), document.part)
            done += len(batch)
            progress.update("tokenising", done, kept)
    for writer in writers.values():
        writer.close()
    return {split: writer.text_bytes for split, writer in writers.items()}


def _describe_split(folder: Path, split: str, text_bytes: int) -> JsonObject:
    """The meta entry of a split: documents, tokens (BOS included), text bytes and files."""
    records, documents, tokens = [], 0, 0
    for path in _files(folder, split):
        record = _file_record(folder, path)
        if path.suffix == ".npy":
            offsets = np.load(path, allow_pickle=False)
            documents += len(offsets) - 1
            tokens += int(offsets[-1])
        else:
            record["tokens"] = record["bytes"] // 2
        records.append(record)
    return {"documents": documents, "tokens": tokens, "bytes": text_bytes, "files": records}


def _write_rows(folder: Path, meta: JsonObject, split: str, progress: Progress) -> JsonObject:
    """Pack the first rows of an evaluation split into `rows.npy`; returns its file record.

    There are never more rows than the split has tokens for, whatever `eval_tokens` says.
    """
    sequence_len, entry = meta["sequence_len"], meta["splits"][split]
    n_rows = min(meta["eval_tokens"], entry["tokens"]) // sequence_len
    if n_rows < 1:
        raise PrepareError(f"the {split} split has only {entry['tokens']} tokens, less than a row: add text")
    if n_rows < meta["eval_tokens"] // sequence_len:
        progress.note(f"{split}: {n_rows * sequence_len:,} tokens, fewer than asked for")
    rows = np.empty((n_rows, sequence_len + 1), np.uint16)
    files = [TokenFile.open(path) for path in _files(folder, split) if path.suffix == ".bin"]
    packer = RowPacker(document_batches(files))
    packer.fill(rows)
    if packer.epoch > 1:
        progress.note(f"{split}: {entry['documents']:,} documents are few, some count more than once")
    path = folder / split / "rows.npy"
    np.save(path, rows)
    return _file_record(folder, path) | {"rows": n_rows}


# ---------------------------------------------------------------------------
# Files: records, durable writes, verification
# ---------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def data_sha256(meta: JsonObject) -> str:
    """One hash for everything in a prepared folder that a measurement depends on."""
    lines = sorted(f"{record['name']} {record['sha256']}\n" for record in _all_records(meta))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _all_records(meta: JsonObject) -> list[JsonObject]:
    records: list[JsonObject] = [*meta["tokenizer"]["files"]]
    for split in SPLITS:
        records += _split_records(meta, split)
    return records


def _split_records(meta: JsonObject, split: str) -> list[JsonObject]:
    entry = meta["splits"][split]
    return [*entry["files"], *([entry["rows"]] if "rows" in entry else [])]


def _files(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name).iterdir())


def _file_record(folder: Path, path: Path) -> JsonObject:
    return {
        "name": path.relative_to(folder).as_posix(),
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(path: Path, data: bytes) -> None:
    """Replace a file at once: readers and crashes see the old content or the new."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        _fsync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _fsync(path.parent)


def _replace_folder(new: Path, target: Path) -> None:
    """Put `new` in the place of `target`; a process that has the old files open keeps them."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    _fsync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the lock of a data folder; released by the kernel however the process ends."""
    with data_dir.with_name(f".{data_dir.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _existing_meta(data_dir: Path) -> JsonObject | None:
    """The meta of a prepared folder, None where there is none; refuses any other folder."""
    if not data_dir.exists() or (data_dir.is_dir() and not any(data_dir.iterdir())):
        return None
    try:
        return PreparedData(data_dir).meta
    except PrepareError as error:
        if (data_dir / "meta.json").exists():
            raise
        raise PrepareError(
            f"{data_dir} exists and is no data folder: pass another --data, or move it away"
        ) from error


class PreparedData:
    """A prepared folder, opened for reading; PrepareError says what is wrong with it."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self.folder = data_dir or active_data_dir()
        path = self.folder / "meta.json"
        try:
            self.meta: JsonObject = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise PrepareError(
                f"no prepared data in {self.folder}: run `python prepare.py` or set AUTOHYP_DATA"
            ) from None
        except (OSError, ValueError):
            raise PrepareError(f"{path} cannot be read: delete the folder, prepare again") from None
        if not isinstance(self.meta, dict) or self.meta.get("format") != META_FORMAT:
            raise PrepareError(f"{path} is not of format {META_FORMAT}: delete the folder and prepare again")

    def check_sizes(self, splits: Sequence[str] = SPLITS) -> None:
        """Raise where a file of these splits or of the tokenizer is missing or truncated."""
        records = [*self.meta["tokenizer"]["files"]]
        for split in splits:
            records += _split_records(self.meta, split)
        for record in records:
            path = self.folder / record["name"]
            if not path.is_file():
                raise PrepareError(f"{path} is missing: delete the folder and prepare again")
            if path.stat().st_size != record["bytes"]:
                raise PrepareError(
                    f"{path} has {path.stat().st_size} bytes instead of {record['bytes']}: "
                    "delete the folder and prepare again"
                )

    def check(self) -> None:
        """Raise where any file's content is not what was recorded."""
        self.check_sizes()
        for record in _all_records(self.meta):
            if file_sha256(self.folder / record["name"]) != record["sha256"]:
                raise PrepareError(
                    f"{self.folder / record['name']} has changed since it was prepared: "
                    "delete the folder and prepare again"
                )
        if data_sha256(self.meta) != self.meta["data_sha256"]:
            raise PrepareError(f"{self.folder / 'meta.json'} was edited: delete the folder and prepare again")

    def token_files(self, split: str) -> list[TokenFile]:
        """The memory-mapped token files of a split, in stored order."""
        if split not in SPLITS:
            raise PrepareError(f"no split {split!r}: choose one of {', '.join(SPLITS)}")
        self.check_sizes([split])
        names = [record["name"] for record in self.meta["splits"][split]["files"]]
        return [TokenFile.open(self.folder / name) for name in names if name.endswith(".bin")]

    def rows(self, split: str) -> Tokens:
        """The packed evaluation rows of "val" or "holdout", uint16 [n_rows, sequence_len + 1]."""
        self.check_sizes([split])
        rows: Tokens = np.load(self.folder / split / "rows.npy", mmap_mode="r", allow_pickle=False)
        return rows

    def token_bytes(self, legacy: bool = False) -> npt.NDArray[np.int32]:
        """Bytes of each token id, int32 [vocab]; see `token_byte_counts`."""
        name = "token_bytes_legacy.npy" if legacy else "token_bytes.npy"
        counts: npt.NDArray[np.int32] = np.load(self.folder / "tokenizer" / name, allow_pickle=False)
        return counts


# ---------------------------------------------------------------------------
# Packing and loading
# ---------------------------------------------------------------------------

BUFFER_DOCUMENTS = 1000
BATCH_DOCUMENTS = 128


@dataclass(frozen=True)
class TokenFile:
    """Tokens of many documents, uint16 [tokens], and their bounds, int64 [documents + 1]."""

    tokens: Tokens
    offsets: npt.NDArray[np.int64]

    @classmethod
    def open(cls, path: Path) -> TokenFile:
        """Map `path` (`.bin`) into memory; all processes of a node share its pages."""
        offsets = np.load(path.with_suffix(".idx.npy"), allow_pickle=False)
        return cls(np.asarray(np.memmap(path, np.uint16, "r")), offsets)


def document_batches(files: Sequence[TokenFile], seed: int = 0) -> Iterator[tuple[list[Tokens], int]]:
    """Yield (at most 128 documents, epoch from 1) without end.

    Seed 0 keeps the stored order; another seed permutes files and documents, anew each epoch.
    """
    epoch = 1
    while True:
        rng = np.random.default_rng((seed, epoch)) if seed else None
        for file_index in rng.permutation(len(files)) if rng else range(len(files)):
            tokens, offsets = files[file_index].tokens, files[file_index].offsets
            n_documents = len(offsets) - 1
            order = rng.permutation(n_documents) if rng else np.arange(n_documents)
            starts, ends = offsets[:-1][order].tolist(), offsets[1:][order].tolist()
            for first in range(0, n_documents, BATCH_DOCUMENTS):
                batch = slice(first, first + BATCH_DOCUMENTS)
                bounds = zip(starts[batch], ends[batch], strict=True)
                yield [tokens[start:end] for start, end in bounds], epoch
        epoch += 1


class RowPacker:
    """Fills rows from a document stream by best fit, as karpathy/autoresearch does.

    From a buffer of at least 1,000 documents it takes the longest that fits the space left, the
    first come among equals; where none fits, the shortest is cut to fill the row, its rest is lost.

    The buffer is a sorted list of integers `length << 40 | (mask - arrival)`: the choice is one
    binary search instead of a scan.
    """

    _SHIFT = 40
    _MASK = (1 << _SHIFT) - 1

    def __init__(self, batches: Iterator[tuple[list[Tokens], int]]) -> None:
        self._batches = batches
        self._keys: list[int] = []
        self._documents: dict[int, Tokens] = {}
        self._arrivals = 0
        self.epoch = 1

    def fill(self, rows: Tokens) -> None:
        """Fill uint16 [n, row_len] in place; `epoch` is then that of the last document read."""
        shift, mask = self._SHIFT, self._MASK
        keys, documents = self._keys, self._documents
        n_rows, row_len = rows.shape
        flat = rows.reshape(-1)
        for row_start in range(0, n_rows * row_len, row_len):
            position, row_end = row_start, row_start + row_len
            while position < row_end:
                if len(keys) < BUFFER_DOCUMENTS:
                    self._refill()
                longest = max(row_end - position, keys[0] >> shift)
                key = keys.pop(bisect_right(keys, longest << shift | mask) - 1)
                document = documents.pop(mask - (key & mask))
                end = min(row_end, position + (key >> shift))
                flat[position:end] = document[: end - position]
                position = end

    def _refill(self) -> None:
        while len(self._keys) < BUFFER_DOCUMENTS:
            batch, self.epoch = next(self._batches)
            for document in batch:
                self._documents[self._arrivals] = document
                self._keys.append(len(document) << self._SHIFT | (self._MASK - self._arrivals))
                self._arrivals += 1
        self._keys.sort()


def make_dataloader(
    device_batch_size: int,
    sequence_len: int,
    split: str = "train",
    *,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Yield (inputs, targets, epoch) without end; int64 [device_batch_size, sequence_len] each.

    `seed` 0 reads the documents in stored order (as autoresearch does), another in an order of
    its own. On CUDA rows travel as uint16 from pinned memory while the next ones are packed. The
    tensors of one step are not reused by the next. Raises PrepareError without data.
    """
    packer = RowPacker(document_batches(PreparedData().token_files(split), seed))
    shape = (device_batch_size, sequence_len + 1)
    return _batches_on_device(packer, shape, str(device))


def _batches_on_device(
    packer: RowPacker, shape: tuple[int, int], device: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    import torch

    on_cuda = device.startswith("cuda")
    # Two staging buffers: one is packed while the copy from the other may still be under way.
    staging = [torch.empty(shape, dtype=torch.uint16, pin_memory=on_cuda) for _ in range(2)]
    copied: list[torch.cuda.Event | None] = [None, None]
    turn = 0
    while True:
        event = copied[turn]
        if event is not None:
            event.synchronize()
        packer.fill(staging[turn].numpy())
        rows = staging[turn].to(device, non_blocking=True)
        if on_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(torch.cuda.current_stream(rows.device))
            copied[turn] = event
        yield rows[:, :-1].to(torch.int64), rows[:, 1:].to(torch.int64), packer.epoch
        turn = 1 - turn


# ---------------------------------------------------------------------------
# The clock
# ---------------------------------------------------------------------------


class TrainingClock:
    """Tells training how much of its budget has gone, and tells the launcher about steps.

    In a campaign (AUTOHYP_CLOCK_FD) events go to the launcher as JSON lines; what is charged is
    measured there. Reports are at most ten a second and are dropped rather than waited for.
    """

    report_interval_s = 0.1

    def __init__(self, budget_s: float | None = None) -> None:
        self.budget_s = TIME_BUDGET if budget_s is None else budget_s
        self._started: float | None = None
        self._last_step: float | None = None
        self._step_s = 0.0
        self._last_report = -math.inf
        self._unsent = b""
        descriptor = os.environ.get("AUTOHYP_CLOCK_FD")
        self._socket = socket.socket(fileno=os.dup(int(descriptor))) if descriptor else None

    def start(self) -> None:
        """Begin to count; call it right before the first training step."""
        self._started = self._last_step = time.monotonic()
        self._send({"event": "start"})

    @property
    def elapsed_s(self) -> float:
        """Seconds since `start`; 0 before."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """Share of the budget that has gone, 0 to 1."""
        return 1.0 if self.budget_s <= 0 else min(1.0, self.elapsed_s / self.budget_s)

    @property
    def expired(self) -> bool:
        """Whether the budget is used up, or would be before another step like the last one is done.

        A run that is charged more than its budget is invalid, so a long step must not be begun late.
        """
        return self.elapsed_s + self._step_s >= self.budget_s

    def report(self, step: int, loss: float) -> None:
        """Report a finished step and its training loss (nats a token)."""
        now = time.monotonic()
        if self._last_step is not None:
            self._step_s = now - self._last_step
        self._last_step = now
        if self._socket is None or now - self._last_report < self.report_interval_s:
            return
        self._last_report = now
        value = float(loss)
        curve_point = {"step": int(step), "loss": value if math.isfinite(value) else None}
        self._send({"event": "step", **curve_point, "progress": round(self.progress, 5)})

    def close(self) -> None:
        """Close the connection to the launcher; the clock goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, event: JsonObject) -> None:
        if self._socket is None:
            return
        line = json.dumps(event).encode() + b"\n"
        # A line that went out in part must be finished first, or the stream would be torn.
        pending = self._unsent or line
        try:
            sent = self._socket.send(pending, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:
            self.close()  # the launcher has gone; training goes on
            return
        self._unsent = pending[sent:]


# ---------------------------------------------------------------------------
# The metric (fixed)
# ---------------------------------------------------------------------------

FRAME_HEADER = struct.Struct("<4sBxxxQ")  # magic, kind, payload bytes
FRAME_MAGIC = b"AHY1"
FRAME_READY, FRAME_CLAIM, FRAME_CLAIMS, FRAME_PROBE = 1, 2, 3, 4
FRAME_LOGITS, FRAME_DONE, FRAME_FAILED, FRAME_REFUSED = 5, 6, 7, 8
MAX_FRAME_BYTES = 1 << 33


def evaluate_bpb(model: torch.nn.Module, device_batch_size: int) -> float:
    """Validation bits per byte of `model`, the same for all vocabularies; lower is better.

    val_bpb = sum of the targets' cross-entropy in nats / (ln 2 x sum of the targets' bytes) over
    the packed validation rows; targets of zero bytes (special tokens) count in neither sum.

    `model(inputs, targets, reduction="none")` must return the losses in nats, [B, T] or [B * T],
    and `model(inputs)` the logits [B, T, vocab]. In a campaign (AUTOHYP_EVAL_FD) this process only
    answers the evaluator's requests; by hand it computes in-process. The model's mode is restored.
    Raises EvaluationError where the evaluator refuses the answers.
    """
    import torch

    # The second is for an evaluator that takes over where the first one broke; it begins anew.
    names = ("AUTOHYP_EVAL_FD", "AUTOHYP_EVAL_SPARE_FD")
    descriptors = [int(os.environ[name]) for name in names if os.environ.get(name)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            answers = ModelAnswers(model, device_batch_size)
            for descriptor in descriptors:
                with socket.socket(fileno=os.dup(descriptor)) as connection:
                    try:
                        return _serve_evaluator(connection, answers)
                    except _EvaluatorGoneError:
                        if descriptor == descriptors[-1]:
                            raise
            return _bits_per_byte(answers)
    finally:
        model.train(was_training)


class ModelAnswers:
    """Batches rows of tokens through a model; on a GPU short batches are padded, so shapes never vary."""

    def __init__(self, model: torch.nn.Module, device_batch_size: int) -> None:
        self._model = model
        self.device_batch_size = device_batch_size
        self.device = next(model.parameters()).device

    @property
    def dtype_name(self) -> str:
        """The lowest precision that the answers are computed in, as far as can be seen."""
        import torch

        if torch.is_autocast_enabled(self.device.type):
            return str(torch.get_autocast_dtype(self.device.type)).removeprefix("torch.")
        dtypes = {p.dtype for p in self._model.parameters() if p.is_floating_point()}
        return str(min(dtypes, key=lambda dtype: dtype.itemsize)).removeprefix("torch.")

    def _batches(self, rows: Tokens) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield (int64 [n, row_len] on the device, rows that count); on a GPU n never varies."""
        import torch

        size = self.device_batch_size
        for first in range(0, len(rows), size):
            count = min(size, len(rows) - first)
            # A compiled graph wants one shape; on a CPU, rows that do not count cost as much as others.
            batch = np.zeros((count if self.device.type == "cpu" else size, rows.shape[1]), np.int32)
            batch[:count] = rows[first : first + count]
            yield torch.from_numpy(batch).to(self.device).long(), count

    def losses(self, rows: Tokens) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (losses float32 [n, T] in nats, targets int64 [n, T]) for rows of T + 1 tokens."""
        for batch, count in self._batches(rows):
            inputs, targets = batch[:, :-1].contiguous(), batch[:, 1:].contiguous()
            losses = self._model(inputs, targets, reduction="none").float()
            yield losses.view(targets.shape)[:count], targets[:count]

    def logits(self, rows: Tokens, positions: npt.NDArray[np.uint32]) -> Iterator[torch.Tensor]:
        """Yield logits float32 [n, n_positions, vocab] for rows of T input tokens."""
        import torch

        where = torch.from_numpy(positions.astype(np.int64)).to(self.device)
        for batch, count in self._batches(rows):
            yield self._model(batch)[:count].index_select(1, where).float()


def _bits_per_byte(answers: ModelAnswers) -> float:
    """The metric in-process, over the rows of the active data."""
    import torch

    data = PreparedData()
    token_bytes = torch.from_numpy(data.token_bytes()).to(answers.device)
    nats = torch.zeros((), dtype=torch.float64, device=answers.device)
    target_bytes = torch.zeros((), dtype=torch.int64, device=answers.device)
    for losses, targets in answers.losses(data.rows("val")):
        sizes = token_bytes[targets]
        nats += torch.where(sizes > 0, losses, 0.0).sum(dtype=torch.float64)
        target_bytes += sizes.sum()
    return float(nats.item() / (math.log(2) * target_bytes.item()))


def _serve_evaluator(connection: socket.socket, answers: ModelAnswers) -> float:
    """Answer the evaluator's frames until it says what the value is."""
    ready = {
        "dtype": answers.dtype_name,
        "device": answers.device.type,
        "device_batch_size": answers.device_batch_size,
    }
    _send_frame(connection, FRAME_READY, json.dumps(ready).encode())
    while True:
        kind, payload = _receive_frame(connection)
        if kind == FRAME_DONE:
            return float(json.loads(payload)["val_bpb"])
        if kind == FRAME_REFUSED:
            raise EvaluationError(f"the evaluator refused: {json.loads(payload)['reason']}")
        try:
            kind, reply = _answer(kind, payload, answers)
        except Exception as error:
            message = {"error": f"{type(error).__name__}: {_first_line(error)}"}
            with contextlib.suppress(EvaluationError):  # the first error is the one to see
                _send_frame(connection, FRAME_FAILED, json.dumps(message).encode())
            raise
        _send_frame(connection, kind, reply)


def _answer(kind: int, payload: bytearray, answers: ModelAnswers) -> tuple[int, memoryview]:
    """(kind, float32 payload) of the reply to a CLAIM or a PROBE."""
    import torch

    if kind == FRAME_CLAIM:
        n_rows, row_len = struct.unpack_from("<II", payload)
        rows = np.frombuffer(payload, "<u2", n_rows * row_len, 8).reshape(n_rows, row_len)
        replies = [losses.contiguous() for losses, _ in answers.losses(rows)]
        reply_kind = FRAME_CLAIMS
    elif kind == FRAME_PROBE:
        n_rows, n_positions, row_len = struct.unpack_from("<III", payload)
        positions = np.frombuffer(payload, "<u4", n_positions, 12)
        start = 12 + 4 * n_positions
        rows = np.frombuffer(payload, "<u2", n_rows * row_len, start).reshape(n_rows, row_len)
        replies = list(answers.logits(rows, positions))
        reply_kind = FRAME_LOGITS
    else:
        raise EvaluationError(f"unknown frame kind {kind} from the evaluator")
    joined = torch.cat(replies).cpu().contiguous().numpy()
    return reply_kind, joined.astype("<f4", copy=False).data.cast("B")


def _send_frame(connection: socket.socket, kind: int, payload: bytes | memoryview) -> None:
    try:
        connection.sendall(FRAME_HEADER.pack(FRAME_MAGIC, kind, len(payload)))
        connection.sendall(payload)
    except OSError as error:
        raise _EvaluatorGoneError(f"the evaluator went away: {error}") from None


def _receive_frame(connection: socket.socket) -> tuple[int, bytearray]:
    """(kind, payload) of the next frame; EvaluationError where the stream ends or is no frame."""
    magic, kind, size = FRAME_HEADER.unpack(_receive_exactly(connection, FRAME_HEADER.size))
    if magic != FRAME_MAGIC or size > MAX_FRAME_BYTES:
        raise EvaluationError("the evaluator sent something that is no frame")
    return kind, _receive_exactly(connection, size)


def _receive_exactly(connection: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    received = 0
    while received < size:
        try:
            count = connection.recv_into(view[received:])
        except OSError as error:
            raise _EvaluatorGoneError(f"the evaluator went away: {error}") from None
        if count == 0:
            raise _EvaluatorGoneError("the evaluator went away before it gave a result")
        received += count
    return data


# ---------------------------------------------------------------------------
# The summary
# ---------------------------------------------------------------------------

SUMMARY_FORMATS = {
    "val_bpb": ".6f",
    "training_seconds": ".1f",
    "total_seconds": ".1f",
    "peak_vram_mb": ".1f",
    "mfu_percent": ".2f",
    "total_tokens_M": ".3f",
    "num_steps": "d",
    "num_params_M": ".3f",
    "depth": "d",
}


def print_summary(**values: float | str) -> None:
    """Print `---` and one `key: value` line for each value, the nine agreed keys first.

    Raises ValueError where one of those is missing: tools read them.
    """
    missing = [key for key in SUMMARY_FORMATS if key not in values]
    if missing:
        raise ValueError(f"the summary lacks {', '.join(missing)}")
    extra = {key: value for key, value in values.items() if key not in SUMMARY_FORMATS}
    width = max(map(len, values)) + 1
    print("---")
    for key, spec in SUMMARY_FORMATS.items():
        number = int(values[key]) if spec == "d" else float(values[key])
        print(f"{key + ':':<{width}} {number:{spec}}")
    for key, value in extra.items():
        print(f"{key + ':':<{width}} {value}")
    sys.stdout.flush()


# ---------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PrepareError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="prepare",
        description="Prepare the text, the tokenizer and the packed rows that training uses.",
        epilog="Exit codes: 0 prepared, 3 something to put right (one line says what), 130 interrupted.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--source", choices=["pystdlib", "files", "climbmix"], help="where the text comes from")
    add("--profile", choices=sorted(PROFILES), default=PROFILE, help="sizes (default: %(default)s)")
    add("--paths", nargs="+", default=[], metavar="GLOB", help="files: files, folders or patterns")
    add("--column", default="text", help="the text column of tables (default: %(default)s)")
    add("--shards", type=int, default=CLIMBMIX_DEFAULT_SHARDS, metavar="N",
        help="climbmix: training shards to download (default: %(default)s)")  # fmt: skip
    add("--base-url", default=os.environ.get("AUTOHYP_CLIMBMIX_URL", CLIMBMIX_URL), metavar="URL",
        help="climbmix: where the shards are (or AUTOHYP_CLIMBMIX_URL)")  # fmt: skip
    add("--data", type=Path, metavar="DIR", help="the folder to prepare (or AUTOHYP_DATA)")
    add("--vocab-size", type=int, metavar="N", help="tokens in the vocabulary, 4 special")
    add("--sequence-len", type=int, metavar="N", help="tokens a row")
    add("--eval-tokens", type=int, metavar="N", help="tokens in an evaluation")
    add("--json", action="store_true", help="end with one line of JSON on standard output")
    add("--check", action="store_true", help="verify a prepared folder, prepare nothing")
    return parser


def _request_from(args: argparse.Namespace) -> Request:
    default = PROFILES[args.profile]
    name = args.source
    if args.paths and name != "files":
        raise PrepareError(f"--paths does not go with --source {name}: use --source files")
    sequence_len = _within("--sequence-len", args.sequence_len or default.sequence_len, 8, 1 << 20)
    vocab_size = _within("--vocab-size", args.vocab_size or default.vocab_size, 261, 65_536)
    eval_tokens = _within("--eval-tokens", args.eval_tokens or default.eval_tokens, sequence_len, 1 << 40)
    source: Source
    if name == "files":
        source = FilesSource(args.paths, args.column, sequence_len)
    elif name == "climbmix":
        folder = cache_dir() / "climbmix-shards"
        source = ClimbmixSource(args.shards, args.column, args.base_url, folder)
    else:
        source = PystdlibSource(sequence_len)
    return Request(source, name, args.profile, vocab_size, sequence_len, eval_tokens)


def _within(option: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise PrepareError(f"{option} {value}: choose {least} to {most}")
    return value


def _explain_os_error(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write {error.filename or 'the data'}: free some, or set --data"
    return f"{error.filename or 'a file'}: {error.strerror or error}: check the path and its rights"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    try:
        args = _parser().parse_args(arguments)
        args.source = args.source or ("files" if args.paths else PROFILES[args.profile].source)
        named = args.data or os.environ.get("AUTOHYP_DATA")
        data_dir = Path(named) if named else default_data_dir(args.profile, args.source)
        with Progress() as progress:
            meta = _run(args, data_dir.absolute(), progress)
    except PrepareError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(_explain_os_error(error))
    except ModuleNotFoundError as error:
        return _fail(f"{error}: install autohyp into this Python, which brings it")
    except KeyboardInterrupt:
        print("prepare: interrupted; run it again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    if args.json:
        print(json.dumps(_report(meta, data_dir)), flush=True)
    return 0


def _run(args: argparse.Namespace, data_dir: Path, progress: Progress) -> JsonObject:
    started = time.monotonic()
    if args.check:
        data = PreparedData(data_dir)
        data.check()
        progress.note(f"{data_dir} is complete and unchanged")
        return data.meta
    meta = prepare(_request_from(args), data_dir, progress)
    train = meta["splits"]["train"]
    progress.note(
        f"{data_dir}: {train['documents']:,} training documents, {train['tokens']:,} tokens, "
        f"{meta['duplicates_removed']:,} duplicates removed, {time.monotonic() - started:.1f} s"
    )
    return meta


def _report(meta: JsonObject, data_dir: Path) -> JsonObject:
    return {
        "data_dir": str(data_dir.absolute()),
        "data_sha256": meta["data_sha256"],
        "profile": meta["profile"],
        "documents": sum(meta["splits"][split]["documents"] for split in SPLITS),
        "train_tokens": meta["splits"]["train"]["tokens"],
    }


if __name__ == "__main__":
    sys.exit(main())

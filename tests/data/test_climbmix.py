"""Downloads from a real HTTP server on the loopback that can misbehave."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

TRAIN, HOLDOUT, VAL = [f"shard_{n:05d}.parquet" for n in (0, 1)], "shard_06541.parquet", "shard_06542.parquet"
SHARDS = [*TRAIN, HOLDOUT, VAL]


class ShardServer(ThreadingHTTPServer):
    """Serves `files` with ranges; `faults[name]` is a list of what to do wrong first."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), ShardHandler)
        self.files = files
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.sent_bytes: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data"


class ShardHandler(BaseHTTPRequestHandler):
    server: ShardServer

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.requests.append((name, self.headers["Range"]))
        faults = self.server.faults.get(name)
        fault = faults.pop(0) if faults else ""
        if fault.isdigit() or name not in self.server.files:
            self.send_error(int(fault or 404))
        elif fault == "redirect":
            self.send_response(302)
            self.send_header("Location", f"{self.server.url}/elsewhere/{name}")
            self.end_headers()
        else:
            self._send(name, fault)

    def _send(self, name: str, fault: str) -> None:
        content = self.server.files[name]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        fresh = self.headers["If-Range"] in (None, etag)
        start = int(wanted[1]) if wanted and fresh and fault != "ignore range" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        body = content[start:]
        if fault == "cut":
            body = body[: len(body) // 2]
        self.server.sent_bytes[name] += len(body)
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def parquet(texts: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), out, row_group_size=100)
    return out.getvalue()


@pytest.fixture(scope="module")
def shard_texts() -> dict[str, list[str]]:
    """Four shards of 300 documents; ten of each are also in the next one."""
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away"]
    line = [" ".join(words[(n * k) % 12] for k in range(1, 9)) + f" {n}" for n in range(1200)]
    return {name: line[300 * n : 300 * n + 300] + line[: 10 * (n == 3)] for n, name in enumerate(SHARDS)}


@pytest.fixture
def server(shard_texts: dict[str, list[str]]) -> Iterator[ShardServer]:
    with ShardServer({name: parquet(texts) for name, texts in shard_texts.items()}) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def store(prepare: ModuleType, tmp_path: Path) -> Any:
    """A store that does not wait between attempts."""
    return prepare.ShardStore(tmp_path / "shards", backoff_s=0.0)


def fetch(prepare: ModuleType, store: Any, server: ShardServer, names: list[str] = SHARDS) -> None:
    store.fetch_all({name: f"{server.url}/{name}" for name in names}, prepare.Progress(quiet=True))


def assert_complete(server: ShardServer, folder: Path) -> None:
    records = json.loads((folder / "shards.json").read_text())
    for name, content in server.files.items():
        assert (folder / name).read_bytes() == content
        assert records[name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert {path.name for path in folder.iterdir()} == {*server.files, "shards.json"}


def test_fetch_and_record(prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path) -> None:
    fetch(prepare, store, server)
    assert_complete(server, tmp_path / "shards")
    fetch(prepare, prepare.ShardStore(tmp_path / "shards"), server)
    assert len(server.requests) == 4


def test_a_cut_transfer_resumes_where_it_stopped(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    server.faults = {VAL: ["cut", "cut"], HOLDOUT: ["503", "429", "redirect"]}
    fetch(prepare, store, server)
    assert_complete(server, tmp_path / "shards")
    size = len(server.files[VAL])
    assert server.sent_bytes[VAL] == size
    ranges = [asked for name, asked in server.requests if name == VAL]
    assert ranges == [None, f"bytes={size // 2}-", f"bytes={size // 2 + (size - size // 2) // 2}-"]


def test_a_later_process_resumes(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    server.faults = {VAL: ["cut"] + ["500"] * 5}
    with pytest.raises(prepare.PrepareError, match=r"failed 6 times \(HTTP 500\).*what has arrived is kept"):
        fetch(prepare, store, server)
    fetch(prepare, prepare.ShardStore(tmp_path / "shards"), server)
    assert_complete(server, tmp_path / "shards")
    assert server.sent_bytes[VAL] == len(server.files[VAL])


def test_a_server_without_ranges_starts_over(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    server.faults = {VAL: ["cut", "ignore range"]}
    fetch(prepare, store, server)
    assert_complete(server, tmp_path / "shards")


def test_a_file_that_changes_between_attempts_is_not_stitched(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    server.faults = {VAL: ["cut"] + ["500"] * 5}
    with pytest.raises(prepare.PrepareError):
        fetch(prepare, store, server, [VAL])
    server.files[VAL] = parquet(["all new"] * 500)
    fetch(prepare, store, server)
    assert_complete(server, tmp_path / "shards")


def test_an_overlong_part_is_dropped(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    (tmp_path / "shards" / f"{VAL}.part").write_bytes(bytes(10_000_000))
    fetch(prepare, store, server)
    assert_complete(server, tmp_path / "shards")


def test_a_finished_part_is_only_renamed(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    """What a crash between the last byte and the rename leaves."""
    fetch(prepare, store, server)
    (tmp_path / "shards" / VAL).rename(tmp_path / "shards" / f"{VAL}.part")
    fetch(prepare, prepare.ShardStore(tmp_path / "shards"), server)
    assert_complete(server, tmp_path / "shards")
    assert len(server.requests) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-5] + b"x" + data[-4:]])
def test_a_damaged_file_is_fetched_again(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path, damage: Any
) -> None:
    fetch(prepare, store, server)
    path = tmp_path / "shards" / VAL
    path.write_bytes(damage(path.read_bytes()))
    fetch(prepare, prepare.ShardStore(tmp_path / "shards"), server)
    assert_complete(server, tmp_path / "shards")


def test_other_data_than_recorded_is_refused(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    fetch(prepare, store, server)
    (tmp_path / "shards" / VAL).unlink()
    server.files[VAL] = parquet(["other text"] * 500)
    with pytest.raises(prepare.PrepareError, match=f"not the recorded {VAL}"):
        fetch(prepare, store, server)
    assert not (tmp_path / "shards" / VAL).exists()


def test_an_error_page_is_not_recorded(
    prepare: ModuleType, store: Any, server: ShardServer, tmp_path: Path
) -> None:
    good = server.files[VAL]
    server.files[VAL] = b"<html>please log in</html>"
    with pytest.raises(prepare.PrepareError, match="no parquet file"):
        fetch(prepare, store, server)
    server.files[VAL] = good
    fetch(prepare, prepare.ShardStore(tmp_path / "shards"), server)
    assert_complete(server, tmp_path / "shards")


def test_a_missing_shard_fails_at_once(prepare: ModuleType, store: Any, server: ShardServer) -> None:
    with pytest.raises(prepare.PrepareError, match=r"shard_00009.parquet answered 404"):
        fetch(prepare, store, server, ["shard_00009.parquet"])
    assert len(server.requests) == 1


def test_no_server(prepare: ModuleType, store: Any, server: ShardServer) -> None:
    server.server_close()
    with pytest.raises(prepare.PrepareError, match=r"failed 6 times .*check the network"):
        fetch(prepare, store, server, [VAL])


# --- the whole source, through the command line ---------------------------------------------------


def run(cli: Any, server: ShardServer, tmp_path: Path, shards: int = 2) -> Any:
    sizes = ["--vocab-size", "300", "--sequence-len", "32", "--eval-tokens", "640"]
    env = {"AUTOHYP_CLIMBMIX_URL": server.url, "AUTOHYP_CACHE": str(tmp_path)}
    return cli("--source", "climbmix", "--profile", "gpu", "--shards", str(shards), "--json", *sizes, env=env)


def test_prepare_climbmix(
    prepare: ModuleType, cli: Any, server: ShardServer, shard_texts: dict[str, list[str]], tmp_path: Path
) -> None:
    result = run(cli, server, tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "climbmix-gpu"
    assert json.loads(result.stdout)["data_dir"] == str(folder)
    data, tokenizer = prepare.PreparedData(folder), prepare.Tokenizer.from_data(folder)
    assert data.meta["duplicates_removed"] == 10
    stored = {}
    for split in ("train", "val", "holdout"):
        stored[split] = [
            [
                tokenizer.decode(f.tokens[a + 1 : b].tolist())
                for a, b in zip(f.offsets, f.offsets[1:], strict=False)
            ]
            for f in data.token_files(split)
        ]
    # A file a shard, in stored order; what validation holds too is gone from training.
    assert stored["val"] == [shard_texts[VAL]]
    assert stored["holdout"] == [shard_texts[HOLDOUT]]
    assert stored["train"] == [shard_texts[TRAIN[0]][10:], shard_texts[TRAIN[1]]]


def test_more_shards_later_download_only_those(cli: Any, server: ShardServer, tmp_path: Path) -> None:
    assert run(cli, server, tmp_path, shards=1).returncode == 0
    assert run(cli, server, tmp_path, shards=2).returncode == 0
    assert Counter(name for name, _ in server.requests) == dict.fromkeys(SHARDS, 1)


def test_a_missing_shard_is_one_line_and_leaves_no_data(
    cli: Any, server: ShardServer, tmp_path: Path
) -> None:
    result = run(cli, server, tmp_path, shards=3)
    assert result.returncode == 3
    assert result.stdout == ""
    assert result.stderr.count("prepare: ") == 1
    assert "shard_00002.parquet answered 404" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "climbmix-gpu").exists()

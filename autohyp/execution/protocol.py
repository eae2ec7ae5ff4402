"""The evaluation protocol: what the evaluator and the training process say to one another.

A frame is a 16-byte header (magic, kind, payload bytes) and a payload: JSON, or little-endian arrays;
never pickle. The training process is not trusted: a frame is read only if its kind is expected now and its
length is what that kind may have, which is known before a byte of payload is read. The evaluator never
blocks on a peer that neither reads nor writes: all waiting has a deadline.

    1 READY   training -> evaluator  JSON {"dtype", "device", "device_batch_size"}
    2 CLAIM   evaluator -> training  <II n_rows, row_len (= T+1); uint16[n_rows, T+1]
    3 CLAIMS  training -> evaluator  float32[n_rows, T]: the losses of the targets, nats
    4 PROBE   evaluator -> training  <III n_rows, n_positions, row_len (= T);
                                     uint32[n_positions]; uint16[n_rows, T]
    5 LOGITS  training -> evaluator  float32[n_rows, n_positions, vocab]
    6 DONE    evaluator -> training  JSON {"val_bpb", "val_bpb_legacy"}
    7 FAILED  training -> evaluator  JSON {"error"}: the model raised
    8 REFUSED evaluator -> training  JSON {"reason"}

The training side is in `prepare.evaluate_bpb`, which shares no code with this package on purpose.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "HEADER",
    "MAGIC",
    "MAX_JSON_BYTES",
    "DeadlineError",
    "Frame",
    "FrameChannel",
    "Kind",
    "OwnerGoneError",
    "PeerClosedError",
    "ViolationError",
    "claim_payload",
    "decode_json",
    "json_payload",
    "probe_payload",
]

MAGIC = b"AHY1"
HEADER = struct.Struct("<4sBxxxQ")
MAX_JSON_BYTES = 64 * 1024


class Kind(IntEnum):
    """What a frame is."""

    READY = 1
    CLAIM = 2
    CLAIMS = 3
    PROBE = 4
    LOGITS = 5
    DONE = 6
    FAILED = 7
    REFUSED = 8


JSON_KINDS = frozenset({Kind.READY, Kind.DONE, Kind.FAILED, Kind.REFUSED})


class ViolationError(Exception):
    """The peer sent something that the protocol does not allow; the message is for people."""


class PeerClosedError(Exception):
    """The peer closed the connection, between frames or inside one."""


class DeadlineError(Exception):
    """The peer neither read nor wrote in time."""


class OwnerGoneError(Exception):
    """The process that wanted the evaluation is gone."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A received frame; `payload` has exactly the length that was expected of `kind`."""

    kind: Kind
    payload: bytearray


def json_payload(**values: object) -> bytes:
    """The payload of a JSON kind."""
    return json.dumps(values).encode()


def decode_json(payload: bytes | bytearray) -> dict[str, Any]:
    """The object in a JSON payload. Raises ViolationError if there is none."""
    try:
        value = json.loads(payload.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ViolationError("the training process sent JSON that cannot be read") from None
    if not isinstance(value, dict):
        raise ViolationError("the training process sent JSON that is not an object")
    return value


def claim_payload(rows: npt.NDArray[np.uint16]) -> bytes:
    """A CLAIM for `rows` [n_rows, T+1]."""
    n_rows, row_len = rows.shape
    return struct.pack("<II", n_rows, row_len) + rows.astype("<u2").tobytes()


def probe_payload(rows: npt.NDArray[np.uint16], positions: npt.NDArray[np.integer[Any]]) -> bytes:
    """A PROBE of `rows` [n_rows, T] for the logits at `positions` [n_positions], each below T."""
    n_rows, row_len = rows.shape
    head = struct.pack("<III", n_rows, len(positions), row_len)
    return head + positions.astype("<u4").tobytes() + rows.astype("<u2").tobytes()


class FrameChannel:
    """Frames over a connected stream socket, never blocking without a deadline.

    Frames are queued and leave while `receive` or `flush` waits, so that two sides that both write
    large frames cannot block one another. `owner_fd`, if given, is watched too: when its other end
    closes, `receive` raises OwnerGoneError. The socket stays the caller's to close.
    """

    def __init__(self, sock: socket.socket, owner_fd: int | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._owner_fd = owner_fd
        self._outgoing: deque[memoryview] = deque()
        self.received_at_s = 0.0

    def queue(self, kind: Kind, payload: bytes) -> None:
        """Adds a frame to what is to be sent."""
        self._outgoing.append(memoryview(HEADER.pack(MAGIC, kind, len(payload)) + payload))

    def receive(self, sizes: Mapping[Kind, int], deadline_s: float | None) -> Frame:
        """The next frame, which must be of a kind in `sizes` and of that many bytes (JSON kinds: at most).

        `deadline_s` is a time of `time.monotonic()`; None waits for as long as the peer and the owner live.
        Raises ViolationError, PeerClosedError, DeadlineError, OwnerGoneError.
        """
        header = self._read(HEADER.size, deadline_s)
        self.received_at_s = time.monotonic()
        magic, kind, length = HEADER.unpack(header)
        if magic != MAGIC:
            raise ViolationError("the training process wrote something else than evaluation frames")
        if kind not in sizes:
            expected = " or ".join(known.name for known in sizes)
            raise ViolationError(f"the training process sent a frame of kind {kind} where {expected} was due")
        size = sizes[Kind(kind)]
        if length > size or (length != size and Kind(kind) not in JSON_KINDS):
            raise ViolationError(
                f"the training process sent {Kind(kind).name} of {length} bytes "
                f"where {size} were due: wrong shape"
            )
        payload = self._read(length, deadline_s)
        self.received_at_s = time.monotonic()
        return Frame(Kind(kind), payload)

    def flush(self, deadline_s: float) -> None:
        """Sends what is queued. Raises PeerClosedError, DeadlineError, OwnerGoneError."""
        while self._outgoing:
            self._wait(select.POLLOUT, deadline_s)
            self._send()

    def _read(self, size: int, deadline_s: float | None) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            self._send()
            try:
                count = self._sock.recv_into(view)
            except BlockingIOError:
                self._wait(select.POLLIN | (select.POLLOUT if self._outgoing else 0), deadline_s)
                continue
            except OSError:
                count = 0
            if count == 0:
                raise PeerClosedError
            view = view[count:]
        return buffer

    def _send(self) -> None:
        while self._outgoing:
            try:
                count = self._sock.send(self._outgoing[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:  # what the peer wrote before it closed is still read
                self._outgoing.clear()
                return
            rest = self._outgoing[0][count:]
            if rest:
                self._outgoing[0] = rest
            else:
                self._outgoing.popleft()

    def _wait(self, events: int, deadline_s: float | None) -> None:
        poller = select.poll()
        poller.register(self._sock, events)
        if self._owner_fd is not None:
            poller.register(self._owner_fd, select.POLLIN | select.POLLHUP)
        timeout_ms = None
        if deadline_s is not None:
            timeout_ms = max(0.0, (deadline_s - time.monotonic()) * 1000)
        ready = dict(poller.poll(timeout_ms))
        if self._owner_fd in ready:
            raise OwnerGoneError
        if not ready:
            raise DeadlineError

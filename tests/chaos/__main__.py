"""The command: kills, then the table; exit code 1 when anything was violated."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from pathlib import Path

from .campaign import environment, prepare_tiny_data
from .deck import REAL, SIMULATED
from .lane import Lane
from .record import Record

SHARES = {SIMULATED: 0.65, REAL: 0.35}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, help="in all (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed and when")
    parser.add_argument("--only", choices=tuple(SHARES), help="one lane instead of both")
    parser.add_argument("--log", type=Path, help="every kill as a JSON line (default: beside the campaigns)")
    parser.add_argument("--keep", action="store_true", help="keep the folder also when all is well")
    chosen = parser.parse_args()
    shares = {chosen.only: 1.0} if chosen.only else SHARES
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: sockets lie below it
    log = chosen.log or folder.with_suffix(".jsonl")
    record = Record(log, sys.stdout)
    record.say(f"seed {chosen.seed}, {chosen.kills} kills, folder {folder}, log {log}")
    try:
        data = prepare_tiny_data(folder, environment(folder)) if REAL in shares else folder
        lanes = [
            Lane(name, round(chosen.kills * share), chosen.seed, folder, data, record)
            for name, share in shares.items()
        ]
        threads = [threading.Thread(target=_run, args=(lane, record), name=lane.name) for lane in lanes]
        for thread in threads:
            thread.start()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: record.stop.set())  # what was started must be ended
        for thread in threads:
            thread.join()
    finally:
        print(f"\nseed {chosen.seed}\n{record.table()}", flush=True)
        record.close()
    is_well = not record.violations and record.num_kills >= chosen.kills
    if is_well and not chosen.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"the campaigns are in {folder}")
    return 0 if is_well else 1


def _run(lane: Lane, record: Record) -> None:
    try:
        lane.run()
    except Exception:
        record.violation(lane.name, "", "the harness failed", traceback.format_exc())


if __name__ == "__main__":
    sys.exit(main())

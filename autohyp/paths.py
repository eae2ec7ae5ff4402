"""Where things are: the target that ships with the package, and the files of a campaign's folder."""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autohyp.errors import CampaignError, ConfigError

__all__ = ["CampaignPaths", "bundled_target", "find_campaign", "has_room", "list_campaigns", "write_atomic"]

MIN_FREE_BYTES = 8 * 2**20
"""With less than this on its disk a campaign starts nothing: a run that fails for want of room tells nothing
of its hypothesis."""
_PACKAGE = Path(__file__).resolve().parent


def bundled_target() -> dict[str, Path]:
    """The files that `autohyp init` lays out, by the name they get: from the wheel, or from the clone."""
    installed = _PACKAGE / "_target"
    template = installed if installed.is_dir() else _PACKAGE.parent / "train_template"
    prepare = template / "prepare.py" if installed.is_dir() else _PACKAGE.parent / "prepare.py"
    files = {"prepare.py": prepare} | {
        str(path.relative_to(template)): path
        for path in sorted(template.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for name in ("train.py", "prepare.py"):
        if name not in files or not files[name].is_file():
            raise ConfigError(f"this installation of autohyp lacks its {name}; install it again")
    return files


def write_atomic(path: Path, text: str) -> None:
    """Replace a file's content so that a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def has_room(folder: Path) -> bool:
    """Whether the folder's disk has room for another run; also when nobody can tell."""
    try:
        return shutil.disk_usage(folder).free >= MIN_FREE_BYTES
    except OSError:
        return True


@dataclass(frozen=True)
class CampaignPaths:
    """The layout of `research/<tag>/`; see docs/structure.md for what each file holds."""

    root: Path

    @property
    def tag(self) -> str:
        return self.root.name

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def config(self) -> Path:
        return self.root / "campaign.yaml"

    @property
    def repository(self) -> Path:
        return self.root / "repo.git"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def tools(self) -> Path:
        return self.root / "tools"

    @property
    def fleet(self) -> Path:
        return self.root / "fleet"

    @property
    def live_workers(self) -> Path:
        return self.root / "live" / "workers"

    @property
    def driver(self) -> Path:
        """Names the process that drives the campaign now."""
        return self.root / "live" / "driver.json"

    @property
    def worktrees(self) -> Path:
        """Checkouts of runs in progress; empty when nothing runs."""
        return self.root / "live" / "worktrees"

    @property
    def kernels(self) -> Path:
        """What was compiled for kept experiments in this session, a folder a node."""
        return self.root / "live" / "kernels"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments.jsonl"

    @property
    def results(self) -> Path:
        return self.root / "results.tsv"

    @property
    def progress_picture(self) -> Path:
        return self.root / "progress.png"

    def log(self, experiment_id: str, run_id: str) -> Path:
        """The training log of one run; `train.log` beside it is the experiment's last."""
        return self.runs / experiment_id / f"{run_id}.log"


def list_campaigns(research: Path) -> list[CampaignPaths]:
    """The campaigns under a research folder, the one worked on last first."""
    written: dict[Path, float] = {}
    # A campaign whose newest segment was taken away is found too: `autohyp doctor` says what is missing.
    for name in ("journal.jsonl", "journal.[0-9]*.jsonl"):
        for path in research.glob(f"[!.]*/{name}"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                if stat.S_ISREG(facts.st_mode):
                    written[path.parent] = max(written.get(path.parent, 0.0), facts.st_mtime)
    return [CampaignPaths(root) for root in sorted(written, key=written.__getitem__, reverse=True)]


def find_campaign(research: Path, tag: str | None) -> CampaignPaths:
    """The campaign with this tag, or the one worked on last.

    Raises CampaignError when there is none, naming those that exist.
    """
    known = list_campaigns(research)
    for paths in known:
        if paths.tag == tag:
            return paths
    if tag is not None and (research / tag).is_dir():
        raise CampaignError(
            f"{research / tag} has no journal: restore journal.jsonl from a copy, or delete the folder; "
            "nothing else there can replace it"
        )
    if not known:
        raise CampaignError(f"no campaign under {research}; `autohyp run` starts one")
    if tag is None:
        return known[0]
    raise CampaignError(f"no campaign {tag!r} under {research}; there are: {', '.join(p.tag for p in known)}")

"""What is installed works outside a clone: the wheel carries the target, and `autohyp init` lays it out."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True, timeout=120)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_init_lays_out_the_target_that_the_wheel_carries(installed: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    where = subprocess.run(
        [sys.executable, "-c", "import autohyp; print(autohyp.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed))
    subprocess.run(
        [sys.executable, "-m", "autohyp.cli.main", "init", "mine"], cwd=tmp_path, env=environment, check=True
    )
    for name, source in (("train.py", "train_template/train.py"), ("prepare.py", "prepare.py")):
        assert (tmp_path / "mine" / name).read_bytes() == (ROOT / source).read_bytes()
    assert (tmp_path / "mine" / "campaign.yaml").is_file()
    assert (tmp_path / "mine" / "program.md").is_file()


def test_the_wheel_holds_nothing_else(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"autohyp"}

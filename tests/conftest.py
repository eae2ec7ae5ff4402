"""What every test gets: nothing of this machine's user, and no campaign variables in the environment."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_campaign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test behaves the same inside and outside a campaign."""
    for name in [name for name in os.environ if name.startswith("AUTOHYP_")]:
        monkeypatch.delenv(name)

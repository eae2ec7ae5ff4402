"""What every test gets: nothing of this machine's user, and no campaign variables in the environment."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# The same examples every time, so that what passed once passes again; a busy machine fails no test. New
# examples: pytest --hypothesis-profile=search
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _no_campaign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test behaves the same inside and outside a campaign."""
    for name in [name for name in os.environ if name.startswith("AUTOHYP_")]:
        monkeypatch.delenv(name)

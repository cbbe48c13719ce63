"""Pictures take a second each: only the tests about them draw some."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.node.name:
        monkeypatch.setattr("darkprune.training.loop.loop.draw_curves", lambda *args: True)
        monkeypatch.setattr("darkprune.training.sparsity.gammas.new_figure", lambda width, height: None)

"""Last of this folder: nothing is left behind."""

from __future__ import annotations

import pytest

from tests.e2e.compose.engine import Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


def test_down_leaves_nothing_behind(running: Project) -> None:
    running.down()
    assert running.leftovers() == []

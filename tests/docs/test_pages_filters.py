"""The manual lists all filters that a template may use."""

from __future__ import annotations

import re
from pathlib import Path

from batchflux.manifest.templates import FILTER_NAMES

PAGE = Path(__file__).parents[2] / "batchflux/docs/templates.md"


def test_all_filters_are_listed() -> None:
    listed = PAGE.read_text(encoding="utf-8").partition("## Filters")[2].partition("They are")[0]
    assert sorted(re.findall(r"`(\w+)`", listed)) == sorted(FILTER_NAMES)

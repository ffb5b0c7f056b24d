"""A folder with every hard character in its name, a manifest in it, and the recipes that are printed for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from batchflux.testing.inside import inside

if TYPE_CHECKING:
    from pathlib import Path

HARD = '猫 50%\'s $HOME {{ x }} "a"'
MANIFEST = """\
version: 1
name: shop
provider: {name: tuzi, api: flux-relay, price: 0.1, keys: [TUZI_KEY]}
limits: {deadline: "06:00", timeout: auto}
jobs:
  - {id: a, prompt: x}
"""


@dataclass(frozen=True, slots=True)
class Recipes:
    """Makes recipes for `night.yaml` in `folder`."""

    folder: Path

    def call(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Call `batchflux recipe`."""
        return inside(self.folder, {**os.environ, **environ}, "recipe", *arguments)

    def files(self, platform: str, *options: str, **environ: str) -> dict[str, str]:
        """Return the files of a recipe by their names."""
        place = self.folder / platform
        code, printed, said = self.call(
            platform, "night.yaml", "--zone", "Asia/Shanghai", "--write", str(place), *options, **environ
        )
        assert (code, printed) == (0, ""), said
        found = sorted(path for path in place.rglob("*") if path.is_file())
        return {str(path.relative_to(place)): path.read_text(encoding="utf-8") for path in found}


@pytest.fixture
def recipes(tmp_path: Path) -> Recipes:
    """Give a folder whose name no platform reads without quotes."""
    folder = tmp_path / HARD
    folder.mkdir()
    (folder / "night.yaml").write_text(MANIFEST, encoding="utf-8")
    return Recipes(folder)

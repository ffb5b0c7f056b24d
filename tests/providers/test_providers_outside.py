"""A package of its own that brings providers and a store, beside batchflux as pip puts one: they run, as they must."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    Call = Callable[..., subprocess.CompletedProcess[str]]

OUTSIDE = Path(__file__).resolve().parents[1] / "outside"
ROOT = OUTSIDE.parents[1]

MANIFEST = """
version: 1
name: m
provider: {name: mine, api: atelier, base_url: "http://127.0.0.1:9", keys: [TOKEN], model: gouache, price: 0.14}
jobs: [{prompt: A red mug, seed: 7SEED}]
"""


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Call a module of Python in a folder, with the package put where pip puts one: its module and its metadata."""
    package = tomllib.loads((OUTSIDE / "pyproject.toml").read_text(encoding="utf-8"))
    project = package["project"]
    site = tmp_path / "site"
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head, encoding="utf-8")
    with (metadata / "entry_points.txt").open("w", encoding="utf-8") as stream:
        for group, points in project["entry-points"].items():
            stream.write(f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items()))
    for module in package["tool"]["setuptools"]["py-modules"]:
        shutil.copy(OUTSIDE / f"{module}.py", site)
    environ = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "TOKEN": "sk-outside-000000"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)

    return run


def test_its_capabilities_are_known_to_a_plan(call: Call, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST.replace("SEED", ""), encoding="utf-8")
    ended = call("batchflux", "plan", "m.yaml", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["counts"]["todo"] == 1
    (tmp_path / "m.yaml").write_text(MANIFEST.replace("SEED", ", aspect_ratio: '1:1'"), encoding="utf-8")
    ended = call("batchflux", "plan", "m.yaml")
    assert ended.returncode == 2
    assert "aspect_ratio" in ended.stdout + ended.stderr


STORE = """
import sys, hashlib
from batchflux.output.stores.base import StoreSettings, read
from batchflux.output.stores.opening import Stores

stores = Stores(look_up={"MINE": sys.argv[1]}.get, settings={"attic://a": StoreSettings(access_key="MINE")})
store = stores.at("attic://a/pictures")
for made in (True, False):
    assert store.put("x/y.png", b"picture", hashlib.sha256(b"picture").hexdigest()) is made
assert read(store, "x/y.png") == b"picture"
"""


def test_its_store_is_opened_by_its_scheme(call: Call, tmp_path: Path) -> None:
    (tmp_path / "keep.py").write_text(STORE, encoding="utf-8")
    ended = call("keep", tmp_path / "attics")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    mirror = MANIFEST.replace("SEED", "") + "output: {mirror: cellar://a/pictures}\n"
    (tmp_path / "m.yaml").write_text(mirror, encoding="utf-8")
    ended = call("batchflux", "plan", "m.yaml")
    assert ended.returncode == 2
    assert "there are s3://, oss://, gs://, az://, file://, attic://" in ended.stdout + ended.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_suite_holds_for_it(call: Call, tmp_path: Path) -> None:
    """Some tests of each kind: the others take as long for it as for the providers that they are run for already."""
    some = "paid_once or handle.recorded or answer.recorded or told or wrong_key or moderated or poll_that or lost_is"
    some = f"({some}) and not looked_for"  # of an API that cannot tell what was lost there is none
    said = said_of(call, tmp_path, "atelier", some)
    assert "skipped" not in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_suite_of_batches_holds_for_it(call: Call, tmp_path: Path) -> None:
    some = "paid_once or batch.created or batch.read or was_lost or moderated or once_its_batch"
    assert "skipped" not in said_of(call, tmp_path, "printers", some)


def test_its_webhooks_and_its_books_are_known(call: Call, tmp_path: Path) -> None:
    assert "2 passed" in said_of(call, tmp_path, "atelier", "calls or bill")


def said_of(call: Call, folder: Path, module: str, some: str) -> str:
    """Run some of the tests that the package has of a module; return what pytest says."""
    for name in ("pyproject.toml", f"test_batchflux_{module}.py"):
        shutil.copy(OUTSIDE / name, folder)
    ended = call(
        "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-k", some, f"test_batchflux_{module}.py"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout

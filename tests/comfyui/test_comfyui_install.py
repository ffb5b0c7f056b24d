"""`batchflux comfyui install`, and what lies in the pack."""

from __future__ import annotations

import ast
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from batchflux.cli import cli
from batchflux.comfyui.install import LIST, PACK, install
from batchflux.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

THERE = {"aiohttp", "numpy", "PIL", "torch", "comfy", "comfy_api", "comfy_execution", "server"}  # in any ComfyUI
MODULES = sorted(PACK.glob("*.py"))


@pytest.fixture
def comfy(tmp_path: Path) -> Path:
    made = tmp_path / "ComfyUI"
    (made / "custom_nodes").mkdir(parents=True)
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_copies_the_pack_and_says_where(comfy: Path) -> None:
    there = comfy / "custom_nodes" / "batchflux"
    for named in (comfy, comfy / "custom_nodes"):  # the second time it brings it up to date
        done = CliRunner().invoke(cli, ["comfyui", "install", str(named)])
        assert (done.exit_code, done.stdout) == (0, f"{there}\n")
    made = files(there)
    listed = made.pop(LIST).decode().splitlines()
    assert sorted(listed) == sorted(made)
    assert made == {path.name: path.read_bytes() for path in PACK.iterdir() if path.is_file()}


def test_an_update_changes_and_removes_its_own_files_alone(comfy: Path) -> None:
    place = install(comfy)
    (place / "nodes.py").write_text("old", encoding="utf-8")
    (place / "gone.py").write_text("of an older pack", encoding="utf-8")
    (place / LIST).write_text((place / LIST).read_text(encoding="utf-8") + "gone.py\n../../main.py\n", encoding="utf-8")
    (place / "mine.txt").write_text("mine", encoding="utf-8")
    (comfy / "main.py").write_text("ComfyUI", encoding="utf-8")
    assert install(comfy) == place
    assert (place / "nodes.py").read_bytes() == (PACK / "nodes.py").read_bytes()
    assert not (place / "gone.py").exists()
    assert (place / "mine.txt").read_text(encoding="utf-8") == "mine"
    assert (comfy / "main.py").exists()


def test_nothing_of_others_is_overwritten(comfy: Path, tmp_path: Path) -> None:
    place = comfy / "custom_nodes" / "batchflux"
    place.mkdir()
    (place / "nodes.py").write_text("another's", encoding="utf-8")
    with pytest.raises(UsageError, match="was not put there by batchflux: move it away"):
        install(comfy)
    (place / LIST).write_text("README.md\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"nodes\.py was not put there by batchflux"):
        install(comfy)
    assert (place / "nodes.py").read_text(encoding="utf-8") == "another's"
    (place / "nodes.py").unlink()
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="was not put there by batchflux"):
        install(comfy)


def test_a_folder_that_is_no_comfyui_is_said_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["comfyui", "install", str(tmp_path)])
    assert done.exit_code != 0
    with pytest.raises(UsageError, match=r"has no custom_nodes: name the folder that ComfyUI lies in"):
        install(tmp_path)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_the_pack_stands_by_itself(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        else:
            continue
        tops = {name.partition(".")[0] for name in names}
        assert tops <= THERE | sys.stdlib_module_names | {"typing_extensions"}  # the last for types alone
        assert not tops & {"subprocess", "importlib", "pickle", "ctypes"}  # the registry takes no pack that has them
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & {"eval", "exec", "compile", "__import__"}


def test_the_registry_takes_it() -> None:
    told = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    project = told["project"]
    assert "comfyui" not in project["name"].lower()
    assert [len(project["version"].split(".")), project["dependencies"]] == [3, []]
    assert {"PublisherId", "DisplayName"} <= told["tool"]["comfy"].keys()

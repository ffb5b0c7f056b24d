"""`batchflux init --from`: whatever the table or folder, its manifest plans without a fault, with what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from batchflux import Selection, load_manifest, plan
from batchflux.cli import cli
from batchflux.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://img.example/a.jpg"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*arguments: str) -> str:
    """Return what a command that was refused says; empty: it was not."""
    made = CliRunner().invoke(cli, ["init", *arguments])
    assert made.exception is None or isinstance(made.exception, UsageError), made.exception
    return str(made.exception or "")


def begun(folder: Path, source: str, *more: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the entry that was written, and how many jobs there are."""
    assert init("--from", source, "m.yaml", *more) == ""
    planned = plan(load_manifest("m.yaml"), Selection())
    assert planned.unreadable == 0
    (entry,) = yaml.safe_load((folder / "m.yaml").read_text(encoding="utf-8"))["jobs"]
    return entry, planned.counts


def photo(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (80, 60), "red").save(folder / name)


def test_a_shops_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"SKU,Title,Image Src,seed\nA-1,Cup,{URL},7\nB-2,Bowl,,8\n")
    entry, counts = begun(tmp_path, "t.csv")
    assert entry["id"] == "{{ SKU }}"
    assert entry["prompt"].startswith("{{ Title }} on ")
    assert (entry["images"], entry["skip_empty"]) == (['{{ row["Image Src"] }}'], True)
    assert (entry["seed"], entry["tags"]) == ("{{ seed }}", {"sku": "{{ SKU }}"})
    assert counts["total"] == 1


def test_photos_lie_elsewhere_than_the_table_says(tmp_path: Path) -> None:
    photo(tmp_path, "shop/pics/cup.jpg")
    (tmp_path / "shop/t.csv").write_text("handle,name,photo,seed\ncup,Cup,D:\\export\\cup.jpg,5\n")
    entry, counts = begun(tmp_path, "shop/t.csv")
    assert entry["images"] == ["shop/pics/{{ photo | basename }}"]
    assert "seed" not in entry, "what a local photo cannot travel with"
    assert counts["total"] == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sku;title\nA;tasse à café\n", {"delimiter": "semicolon"}),
        ("title\nnan\ncup\n", {}),
        ("sku,prompt\nA,\nA,a red cup\n", {}),
        ("a,b\n1,2\n3,4\n", None),
        ("货号,标题\nK1,红色的杯子\n", {}),
        ('title,photos\ncup,"https://x.example/1.jpg, https://x.example/2.jpg"\n', {"images": "{{ photos }}"}),
    ],
)
def test_tables_of_all_kinds(tmp_path: Path, text: str, told: dict[str, str] | None) -> None:
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    if told is None:
        assert "nothing to make a prompt of" in init("--from", "t.csv")
        assert not (tmp_path / "t.yaml").exists()
    else:
        entry, counts = begun(tmp_path, "t.csv")
        assert told.items() <= entry.items()
        assert counts["total"] >= 1


def test_an_encoding_that_is_not_certain_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("sku,title\nA1,红色的杯子\n".encode("gbk"))
    assert "--encoding" in init("--from", "t.csv", "m.yaml")
    assert not (tmp_path / "m.yaml").exists()
    assert begun(tmp_path, "t.csv", "--encoding", "gbk")[0]["encoding"] == "gbk"


def test_an_encoding_that_there_is_none_of_is_said(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("sku\n1\n")
    ended = init("--from", "p.csv", "--encoding", "klingon")
    assert 'p.csv: found "klingon"; allowed is an encoding' in ended


def test_a_folder_of_photos(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.PNG", "c.webp"):
        photo(tmp_path, f"photos/{name}")
    (tmp_path / "photos/notes.txt").write_text("x")
    assert begun(tmp_path, "photos")[1]["total"] == 3
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "nowhere.csv", "notes.pdf"):
        assert "\n" not in init("--from", wrong, "n.yaml").strip() != ""
        assert not (tmp_path / "n.yaml").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("title\ncup\n")
    (tmp_path / "t.yaml").write_text("mine")
    assert "there already" in init("--from", "t.csv")
    assert (tmp_path / "t.yaml").read_text() == "mine"

"""A shop's export as a whole: which pictures, under which names, what its lists say, and that it can be continued."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openpyxl import load_workbook
from PIL import Image

from batchflux.cli import cli
from batchflux.errors import StorageError, UsageError
from batchflux.exports.export import Wish, export
from batchflux.exports.places import Folder
from batchflux.exports.shop.names import handle, safe_name
from batchflux.exports.shop.options import ShopOptions
from batchflux.exports.shop.sheets import Row, Sheets, alt_text
from batchflux.failpoints import VARIABLE
from batchflux.manifest.identity import folded
from tests.exports.folders import folder, job, judged, picture, tree
from tests.exports.folders import local as photo
from tests.exports.shopify import faults

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchflux.exports.export import Exported

FORMULA = '=HYPERLINK("http://evil.example")'


def shop(out: Path, dest: str = "dest", *, only: str | None = None, **options: Any) -> Exported:
    return export(out, out.parent / dest, Wish(kind="shop", only=only, options=options))


def products(dest: Path) -> list[dict[str, str]]:
    with (dest / "products.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def accepted(tmp_path: Path, tags: Sequence[tuple[tuple[str, str], ...]], **more: Any) -> Path:
    """An output folder with a picture for each of these tags, all accepted."""
    out = folder(tmp_path / "out", (job(number, tags=one, **more) for number, one in enumerate(tags)))
    judged(out, {f"j{number}": "accept" for number in range(len(tags))})
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Ten pictures of three products, of which j4 was not accepted."""
    tags = [(("sku", f"MUG-{number % 3}"), ("title", f"Mug {number % 3}")) for number in range(10)]
    place = accepted(tmp_path, tags)
    judged(place, {"j4": "reject"})
    return place


def test_only_what_was_accepted_numbered_within_its_product(out: Path, tmp_path: Path) -> None:
    assert shop(out, sheet=["csv"]).pictures == 9
    rows = products(tmp_path / "dest")
    assert [(row["file"], row["id"]) for row in rows][:5] == [
        ("MUG-0_1.jpg", "j0"),
        ("MUG-1_1.jpg", "j1"),
        ("MUG-2_1.jpg", "j2"),
        ("MUG-0_2.jpg", "j3"),
        ("MUG-2_2.jpg", "j5"),
    ]
    assert sorted(path.name for path in (tmp_path / "dest/images").iterdir()) == sorted(row["file"] for row in rows)
    assert not (tmp_path / "dest/README.md").exists()
    judged(out, dict.fromkeys((f"j{number}" for number in range(10)), "reject"))
    with pytest.raises(UsageError, match=r"No picture of .*out was accepted, .*batchflux review .*then export again"):
        shop(out)


def test_names_by_a_template_and_two_of_one_name(out: Path, tmp_path: Path) -> None:
    shop(out, name="{{ tags.sku or id }}.{{ position }}-{{ tags.title | lower }}", product="{{ tags.title }}")
    names = {path.name for path in (tmp_path / "dest/images").iterdir()}
    assert {"MUG-0.1-mug-0.jpg", "MUG-0.4-mug-0.jpg"} <= names
    with pytest.raises(UsageError, match=r"pictures of j0 and j3 would both be called MUG-0: .*position.* or .*id"):
        shop(out, name="{{ tags.sku }}")
    with pytest.raises(UsageError, match=r'--name: there is no "sku"; there are .*position, product'):
        shop(out, name="{{ sku }}")
    with pytest.raises(UsageError, match=r"--product: .* is not valid"):
        shop(out, product="{{ sku")
    with pytest.raises(UsageError, match='--name: the picture of j0 would be called "--", in which no letter or digit'):
        shop(out, name="--")


def test_names_are_one_whatever_the_case_and_fit_everywhere(tmp_path: Path) -> None:
    skus = ["杯 Ü/3", "a:b", "CON", "../../etc", "-rf", "é" * 300]
    out = accepted(tmp_path, [(("SKU", sku),) for sku in skus])
    shop(out, sheet=["csv"])
    names = [row["file"] for row in products(tmp_path / "dest")]
    assert names[:5] == ["杯-Ü-3_1.jpg", "a-b_1.jpg", "CON_1.jpg", "etc_1.jpg", "rf_1.jpg"]
    assert len(names[5].encode()) <= 204
    assert safe_name("CON") == "_CON"
    other = accepted(tmp_path / "other", [(("sku", "mug"),), (("sku", "MUG"),)])
    with pytest.raises(UsageError, match="pictures of j0 and j1 would both be called MUG_1"):
        shop(other)


def test_entries_may_write_a_tag_differently(tmp_path: Path) -> None:
    tags = [(("SKU", "1"),), (("sku", "1"), ("Title", "Mug")), (("sku", " "), ("SKU", "2"), ("title", "Cup")), ()]
    done = shop(accepted(tmp_path, tags), sheet=["woocommerce"])
    assert done.remarks["say no product, unlike others, and are called by their job"] == 1
    with (tmp_path / "dest/woocommerce.csv").open(encoding="utf-8", newline="") as file:
        lines = [tuple(line.values()) for line in csv.DictReader(file)]
    assert lines == [("1", "Mug", "1_1.jpg, 1_2.jpg"), ("2", "Cup", "2_1.jpg"), ("j3", "j3", "j3_1.jpg")]


@given(st.text(max_size=80))
def test_a_name_is_safe(text: str) -> None:
    name = safe_name(text)
    assert len(name.encode()) <= 201
    assert not set(name) & set("/\\:*?\"<>| \n\t\0'$&;%#")
    assert not name.startswith((".", "-"))
    assert safe_name(name) == name or name.startswith("_")
    assert safe_name(text.upper()) == "" or folded(safe_name(text)) != ""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_bytes": "ten"}, '--max-bytes: found "ten"; allowed is a size'),
        ({"pad": "blanc"}, '--pad: found "blanc"; allowed is a colour'),
        ({"ratio": "4/5"}, '--ratio: found "4/5"; allowed is WIDTH:HEIGHT'),
        ({"fit": "crop"}, "--fit .*: give --ratio too"),
        ({"square": "pad", "ratio": "4:5"}, "--square pad or crop says it all"),
        ({"thumbnails": True, "sheet": ["csv"]}, "--thumbnails: only a workbook .*: add --sheet xlsx"),
        ({"url": "http://img.example/{name}"}, "--url: found .*; allowed is an address as https"),
        ({"url": "https://img.example/"}, "--url: found .*; allowed is an address as https"),
    ],
)
def test_options_that_cannot_be_are_said(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ShopOptions.of(options)


def test_options_of_a_shop_are_refused_elsewhere(out: Path, tmp_path: Path) -> None:
    line = ["export", str(out), str(tmp_path / "dest"), "--format"]
    refused = CliRunner().invoke(cli, [*line, "imagefolder", "--max-side", "100"])
    assert "--max-side is an option of shop, and not of imagefolder" in str(refused.exception)
    refused = CliRunner().invoke(cli, [*line, "shop", "--split", "train=0.5,test=0.5"])
    assert "--split: shop has no splits" in str(refused.exception)
    assert not (tmp_path / "dest").exists()


def test_a_workbook_holds_text_and_pictures(tmp_path: Path) -> None:
    prompt = f"{FORMULA}\x07 {'x' * 40_000}"
    out = accepted(tmp_path, [(("sku", "00123"),), (("sku", "-5"),)], prompt=prompt)
    judged(out, {"j0": "accept"})
    for dest in ("dest", "again"):
        shop(out, dest, sheet=["xlsx"], thumbnails=True, check_white=True)
    sheet = load_workbook(tmp_path / "dest/products.xlsx").active
    assert sheet is not None
    header, first, second = [[cell.value for cell in row] for row in sheet.iter_rows()]
    assert header[:4] == ["picture", "file", "product", "position"]
    row = dict(zip(header, first, strict=True))
    assert (row["product"], row["tags.sku"], row["position"]) == ("00123", "00123", 1)
    assert row["prompt"] == prompt.replace("\x07", "\ufffd")[:32_767]
    assert row["bytes"] == (tmp_path / "dest/images/00123_1.jpg").stat().st_size
    assert str(row["white border"]).startswith("no: top ")
    assert second[header.index("product")] == "-5"
    assert not any(cell.data_type == "f" for row in sheet.iter_rows() for cell in row)
    with zipfile.ZipFile(tmp_path / "dest/products.xlsx") as book:
        assert sum("media" in name for name in book.namelist()) == 2
    assert (tmp_path / "dest/products.xlsx").read_bytes() == (tmp_path / "again/products.xlsx").read_bytes()


def test_cells_are_no_formulas(tmp_path: Path) -> None:
    out = accepted(tmp_path, [(("sku", FORMULA), ("title", "+1"))], prompt="@SUM(A1)")
    shop(out, sheet=["csv", "shopify", "woocommerce"], url="https://img.example/{name}")
    for name in ("products", "shopify", "woocommerce"):
        text = (tmp_path / f"dest/{name}.csv").read_text(encoding="utf-8-sig")
        cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
        assert any(cell.startswith(("'=", "'+", "'@")) for cell in cells)
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert (tmp_path / "dest/products.csv").read_bytes().startswith(b"\xef\xbb\xbf")


WORDS = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(["MUG 1", "mug-1", "杯", "=1+1", "é"])


@example([("", "", ""), ("㎊", "", ""), ("\u13a0", "", "")])  # they come apart into capitals, or fold to such
@settings(deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS, st.text(st.characters(codec="utf-8"), max_size=700)), min_size=1, max_size=12))
def test_shopify_takes_its_file(tmp_path_factory: pytest.TempPathFactory, pictures: list[tuple[str, str, str]]) -> None:
    """Whatever products, titles and prompts are; those with one handle are refused before anything is written."""
    options = ShopOptions.of({"sheet": ["shopify", "woocommerce"], "url": "https://img.example/a/{name}"})
    names = options.naming(["sku", "title"])
    rows = []
    for number, (sku, title, prompt) in enumerate(pictures):
        row = {"id": f"j{number}", "tags.sku": sku, "tags.title": title, "note": ""}
        try:
            called = names.of(row)
        except UsageError as error:
            assert "--sheet shopify: the handle of" in str(error) or "--name: the picture of" in str(error)  # noqa: PT017  either
            return
        facts: dict[str, Any] = {"width": 1, "height": 1, "size": 1, "border": "", "before": [], "thumbnail": b""}
        rows.append(Row(file=f"{called.name}.jpg", caption=prompt, columns=row, **facts, **called.words))
    place = tmp_path_factory.mktemp("shopify")
    Sheets(Folder(place), options, ["id", "tags.sku", "tags.title"]).write(rows)
    assert faults((place / "shopify.csv").read_bytes()) == []
    with (place / "woocommerce.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file, strict=True))
    assert [line["Images"].count("https://") for line in lines] == [line["Images"].count(",") + 1 for line in lines]
    assert sum(line["Images"].count("https://") for line in lines) == len(rows)


def test_the_rules_find_what_shopify_refuses() -> None:
    head = b"Handle,Title,Image Src,Image Position,Image Alt Text\n"
    good = b"mug,Mug,https://a.example/1.jpg,1,x\nmug,,https://a.example/2.jpg,2,x\n"
    assert faults(head + good) == []
    bad = [
        b"\xef\xbb\xbf" + head + good,
        head.replace(b"Handle", b"handle") + good,
        head + b"Mug 1,Mug,https://a.example/1.jpg,1,x\n",
        head + good.replace(b",2,", b",0,"),
        head + good.replace(b"https://a.example/2.jpg", b"MUG_1.jpg"),
        head + good.replace(b"mug,Mug", b"mug,"),
        head + good + b"cup,Cup,https://a.example/1.jpg,1,x\n" + good,
        head + good.replace(b"1,x", b"1," + b"x" * 513),
    ]
    assert all(map(faults, bad))


def test_alt_texts_are_cut_between_words() -> None:
    assert alt_text("a  mug\n on marble") == "a mug on marble"
    long = alt_text("mug " * 400)
    assert (len(long), long[-4:]) == (508, "mug…")
    assert len(alt_text("m" * 600)) == 512
    assert len(alt_text("🦊" * 400).encode("utf-16-le")) <= 1024
    assert handle("Tasse à Café N°5") == "tasse-a-cafe-n-5"


def test_files_stand_by_name_where_there_is_no_address(out: Path, tmp_path: Path) -> None:
    done = shop(out, sheet=["shopify", "woocommerce"])
    assert done.remarks["have no address in shopify.csv, which Shopify needs: give --url"] == 9
    lines = (tmp_path / "dest/woocommerce.csv").read_text(encoding="utf-8").splitlines()
    assert lines[1] == 'MUG-0,Mug 0,"MUG-0_1.jpg, MUG-0_2.jpg, MUG-0_3.jpg, MUG-0_4.jpg"'
    judged(out, {"j4": "accept"})
    tags = [(("sku", "a.1"),), (("sku", "A 1"),)]
    with pytest.raises(UsageError, match=r'the handle of "a\.1" and "A 1" would be "a-1": have --product'):
        shop(accepted(tmp_path / "other", tags), name="{{ id }}", sheet=["shopify"])


def test_photos_stand_beside_what_became_of_them(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(ord(name), "png"))
    both = (photo(tmp_path, "a.png"), photo(tmp_path, "b.png"))
    images = [both[:1], both, ()]
    out = folder(tmp_path / "out", (job(number, images=some) for number, some in enumerate(images)))
    judged(out, {f"j{number}": "accept" for number in range(3)})
    assert shop(out, sheet=["csv"], before=True).remarks == {
        "marked: iptc": 3,
        "have no side of 1,000 pixels, which Amazon wants": 3,
    }
    before = [row["before"] for row in products(tmp_path / "dest")]
    assert before == ["00000_1_before.jpg", "00001_1_before.jpg 00001_1_before_2.jpg", ""]
    with Image.open(tmp_path / "dest/before/00001_1_before_2.jpg") as made:
        assert (made.format, made.mode) == ("JPEG", "RGB")
    (tmp_path / "b.png").unlink()
    done = shop(out, sheet=["csv"], before=True)
    assert (done.pictures, done.left_out) == (3, {})
    assert done.remarks["stand alone: its reference b.png cannot be read: No such file or directory"] == 1
    assert [row["before"] for row in products(tmp_path / "dest")] == ["00000_1_before.jpg", "", ""]
    shop(out, sheet=["csv"])
    assert not (tmp_path / "dest/before").exists()


def test_again_nothing_is_made_that_is_there(out: Path, tmp_path: Path) -> None:
    shop(out, square="pad")
    states = {path: path.stat() for path in (tmp_path / "dest").rglob("*") if path.is_file()}
    shop(out, square="pad")
    for path, state in states.items():
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (state.st_ino, state.st_mtime_ns), path


def test_an_export_over_another_is_as_one_from_nothing(out: Path, tmp_path: Path) -> None:
    """Another verdict moves pictures to other names, other options make them anew."""
    shop(out, sheet=["csv", "shopify", "xlsx"], ratio="4:5")
    judged(out, {"j0": "reject", "j4": "accept"})
    shop(out, sheet=["csv"], max_side=20, check_white=True)
    shop(out, "fresh", sheet=["csv"], max_side=20, check_white=True)
    assert tree(tmp_path / "dest") == tree(tmp_path / "fresh")
    (tmp_path / "dest/.batchflux-made/00000.jsonl").write_bytes(b"{oops\n")
    (tmp_path / "dest/images/MUG-0_1.jpg").unlink()
    shop(out, sheet=["csv"], max_side=20, check_white=True)
    assert tree(tmp_path / "dest") == tree(tmp_path / "fresh")


def test_a_picture_that_cannot_be_made_stops_it_by_name(out: Path) -> None:
    data = picture(1)[:600]
    (out / "images/j1.jpg").write_bytes(data)
    with closing(sqlite3.connect(out / "ledger.db")) as connection, connection:
        values = len(data), hashlib.sha256(data).hexdigest()
        connection.execute("UPDATE jobs SET bytes = ?, sha256 = ? WHERE id = 'j1'", values)
    with pytest.raises(StorageError, match=r"the picture of j1 .*damaged.*; or leave it out with --only"):
        shop(out, max_side=16)


def test_a_zip_is_handed_over(out: Path, tmp_path: Path) -> None:
    line = ["export", str(out), str(tmp_path / "dest"), "--format", "shop", "--sheet", "csv", "--zip"]
    shown = CliRunner().invoke(cli, line)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout.splitlines() == [str(tmp_path / "dest"), str(tmp_path / "dest.zip")]
    assert "9 pictures have no side of 1,000 pixels, which Amazon wants." in shown.stderr
    with zipfile.ZipFile(tmp_path / "dest.zip") as made:
        assert made.testzip() is None
        assert {name.partition("/")[0] for name in made.namelist()} == {"images", "products.csv"}
        assert len(made.namelist()) == 10
        assert made.read("images/MUG-0_1.jpg") == (tmp_path / "dest/images/MUG-0_1.jpg").read_bytes()
    before = (tmp_path / "dest.zip").read_bytes()
    shutil.rmtree(tmp_path / "dest")
    told = json.loads(CliRunner().invoke(cli, [*line, "--json"]).stdout)
    assert told["zip"] == str(tmp_path / "dest.zip")
    assert (tmp_path / "dest.zip").read_bytes() == before
    for data in (b"my thesis", b"PK\x05\x06" + bytes(18)):
        (tmp_path / "dest.zip").write_bytes(data)
        refused = CliRunner().invoke(cli, line)
        assert "dest.zip is there, and no export's zip: move it away" in str(refused.exception)
        assert (tmp_path / "dest.zip").read_bytes() == data


def command(out: Path, dest: Path, **environment: str) -> int:
    line = [sys.executable, "-m", "batchflux", "export", str(out), str(dest), "--format", "shop", "--zip"]
    options = ["--sheet", "xlsx", "--sheet", "csv", "--sheet", "shopify", "--square", "pad", "--thumbnails"]
    return subprocess.run([*line, *options], capture_output=True, check=False, env=os.environ | environment).returncode


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_three_thousand_pictures_and_killed_in_the_midst(tmp_path: Path) -> None:
    tags = [(("sku", f"MUG-{number // 3}"),) for number in range(3000)]
    out = accepted(tmp_path, tags)
    assert command(out, tmp_path / "whole") == 0
    dest = tmp_path / "dest"
    places = ("export.written:7", "export.placed:1500", "export.written:800", "export.placed:900", "export.written:3")
    assert [command(out, dest, **{VARIABLE: place}) for place in places][:4] == [-signal.SIGKILL] * 4
    made = len(list((dest / "images").iterdir()))
    assert made > 2500
    assert command(out, dest) == 0
    assert tree(dest) == tree(tmp_path / "whole")
    assert (tmp_path / "dest.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()
    with (dest / "shopify.csv").open(encoding="utf-8") as file:
        assert sum(1 for _ in file) == 3001

"""What the page knows of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from batchflux.exports.base import HEADER
from batchflux.ledger.reviews import Verdict
from batchflux.report.content import page_row
from batchflux.report.page import INDEX
from batchflux.report.thumbs import PictureUrls, thumb_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.ledger.tables import Known

NOWHERE = PictureUrls(Path("/nowhere"), None)


def test_a_row_has_every_column_of_the_table_under_its_name(known: Callable[..., Known]) -> None:
    row = page_row(known(), NOWHERE)
    assert set(HEADER) <= set(row)
    assert set(INDEX) <= set(row)


def test_text_is_as_it_was_written_and_money_is_exact(known: Callable[..., Known]) -> None:
    job = known(spec={"prompt": "=1+1 <b>", "seed": 7}, tags=json.dumps({"sku": "@x"}), maybe_cost=10, in_flight=5)
    row = page_row(job, NOWHERE, Verdict(review="reject", note="-no"))
    assert row["prompt"] == "=1+1 <b>"
    assert row["tags"] == {"sku": "@x"}
    assert (row["review"], row["note"], row["seed"], row["variant"]) == ("reject", "-no", 7, 1)
    assert (row["cost"], row["spent"]) == ("0.14", "0.140000015")


def test_links_lose_their_signatures(known: Callable[..., Known]) -> None:
    signed = "https://cdn.example/x.png?X-Amz-Signature=deadbeefdeadbeefdeadbeef"
    row = page_row(known(link=signed, spec={"images": [signed, "https://user:pw@example.org/a.jpg"]}), NOWHERE)
    assert row["result_url"] == "https://cdn.example/x.png"
    assert row["images"] == "https://cdn.example/x.png https://example.org/a.jpg"
    assert [reference["url"] for reference in row["references"]] == row["images"].split()
    assert "deadbeef" not in json.dumps(row)
    assert "pw@" not in json.dumps(row)


def test_a_files_name_is_no_link_and_is_shown_whole(known: Callable[..., Known], tmp_path: Path) -> None:
    names = ["photos/cup #2.jpg", "photos/why?.jpg", "a@b#c/?token=secretsecretsecretsecret.png"]
    row = page_row(known(spec={"images": names}), PictureUrls(tmp_path / "out", tmp_path))
    assert row["images"] == " ".join(names)
    assert [reference["label"] for reference in row["references"]] == names


def test_what_was_dropped_is_a_remark(known: Callable[..., Known]) -> None:
    row = page_row(known(spec={"dropped": ["seed"]}, error="it said no"), NOWHERE)
    assert (row["error"], row["remarks"]) == ("it said no", "not sent, style chat cannot carry it: seed")
    differs = page_row(known(spec={"dropped": ["seed"]}, remarks="is 1:1, not 16:9"), NOWHERE)
    assert differs["remarks"] == "is 1:1, not 16:9; not sent, style chat cannot carry it: seed"


def test_a_local_reference_has_a_copy_named_after_the_file_as_it_is(
    known: Callable[..., Known], tmp_path: Path
) -> None:
    photo = tmp_path / "photos/cup.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"one")
    job = known(spec={"images": ["photos/cup.jpg", "photos/none.jpg"]})
    first, missing = page_row(job, PictureUrls(tmp_path / "out", tmp_path, served=True))["references"]
    assert first["label"] == "photos/cup.jpg"
    assert first["src"].startswith("thumbs/references/")
    assert missing == {"label": "photos/none.jpg", "src": None, "url": None}
    photo.write_bytes(b"another")
    places = PictureUrls(tmp_path / "out", tmp_path, served=True)
    (second, _) = page_row(job, places)["references"]
    assert second["src"] != first["src"]
    assert places.originals[second["src"].rpartition("/")[2]] == photo
    assert "0" * 24 + ".jpg" not in places.originals


def test_without_the_manifests_folder_local_references_are_names_only(known: Callable[..., Known]) -> None:
    row = page_row(known(spec={"images": ["photos/cup.jpg"]}), NOWHERE)
    assert row["references"] == [{"label": "photos/cup.jpg", "src": None, "url": None}]


def test_a_picture_is_found_by_its_name_whatever_is_in_it(known: Callable[..., Known], tmp_path: Path) -> None:
    name = "images/50% #1?\u202e x.png"
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_bytes(b"")
    job = known(file_name=name, sha256="ab" * 32)
    row = page_row(job, PictureUrls(tmp_path, None, served=True))
    assert row["full"] == "images/50%25%20%231%3F%E2%80%AE%20x.png"
    assert row["thumb"] == f"thumbs/{thumb_name(job)}"
    assert page_row(job, PictureUrls(tmp_path, None))["thumb"] == ""
    (tmp_path / name).unlink()
    assert page_row(job, PictureUrls(tmp_path, None))["full"] == ""


def test_no_name_leaves_the_folder(known: Callable[..., Known], tmp_path: Path) -> None:
    outside = tmp_path / "secret.png"
    outside.write_bytes(b"")
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("../secret.png", str(outside), "images/../../secret.png"):
        assert page_row(known(file_name=name, sha256="ab" * 32), PictureUrls(folder, None))["full"] == ""

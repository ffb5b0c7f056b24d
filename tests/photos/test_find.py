"""Photos as people name them: what is found, and what is said where nothing is."""

from __future__ import annotations

import errno
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from batchflux.output.stores.opening import Stores
from batchflux.photos import Photos, is_allowed, is_private, matches, reach_of
from tests.photos.conftest import encoded

JPEG = encoded("JPEG")
NONE = Stores(look_up=dict[str, str]().get)
NFD, NFC = unicodedata.normalize("NFD", "café"), unicodedata.normalize("NFC", "café")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "photos/mug.jpg", "photos/IMG_1.JPG", "photos/a.jpeg", "photos/b.PNG", "photos/note.txt", "photos/cup[1].jpg",
        f"photos/{NFD}.jpg", f"{NFD}/x.jpg", "home/mine.jpg", "photos/.hidden.jpg", "photos/deep/er/z.Jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(JPEG)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["photos/*.jpg"], ["IMG_1.JPG", f"{NFD}.jpg", "cup[1].jpg", "mug.jpg"]),
        (["photos/*.JPG"], ["IMG_1.JPG", f"{NFD}.jpg", "cup[1].jpg", "mug.jpg"]),
        (["photos/m*.{jpg,png}", "photos/b.{jpg,png}"], ["mug.jpg", "b.PNG"]),
        (["photos/*.{jpeg,png}"], ["a.jpeg", "b.PNG"]),
        (["photos/{mug,a}.{jpg,jpeg}"], ["a.jpeg", "mug.jpg"]),
        (["photos/*.png", "photos/mug.jpg", "photos/*.png"], ["b.PNG", "mug.jpg"]),
        (["photos/[mI]*.jpg"], ["IMG_1.JPG", "mug.jpg"]),
        (["photos/cup[1].jpg"], ["cup[1].jpg"]),
        ([f"photos/{NFC}*"], [f"{NFD}.jpg"]),
        ([f"{NFC}/*.jpg"], [f"../{NFD}/x.jpg"]),
        (["photos\\m*.jpg"], ["mug.jpg"]),
        (["photos/**/*.jpg"], ["IMG_1.JPG", f"{NFD}.jpg", "cup[1].jpg", "deep/er/z.Jpg", "mug.jpg"]),
    ],
)
def test_patterns_mean_what_people_mean(base: Path, patterns: list[str], expected: list[str]) -> None:
    expected = [name.removeprefix("../") if name.startswith("../") else f"photos/{name}" for name in expected]
    assert matches(patterns, base, NONE) == expected


def test_the_home_folder_and_too_many_braces(base: Path) -> None:
    assert matches(["~/*.jpg"], base, NONE) == [str(base / "home/mine.jpg")]
    with pytest.raises(ValueError, match=r'no file matches the pattern "no/\*.jpg" or the pattern "x" beside'):
        matches(["no/*.jpg", "x"], base, NONE)
    with pytest.raises(ValueError, match="it is a folder: write photos/"):
        matches(["photos/"], base, NONE)
    with pytest.raises(ValueError, match=r"there is no folder fotos$"):
        matches(["fotos/*.jpg"], base, NONE)
    with pytest.raises(ValueError, match=r'"photos/x\*" beside the manifest$'):
        matches(["photos/x*"], base, NONE)
    with pytest.raises(ValueError, match="more than 256 patterns"):
        matches(["{a,b}" * 10], base, NONE)


def test_no_photo_is_left_out_unsaid(base: Path) -> None:
    (base / "photos/link.jpg").symlink_to("/gone/link.jpg")
    (base / "photos/circle.jpg").symlink_to("circle.jpg")
    (base / "photos/folder.jpg").symlink_to("deep")
    found = matches(["photos/link*.jpg", "photos/[cf][iuo]*.jpg"], base, NONE)
    assert found == ["photos/link.jpg", "photos/circle.jpg", "photos/cup[1].jpg"], "the jobs of links say what is wrong"


@pytest.mark.parametrize("pattern", ["photos/**/*.jpg", "photos/*/er/*.jpg", "photos/*/*.jpg", "photos/deep/er/*.jpg"])
@pytest.mark.parametrize("call", ["scandir", "stat"])  # a folder that shows nothing, and one that cannot be entered
def test_a_folder_that_cannot_be_read_is_a_fault(
    base: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, call: str
) -> None:
    ask, shut = getattr(os, call), {base / "photos/deep", base / "photos/deep/er"}

    def asked(place: object, *more: Any, **other: Any) -> Any:
        if isinstance(place, str) and Path(os.path.normpath(place)) in shut:
            raise PermissionError(errno.EACCES, "Permission denied")
        return ask(place, *more, **other)

    monkeypatch.setattr(os, call, asked)
    said = r"photos/deep\S* cannot be read \(Permission denied\), and may have files that the pattern"
    with pytest.raises(ValueError, match=said):
        matches([pattern, "photos/mug.jpg"], base, NONE)
    (base / "photos/deep").rename(base / "photos/lost+found")
    shut.add(base / "photos/lost+found")
    assert matches(["photos/**/m*.jpg"], base, NONE) == ["photos/mug.jpg"], "no photos lie in that one"


@pytest.mark.parametrize(
    ("source", "there"),
    [
        ("photos/mug.jpg", "photos/mug.jpg"),
        ("photos\\mug.jpg", "photos/mug.jpg"),
        ("~/mine.jpg", "home/mine.jpg"),
        (f"photos/{NFC}.jpg", f"photos/{NFD}.jpg"),
        (f"{NFC}/x.jpg", f"{NFD}/x.jpg"),
        ("photos/cup[1].jpg", "photos/cup[1].jpg"),
        ("photos/../photos/./mug.jpg", "photos/mug.jpg"),
    ],
)
def test_a_path_is_found_as_it_was_brought(base: Path, source: str, there: str) -> None:
    found = Photos(base).reference(source)
    assert (found.fault, found.path, found.source) == (None, str(base / there), source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("photos/mug.JPG", "does not exist: looked at {}/photos/mug.JPG; did you mean photos/mug.jpg?"),
        ("photos/img_1.png", "does not exist: looked at {}/photos/img_1.png; did you mean photos/IMG_1.JPG?"),
        ("photos/mgu.jpg", "does not exist: looked at {}/photos/mgu.jpg; did you mean photos/mug.jpg?"),
        ("photos\\mgu.jpg", "does not exist: looked at {}/photos/mgu.jpg; did you mean photos/mug.jpg?"),
        ("foto/mug.jpg", "does not exist: looked at {0}/foto/mug.jpg; there is no folder {0}/foto"),
        (
            "photos/mug.jpg/x.jpg",
            "does not exist: looked at {0}/photos/mug.jpg/x.jpg; there is no folder {0}/photos/mug.jpg",
        ),
        ("photos/zzzzzz.png", "does not exist: looked at {}/photos/zzzzzz.png"),
        (
            "//cdn.shop.example/a.jpg",
            "is no file here, and no address without its beginning; write https://cdn.shop.example/a.jpg",
        ),
        (
            "www.shop.example/a.jpg",
            "is no file here, and no address without its beginning; write https://www.shop.example/a.jpg",
        ),
        ("photos", "is not a file"),
        ("photos/note.txt", None),
    ],
)
def test_what_is_not_there_is_said_with_the_place_that_was_looked_at(base: Path, source: str, said: str | None) -> None:
    fault = Photos(base).reference(source).fault
    assert fault == (None if said is None else f"the reference {source} {said.format(base)}")


def test_a_link_to_nothing(base: Path) -> None:
    (base / "photos/link.jpg").symlink_to("gone.jpg")
    fault = Photos(base).reference("photos/link.jpg").fault or ""
    assert fault.endswith(f"is a link to a file that does not exist: looked at {base}/photos/gone.jpg")


@pytest.mark.parametrize(
    ("url", "private"),
    [
        ("http://localhost:8000/a.jpg", True),
        ("http://127.0.0.1/a.jpg", True),
        ("http://192.168.1.5/a.jpg", True),
        ("http://[::1]/a.jpg", True),
        ("http://[fd00::1]/a.jpg", True),
        ("http://169.254.169.254/a.jpg", True),
        ("http://nas/a.jpg", True),
        ("http://nas.local/a.jpg", True),
        ("https://files.corp/a.jpg", True),
        ("https://cdn.shop.example/a.jpg", False),
        ("https://93.184.216.34/a.jpg", False),
        ("https://local.example/a.jpg", False),
    ],
)
def test_which_addresses_only_this_network_reaches(url: str, private: bool) -> None:  # noqa: FBT001  a column
    assert is_private(url) is private


def test_what_the_user_allows_is_reached() -> None:
    for base_url, reached in ((None, True), ("http://127.0.0.1:9", True), ("https://api.example", False)):
        assert reach_of(base_url, [])("http://nas/a.jpg") is reached
    assert reach_of("https://api.example", ["nas"])("http://nas/a.jpg")
    assert reach_of("https://api.example", [])("https://cdn.example/a.jpg")
    assert is_allowed("http://10.0.0.7:80/a.jpg", ["10.0.0.0/24"])
    assert is_allowed("http://nas/a.jpg", ["nas"])
    assert not is_allowed("http://nas:81/a.jpg", ["nas:80"])
    assert not is_allowed("http://nas2/a.jpg", ["nas", "10.0.0.1"])
    fault = Photos(Path("/"), reaches=lambda _: False).url("http://nas/a.jpg?sign=secret").fault or ""
    assert fault.startswith("the reference http://nas/a.jpg is at an address that the provider cannot reach")
    assert Photos(Path("/"), reaches=lambda _: True).url("http://nas/a.jpg").fault is None

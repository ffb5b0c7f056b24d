"""Globs in buckets: what a pattern finds there is what it finds in a folder of the same files."""

from __future__ import annotations

import hashlib
import http.client
import tempfile
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchflux.errors import StorageError
from batchflux.output.stores.opening import Stores
from batchflux.photos import matches
from batchflux.photos import objects as listing

if TYPE_CHECKING:
    from tests.stores import Served

FOLDERS = ["a", "b", ".h", "a.b", "x[1]", unicodedata.normalize("NFD", "é")]
FILES = [
    "a.jpg",
    "A.jpg",
    "a.JPG",
    "b.png",
    ".h.jpg",
    "x[1].jpg",
    "note",
    "a b%41.jpg",
    unicodedata.normalize("NFD", "é.jpg"),
]
PATTERNS = [
    "*",
    "?.jpg",
    "[ab].*",
    "*.jpg",
    "*.{jpg,png}",
    ".*",
    "x[1].jpg",
    "a.jpg",
    "[!b]*",
    unicodedata.normalize("NFC", "é.jpg"),
]
ABOVE = ["*", "**", "a", "b", "[ab]*", ".h", "a.B", "x[1]", unicodedata.normalize("NFC", "é")]
trees = st.sets(
    st.tuples(st.lists(st.sampled_from(FOLDERS), max_size=3), st.sampled_from(FILES)).map(
        lambda one: "/".join([*one[0], one[1]])
    ),
    max_size=12,
)
patterns = st.tuples(st.lists(st.sampled_from(ABOVE), max_size=3), st.sampled_from([*PATTERNS, "**"])).map(
    lambda one: "/".join([*one[0], one[1]])
)


def found(pattern: str, base: Path) -> list[str] | str:
    try:
        return [
            name.removeprefix(f"file://{base}/")
            for name in matches([pattern], base, Stores(look_up=dict[str, str]().get))
        ]
    except ValueError as error:
        return str(error).split(" beside ")[0].split(";")[0].replace(f"file://{base}/", "")


@example(tree={f"x[1]/{FILES[-1]}"}, pattern=f"x[1]/{PATTERNS[-1]}")
@given(tree=trees, pattern=patterns)
def test_a_pattern_means_the_same_as_in_a_folder(tree: set[str], pattern: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for file in tree:
            (base / file).parent.mkdir(parents=True, exist_ok=True)
            (base / file).write_bytes(b"x")
        assert found(f"file://{base}/{pattern}", base) == found(pattern, base)


def put(served: Served, *keys: str) -> None:
    for key in keys:
        if key.endswith("/"):
            marked(served, key)
        else:
            served.store().put(key, key.encode(), hashlib.sha256(key.encode()).hexdigest())


def marked(served: Served, key: str) -> None:
    """Put what consoles make for a folder."""
    connection = http.client.HTTPConnection(served.endpoint.removeprefix("http://"), timeout=30)
    try:
        connection.request("PUT", f"/{served.bucket.removeprefix('s3://')}/{key}", headers={"Content-Length": "0"})
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def why(served: Served, pattern: str) -> str:
    with pytest.raises((ValueError, StorageError)) as caught:
        matches([f"{served.bucket}/{pattern}"], Path("/"), served.stores())
    return str(caught.value).replace(served.bucket, "BUCKET")


def test_objects_come_by_their_addresses_in_order(moto: Served) -> None:
    """Folders that programs make as objects without bytes are none of them, nor is what only begins alike."""
    names = [
        f"photos/{name}"
        for name in ("a.jpg", "B.JPG", "sub/", "c d~'().jpg", "\u732b%#?.jpg", "100%25.jpg", "ns/\\.jpg")
    ]
    put(moto, "photos/", "photos-x/z.jpg", *names)
    expected = sorted(name for name in names if name.count("/") == 1)
    address = f"{moto.bucket}/photos"
    assert matches([f"{address}/*"], Path("/"), moto.stores()) == [f"{moto.bucket}/{name}" for name in expected]
    both = matches([f"{address}/[ab]*", f"{address}/**/*.jpg"], Path("/"), moto.stores())
    assert both[:2] == [f"{address}/a.jpg", f"{address}/100%25.jpg"]
    assert len(both) == 6


def test_what_is_said_where_nothing_matches(moto: Served, tmp_path: Path) -> None:
    put(moto, "photos/a.jpg")
    assert why(moto, "photos/*.png") == 'no file matches the pattern "BUCKET/photos/*.png"'
    assert (
        why(moto, "photos/")
        == 'no file matches the pattern "BUCKET/photos/"; it is a folder: write BUCKET/photos/*.jpg'
    )
    assert why(moto, "fotos/*.jpg").endswith("; there is nothing in BUCKET/fotos")
    assert why(moto, "").endswith('"BUCKET/"; it is a folder: write BUCKET/*.jpg')
    assert why(moto, "**/../a") == 'found .. behind a wildcard in the pattern "BUCKET/**/../a"; write it in front'
    assert why(moto, "../a*") == 'found . or .. in the pattern "BUCKET/../a*"; keys in a bucket have neither'
    with pytest.raises(
        ValueError, match='found a wildcard in the name of a bucket, in the pattern "s3://\\*/a"; name one'
    ):
        matches(["s3://*/a"], tmp_path, moto.stores())
    with pytest.raises(ValueError, match=r'or the pattern "x" beside the manifest$'):
        matches([f"{moto.bucket}/photos/*.png", "x"], tmp_path, moto.stores())


def test_a_listing_is_bounded(moto: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_LISTED", 2)
    put(moto, "a/1.jpg", "b/1.jpg", "b/2.jpg")
    assert len(matches([f"{moto.bucket}/b/*"], Path("/"), moto.stores())) == 2
    assert why(moto, "*/1.jpg") == (
        'more than 2 objects would have to be looked at for the pattern "BUCKET/*/1.jpg"; name the folder more closely'
    )

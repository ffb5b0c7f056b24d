"""Photos in real buckets (moto): put by their content, read bounded, and named in links."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import JobError
from batchflux.manifest import load_manifest
from batchflux.models import Reference
from batchflux.photos import Buckets, Photos, Published, published
from tests.photos.conftest import drawn, encoded, turned
from tests.stores import DENIED, _moto_port, moto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.stores import Fault, Faulty, Served

__all__ = ["_moto_port", "moto"]


@pytest.fixture
def buckets(tmp_path: Path, moto: Served) -> Iterator[Buckets]:
    (tmp_path / "out").mkdir()
    photos = Photos(tmp_path, output=tmp_path / "out")
    made = Buckets(moto.stores(), photos, Published(to=f"{moto.bucket}/refs ö"))
    yield made
    made.close()
    photos.close()


def local(place: Path, data: bytes) -> Reference:
    place.write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    return Reference(source=place.name, path=str(place), sha256=digest, media_type="image/jpeg", size=len(data))


def test_a_photo_is_put_by_its_content_once(tmp_path: Path, buckets: Buckets, moto: Served) -> None:
    data = encoded("JPEG")
    image = local(tmp_path / "a.jpg", data)
    for _ in range(2):
        address = asyncio.run(buckets.put(image))
        assert address == f"{moto.bucket}/refs ö/{image.sha256}.jpg"
    assert moto.objects() == {f"refs ö/{image.sha256}.jpg": data}
    public = Published(to=f"{moto.bucket}/refs ö", url="https://img.example/{key}?w=1")
    assert public.url_of(address) == f"https://img.example/refs%20%C3%B6/{image.sha256}.jpg?w=1"


def test_a_photo_that_changed_or_is_gone_is_not_put(tmp_path: Path, buckets: Buckets, moto: Served) -> None:
    image = local(tmp_path / "a.jpg", encoded("JPEG"))
    (tmp_path / "a.jpg").write_bytes(b"another")
    with pytest.raises(JobError, match="changed since the plan; run again"):
        asyncio.run(buckets.put(image))
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(JobError, match="put the file back"):
        asyncio.run(buckets.put(image))
    assert moto.objects() == {}


def test_a_picture_in_a_bucket_is_read_as_a_local_one_is(
    buckets: Buckets, moto: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"up.jpg": turned("JPEG", 6), "half.jpg": encoded("JPEG")[:400], "text.jpg": b"no picture"}
    files |= {"large.png": encoded("PNG", drawn().resize((900, 900)))}
    for key, data in files.items():
        moto.store().put(key, data, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(published, "MAX_SENT", len(files["large.png"]) - 1)

    def read(key: str) -> Reference:
        place = f"{moto.bucket}/{key}"
        return asyncio.run(buckets.read(Reference(source=place, url=place)))

    up = read("up.jpg")
    assert (up.fault, up.url, up.steps) == (None, None, ("upright",))
    assert up.sha256 == hashlib.sha256(files["up.jpg"]).hexdigest()
    at = f"the reference {moto.bucket}"
    assert (read("half.jpg").fault or "").startswith(f"{at}/half.jpg is a JPEG that is cut off")
    assert read("text.jpg").fault == f"{at}/text.jpg is not a PNG, JPEG, WEBP or GIF picture"
    assert (read("large.png").fault or "").startswith(f"{at}/large.png has more than ")
    assert read("gone.jpg").fault == f"{at}/gone.jpg is not there; put it there and run again"

    def look(key: str) -> str | None:
        place = f"{moto.bucket}/{key}"
        return asyncio.run(buckets.look(Reference(source=place, url=place)))

    assert look("up.jpg") is None
    assert [look(key) for key in ("up", "gone.jpg", "large.png")] == [
        f"{at}/up is not there; put it there and run again",
        read("gone.jpg").fault,
        read("large.png").fault,
    ]


def test_a_key_that_may_read_and_not_list_is_enough(tmp_path: Path, faulty: Faulty) -> None:
    faulty.behind.store().put("a.png", b"a", hashlib.sha256(b"a").hexdigest())
    buckets = Buckets(faulty.stores(), Photos(tmp_path), Published())
    faulty.front.methods = frozenset({"GET"})

    def look(key: str, *refusals: Fault) -> str | None:
        faulty.front.faults.extend(refusals)
        place = f"{faulty.bucket}/{key}"
        return asyncio.run(buckets.look(Reference(source=place, url=place)))

    assert look("a.png", DENIED) is None
    assert "access is denied" in (look("a.png", DENIED, DENIED) or "")
    assert "access is denied" in (look("gone.png", DENIED) or "")
    buckets.close()


def test_a_bucket_that_is_not_there_is_said(tmp_path: Path, buckets: Buckets) -> None:
    image = Reference(source="s3://no-such-bucket/a", url="s3://no-such-bucket/a")
    said = "the reference s3://no-such-bucket/a: there is no such bucket"
    assert (asyncio.run(buckets.read(image)).fault or "").startswith(said)
    assert (asyncio.run(buckets.look(image)) or "").startswith(said)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("{to: s3://b}", "found neither url nor sign; give one: url: https://img.example/{key} where"),
        ("{to: s3://b, sign: 2h, url: 'https://x.example/{key}'}", "found both url and sign; give one"),
        ("{to: s3://b, sign: 5m}", "found sign: 300s; allowed is at least 360s: limits.timeout, for an API may fetch"),
        ("{to: s3://b, sign: 8d}", 'found "8d"; allowed is a duration up to 168h (seven days), as 2h'),
        ("{to: s3://b, sign: 169h}", "allowed is a duration up to 168h (seven days)"),
        ("{to: s3://b, url: 'https://x.example/'}", 'found "https://x.example/"; allowed is a URL with {key} where'),
        ("{to: s3://b, url: 'https://x.example/{name}/{key}'}", "allowed is a URL with {key} where"),
        ("{to: s3://b, url: 'ftp://x.example/{key}'}", "allowed is an http:// or https:// URL"),
        ("{to: photos, sign: 2h}", 'found "photos"; allowed is a bucket'),
        ("s3://b", 'found "s3://b"; allowed is a mapping with to, url, sign'),
        ("[s3://b]", "found a list; allowed is a mapping with to, url, sign"),
        ("{to: s3://b/a//c, sign: 2h}", 'found "s3://b/a//c"; allowed is s3://bucket/folder, which has no empty parts'),
        ("{to: s3://b/../c, sign: 2h}", "which has no empty parts, no . or .. and no control characters"),
        ("{sign: 2h}", "to is missing; add it, as to: s3://bucket/refs"),
    ],
)
def test_what_cannot_be_published_is_a_fault(tmp_path: Path, said: str, fault: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"version: 1\nreferences: {{publish: {said}}}\njobs: [{{prompt: x}}]\n", encoding="utf-8")
    with pytest.raises(Exception, match="references") as raised:
        load_manifest(path)
    assert fault in str(raised.value)
    assert "m.yaml:2: references.publish" in str(raised.value)


def test_a_longer_timeout_needs_longer_links(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    text = "version: 1\nlimits: {timeout: 3h}\nreferences: {publish: {to: s3://b, sign: 3h}}\njobs: [{prompt: x}]\n"
    path.write_text(text, encoding="utf-8")
    assert load_manifest(path).published == Published(to="s3://b", seconds=10_800.0)
    path.write_text(text.replace("sign: 3h", "sign: 2h"), encoding="utf-8")
    with pytest.raises(Exception, match="at least 10800s"):
        load_manifest(path)

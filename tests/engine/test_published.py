"""References that are put into a bucket, on a virtual clock: once each, before any money; signed as requests leave."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import Code, JobError, StorageError
from batchflux.ledger.connection import connect
from batchflux.models import Reference
from batchflux.output.stores.base import PassingError
from batchflux.photos import Published

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.engine.conftest import Night

TO = "s3://shop/refs"


@dataclass
class Bucket:
    """Buckets without any: counts what is put and signed, and takes `seconds` for each; `fault` is raised instead."""

    published: Published = field(default_factory=lambda: Published(to=TO, seconds=7200.0))
    seconds: float = 5.0
    fault: Exception | None = None
    away_until: float = 0.0
    put_at: list[tuple[str, float]] = field(default_factory=list)
    signed_at: list[tuple[str, float]] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    asked: int = 0

    def _asked(self) -> None:
        if asyncio.get_running_loop().time() < self.away_until:
            self.asked += 1
            raise PassingError("s3://shop does not answer")

    async def put(self, image: Reference) -> str:
        await asyncio.sleep(self.seconds)
        self._asked()
        if self.fault is not None:
            raise self.fault
        address = self.published.address(image)
        self.put_at.append((address, asyncio.get_running_loop().time()))
        return address

    async def sign(self, address: str) -> str:
        if self.fault is not None:
            raise self.fault
        now = asyncio.get_running_loop().time()
        self.signed_at.append((address, now))
        return f"https://shop.example/{address.rpartition('/')[2]}?X-Amz-Signature={len(self.signed_at)}"

    async def look(self, image: Reference) -> str | None:
        await asyncio.sleep(self.seconds)
        self._asked()
        if self.fault is not None:
            raise self.fault
        self.looked.append(image.source)
        return f"the reference {image.source} is not there" if "gone" in image.source else None

    async def read(self, image: Reference) -> Reference:
        self._asked()
        return replace(image, fault=f"the reference {image.source} is not there")


def photo(name: str) -> Reference:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return Reference(source=name, path=f"/{name}", sha256=digest, media_type="image/jpeg")


def address(name: str) -> str:
    return f"{TO}/{hashlib.sha256(name.encode()).hexdigest()}.jpg"


@pytest.fixture
def shop(night: Callable[[int], Night]) -> Callable[..., tuple[Night, Bucket]]:
    """A night of n jobs of so many photos, which are published."""

    def make(count: int, photos: int = 1) -> tuple[Night, Bucket]:
        made, bucket = night(count), Bucket()
        made.jobs = [replace(job, images=(photo(f"p{n % photos}"),)) for n, job in enumerate(made.jobs)]
        made.buckets = bucket
        return made, bucket

    return make


def uploads(night: Night) -> dict[str, str]:
    with contextlib.closing(connect(night.folder / "ledger.db", durable=False)) as ledger:
        return dict(ledger.execute("SELECT sha256, url FROM uploads"))


def test_each_content_is_put_once_however_many_jobs_have_it(shop: Callable[..., tuple[Night, Bucket]]) -> None:
    night, bucket = shop(48, photos=2)
    assert night.run(concurrency=24).tally.done == 48
    assert Counter(place for place, _ in bucket.put_at) == {address("p0"): 1, address("p1"): 1}
    assert set(uploads(night).values()) == {address("p0"), address("p1")}
    assert len(bucket.signed_at) == 48
    assert min(call.at for call in night.server.calls) >= 5.0


def test_what_is_on_record_is_not_put_again_for_a_day(shop: Callable[..., tuple[Night, Bucket]]) -> None:
    night, bucket = shop(2)
    night.run(limit=1)
    night.epoch = 3600.0
    assert night.run().tally.done == 1
    assert len(bucket.put_at) == 1
    for number, job in enumerate(night.jobs):
        night.jobs[number] = replace(job, key=f"{number + 77:064x}", id=f"n{number}", file_name=f"images/n{number}.jpg")
    night.epoch = 90_000.0
    assert night.run().tally.done == 2
    assert len(bucket.put_at) == 2


def test_a_link_is_signed_anew_for_each_attempt_as_it_leaves(shop: Callable[..., tuple[Night, Bucket]]) -> None:
    night, bucket = shop(3)
    night.server.api = {"j0": [night.error(Code.SERVER, after=30.0), night.picture()]}
    assert night.run(concurrency=1, interval=100.0).tally.done == 3
    calls = [call.at for call in night.server.calls]
    assert [at for _, at in bucket.signed_at] == calls, "not when the attempt began to wait for its moment"
    assert len(calls) == 4
    assert uploads(night) == {photo("p0").sha256: address("p0")}
    assert len(set(night.server.sent)) == 4


@pytest.mark.parametrize("when", ["put", "sign"])
def test_a_bucket_that_cannot_be_used_stops_the_run_and_costs_nothing(
    shop: Callable[..., tuple[Night, Bucket]], when: str
) -> None:
    night, bucket = shop(40, photos=2 if when == "put" else 1)
    night.run(limit=1)
    done, before = len(night.server.calls), night.spent()
    bucket.fault = StorageError("s3://shop is full: free space, then run again")
    ended = night.run(concurrency=24, budget=Decimal(100))
    assert ended.reason is not None
    assert (ended.reason.reason, str(ended.reason)) == ("bucket", "s3://shop is full: free space, then run again")
    assert (len(night.server.calls), night.spent()) == (done, before)
    left = [known for known in night.rows().values() if known.status != "done"]
    assert {(known.status, known.attempts, known.error_code) for known in left} <= {("pending", 0, None)}
    bucket.fault = None
    assert night.run(concurrency=24).tally.done == 40 - done


@pytest.mark.parametrize("there", [True, False])
def test_a_bucket_that_is_away_is_waited_for_as_a_provider_is(
    shop: Callable[..., tuple[Night, Bucket]],
    there: bool,  # noqa: FBT001  a parameter
) -> None:
    night, bucket = shop(24, photos=2)
    if there:
        place = Reference(source="s3://shop/mug.jpg", url="s3://shop/mug.jpg")
        night.jobs = [replace(job, images=(place,)) for job in night.jobs]
    bucket.away_until = 1200.0
    ended = night.run(concurrency=24)
    assert (ended.reason, ended.tally.done) == (None, 24)
    assert bucket.asked < 2 * (1200 / 60 + 8), "one of each photo's jobs asks, less and less often"
    for number, job in enumerate(night.jobs):
        night.jobs[number] = replace(job, key=f"{number + 77:064x}", id=f"n{number}", file_name=f"images/n{number}.jpg")
    night.epoch, bucket.away_until = 90_000.0, 4000.0
    ended = night.run()
    assert ended.reason is not None
    assert (ended.reason.reason, len(night.server.calls)) == ("bucket", 24)


def test_a_photo_that_changed_fails_its_jobs_alone(shop: Callable[..., tuple[Night, Bucket]]) -> None:
    night, bucket = shop(4)
    bucket.fault = JobError(Code.REFERENCE, "reference /p0 changed since the plan; run again")
    ended = night.run()
    assert (ended.reason, ended.tally.failed, night.server.calls) == (None, 4, [])
    assert {known.error_code for known in night.rows().values()} == {"reference"}


def test_a_kill_at_any_turn_loses_nothing_and_pays_once(shop: Callable[..., tuple[Night, Bucket]]) -> None:
    for turns in range(1, 60, 4):
        night, _ = shop(3, photos=3)
        night.run(kill_after_turns=turns, concurrency=2)
        night.run(concurrency=2)
        assert {known.status for known in night.rows().values()} == {"done"}
        assert len(night.server.calls) <= 3 + 2, "at most what was out at the kill is sent once more"
        assert set(uploads(night).values()) == {address(f"p{number}") for number in range(3)}


def test_what_lies_in_a_bucket_is_looked_for_once_and_never_bought_for_where_it_is_gone(
    shop: Callable[..., tuple[Night, Bucket]],
) -> None:
    night, bucket = shop(24)
    places = ["s3://shop/mug.jpg", "s3://shop/gone.jpg"]
    there = [Reference(source=place, url=place) for place in places]
    night.jobs = [replace(job, images=(there[number % 2],)) for number, job in enumerate(night.jobs)]
    ended = night.run(concurrency=24)
    assert (ended.tally.done, ended.tally.failed, len(night.server.calls)) == (12, 12, 12)
    assert bucket.looked.count(places[0]) == 1
    assert {known.error_code for known in night.rows().values()} == {None, "reference"}
    bucket.fault = StorageError("s3://shop cannot be listed")
    again = night.run(retry_failed=True)
    assert again.reason is not None
    assert (again.reason.reason, len(night.server.calls)) == ("bucket", 12)

"""A kill around what is put into a bucket: each photo is there once in the end, and no picture is paid twice."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from batchflux.failpoints import VARIABLE
from batchflux.testing.bank import picture_of
from tests.stores import _moto_port, moto

if TYPE_CHECKING:
    from tests.program import Scene
    from tests.stores import Served

__all__ = ["_moto_port", "moto"]

pytestmark = pytest.mark.timeout(900)  # real processes, also on a loaded machine

POINTS = (
    "reference.publishing:1",
    "reference.published:1",
    "reference.published:2",
    "commit.made:2",
    "attempt.intended:1",
    "request.leaving:2",
)


@pytest.mark.parametrize(
    "point", [pytest.param(point, marks=[pytest.mark.slow] * (point != POINTS[1])) for point in POINTS]
)
def test_a_kill_around_a_photo_that_is_published(scene: Scene, moto: Served, point: str) -> None:
    program, bank = scene.program, scene.bank
    program.environ |= moto.environ
    jobs = "".join(f"  - {{id: a{n}, prompt: 'job a{n} #url', image: p/{n % 2}.png, seed: {n}}}\n" for n in range(6))
    program.manifest(bank.url, jobs, more=f"references: {{publish: {{to: '{moto.bucket}/refs', sign: 2h}}}}")
    for number in range(2):
        (program.folder / "p" / f"{number}.png").write_bytes(picture_of(f"photo {number}"))
    ended = program.run(**{VARIABLE: point})
    assert ended.code == -9, f"{point} was not passed: {ended.said}"
    scene.after_kill()
    ended = program.run()
    assert ended.code == 0, ended.said
    scene.at_the_end({f"a{number}" for number in range(6)}, kills=1)
    assert sorted(moto.objects().values()) == sorted(picture_of(f"photo {number}") for number in range(2))
    with closing(sqlite3.connect(program.out / "ledger.db")) as ledger:
        assert ledger.execute("SELECT COUNT(*) FROM uploads").fetchone() == (2,)
    leaks = [path for path in program.out.rglob("*") if path.is_file() and b"X-Amz-S" in path.read_bytes()]
    assert leaks == []

"""What every object store keeps to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import StorageError
from batchflux.output.stores.base import read
from tests.stores import CUT_EARLY, CUT_LATE, DENIED

if TYPE_CHECKING:
    from tests.stores import Faulty, Served


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["moto", "nanio"])
def served(request: pytest.FixtureRequest) -> Served:
    found: Served = request.getfixturevalue(request.param)
    return found


def test_what_is_put_is_there(served: Served) -> None:
    store = served.store()
    assert store.put("a/b.png", b"picture", sha256(b"picture"))
    assert read(store, "a/b.png") == b"picture"
    assert served.objects() == {"a/b.png": b"picture"}


def test_faults(faulty: Faulty) -> None:
    faulty.front.faults.extend([CUT_EARLY, CUT_LATE, DENIED])
    for _ in range(3):
        with pytest.raises(StorageError):
            faulty.store().put("a", b"x", sha256(b"x"))
    assert faulty.objects() == {"a": b"x"}


def test_oss(oss: Served) -> None:
    oss.store().put("猫 %+.png", b"x" * 100, sha256(b"x"), over=True)
    assert oss.objects() == {"猫 %+.png": b"x" * 100}

"""The simulator as one that fetches its references: links that are signed, expired, forged, or lead nowhere."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from batchflux.simulator import fetching
from batchflux.simulator.fetching import NO_FILE, fetched
from batchflux.simulator.replies import Refusal
from batchflux.testing.bank import picture_of
from tests.stores import _nanio_place, nanio

if TYPE_CHECKING:
    from tests.stores import Served

__all__ = ["_nanio_place", "nanio"]


@pytest.mark.slow
def test_what_is_signed_is_fetched_until_it_expires(nanio: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    store, data = nanio.store(), picture_of("a")
    for key, content in {"a.png": data, "text.png": b"no picture"}.items():
        store.put(key, content, hashlib.sha256(content).hexdigest())
    link = store.sign("a.png", 1)
    made = store.sign("a.png", 60)
    assert (fetched(made).data, fetched(made).sha256) == (data, hashlib.sha256(data).hexdigest())
    forged, unsigned = made.replace("Signature=", "Signature=0"), made.partition("?")[0]
    time.sleep(2.1)
    for url in (link, forged, unsigned, store.sign("gone.png", 60), "http://127.0.0.1:9/a.png"):
        with pytest.raises(Refusal) as refused:
            fetched(url)
        assert NO_FILE.encode() in refused.value.reply.body, url
    with pytest.raises(Refusal) as refused:
        fetched(store.sign("text.png", 60))
    assert b"is no PNG, JPEG or WebP" in refused.value.reply.body
    monkeypatch.setattr(fetching, "_MOST", len(data) - 1)
    with pytest.raises(Refusal) as refused:
        fetched(made)
    assert b"more than" in refused.value.reply.body

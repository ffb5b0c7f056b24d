"""What keeps a call back: the trial of its model, which no other waits for; a provider that is away."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from batchflux.runner import stream
from batchflux.testing.bank import PRICE
from tests.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.gateway.conftest import Gateways

MANIFEST = """\
version: 1
name: g
provider:
  {{name: tuzi, base_url: {url}, keys: [TEST_KEY], model: pro, price: {{pro: {price}, max: {price}}}, currency: CNY}}
limits: {{concurrency: 6, timeout: 20s}}
"""


async def test_a_model_that_fails_its_trial_stops_no_other_and_is_tried_anew(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "REST", 3600)
    bank = gateways.bank
    bank.held = lambda: bank.posts.total() < 4  # or one asks again before the fourth has come
    async with gateways.opened(manifest=MANIFEST.format(url=bank.url, price=PRICE)) as front:
        bad = await asyncio.gather(*(front.picture(f"job b{number} #nojson", model="max") for number in range(6)))
        assert sorted(answer.status for answer in bad) == [400] * 4 + [503] * 2
        assert {answer.code for answer in bad if answer.status == 503} == {"provider_failing"}
        assert (await front.picture("job a", model="pro")).status == 200
        again = await front.picture("job c", model="max")
        assert (again.status, again.code) == (503, "provider_failing")
        assert (await front.picture("job d", model="pro")).status == 200
        monkeypatch.setattr(stream, "REST", 0)
        assert (await front.picture("job e", model="max")).status == 200
        assert (await front.picture("job f", model="pro")).status == 200
    assert bank.posts.total() == 4 + 4


AWAY = """\
version: 1
name: g
provider: {name: tuzi, base_url: "http://127.0.0.1:9", keys: [TEST_KEY], model: pro, price: 0.1, currency: CNY}
limits: {concurrency: 6, timeout: 20s}
"""


async def test_who_waits_for_a_provider_is_told_so_and_nothing_of_it(gateways: Gateways) -> None:
    async with gateways.opened(manifest=AWAY) as front:
        first = asyncio.create_task(front.picture("the secret of another client"))
        await until(front.run.waiting)
        body = {"messages": [{"role": "user", "content": "a mug"}], "stream": True}
        async with front.http.post(f"{front.url}/chat/completions", json=body) as answer:
            line = await answer.content.readline()
        told = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
        assert told == "> waiting for the provider\n\n"
        first.cancel()

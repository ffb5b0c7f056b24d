"""The suite that every provider keeps to, over all that batchflux ships."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

import pytest

from batchflux.testing.batch_suite import BatchSuite
from batchflux.testing.suite import ProviderSuite, Way, only
from tests.banks import dialects

if TYPE_CHECKING:
    from batchflux.testing.suite import Shop

pytestmark = pytest.mark.timeout(300)  # real processes, also on a loaded machine

WORKFLOW = json.dumps(
    {
        "workflow": {
            "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
            "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "flux", "images": ["6", 0]}},
        },
        "inputs": {"prompt": "6.text"},
    }
)
WAYS = (
    Way(name="standard", provider="name: tuzi, style: standard", tasks=False),
    Way(name="chat", provider="name: tuzi, style: chat", tasks=False, formats=False),
    Way(name="native", provider="name: tuzi, style: native", tasks=True),
    Way(name="bfl", provider="name: bfl", tasks=True, tells_cost=True),
    Way(
        name="openai",
        provider="name: openai, model: gpt-image-1.5",
        tasks=False,
        tells_cost=True,
        links=False,
        price="{gpt-image-1.5: {most: 0.14, image_out: 10}}",
    ),
    Way(
        name="gemini",
        provider="name: gemini, model: gemini-3-pro-image",
        tasks=False,
        tells_cost=True,
        links=False,
        formats=False,
        price="{gemini-3-pro-image: {most: 0.14, image_out: 10}}",
    ),
    Way(
        name="openrouter",
        provider="name: openrouter, model: black-forest-labs/flux.2-pro",
        tasks=False,
        tells_cost=True,
        links=False,
    ),
    Way(
        name="openrouter-chat",
        provider="name: openrouter, model: google/gemini-3-pro-image, options: {endpoint: chat}",
        tasks=False,
        tells_cost=True,
        links=False,
        formats=False,
    ),
    Way(name="together", provider="name: together, model: black-forest-labs/FLUX.2-dev", tasks=False),
    Way(name="siliconflow", provider="name: siliconflow, model: Kwai/Kolors", tasks=False, formats=False),
    Way(
        name="fal",
        provider="name: fal, model: fal-ai/flux-pro/kontext",
        tasks=True,
        tells_cost=True,
        finds_lost=True,
        lists=True,
    ),
    Way(
        name="replicate",
        provider="name: replicate, model: black-forest-labs/flux-kontext-pro",
        tasks=True,
        finds_lost=True,
        lists=True,
    ),
    Way(
        name="comfyui",
        provider=f"name: comfyui, options: {WORKFLOW}",
        tasks=True,
        keyed=False,
        moderates=False,
        finds_lost=True,
    ),
)
"""Every provider; a new one is one more line, and for one that answers in a call a module of tests/banks."""
QUICK = {"standard", "chat", "native", "bfl"}
TELLING = {"request.leaving", "handle.recorded", "poll.leaving:3", "answer.recorded"}
EACH = {  # tests in which ways of one provider differ
    "test_every_picture_is_paid_once",
    "test_a_failure_at_the_provider_is_a_new_attempt",
    "test_a_request_that_was_lost_is_sent_again_once_and_counted",
    "test_a_cost_that_is_told_replaces_the_price",
}


class TestProvider(ProviderSuite):
    ways = WAYS
    dialects: ClassVar = dialects()

    def marks(self, test: str, way: Way, point: str) -> tuple[pytest.MarkDecorator, ...]:
        """Two ways of one provider differ in their requests, and little in what most tests ask: one is fast."""
        fast = way.name in (QUICK if test in EACH else {"standard", "bfl"})
        fast |= test == "test_a_request_that_was_lost_and_accepted_is_found" and way.name == "fal"
        fast |= test == "test_a_cost_that_is_told_replaces_the_price" and way.tells_cost
        fast &= test != "test_polls_are_one_attempt_and_no_rate" and (not point or point in TELLING)
        return () if fast else (pytest.mark.slow,)

    @only(lambda way: way.name == "standard")
    def test_two_models_share_one_budget(self, shop: Shop) -> None:
        """Two jobs of a model at 0.04 and one at 0.08 under a budget of 0.10: never more than 0.10."""
        shop.manifest("", "")
        text = (shop.program.folder / "m.yaml").read_text(encoding="utf-8")
        text = text.replace("price: 0.14", "price: {flux-kontext-pro: 0.04, flux-kontext-max: 0.08}")
        text = text.replace("timeout: 20s", "timeout: 20s, budget: 0.10")
        text = text.replace("id: b,", "id: b, model: flux-kontext-max,")
        (shop.program.folder / "m.yaml").write_text(text, encoding="utf-8")
        ended = shop.program.run()
        assert ended.code == 3, ended.said
        assert shop.bank.posts.total() == 1
        assert shop.program.summary()["reason"] == "budget"


TOGETHER = {  # tests of batches that have most of it in one
    "test_an_answer_that_comes_twice_is_counted_twice_and_shown",
    "test_what_is_not_back_is_sent_live_once_its_batch_is_cancelled",
}


class TestBatches(BatchSuite):
    ways = tuple(way for way in WAYS if way.name in ("openai", "gemini"))
    dialects: ClassVar = dialects()

    def marks(self, test: str, way: Way, point: str) -> tuple[pytest.MarkDecorator, ...]:
        """The engine sees no API, and tests/engine has all that a batch goes through."""
        if point == "batch.leaving":  # whether it was accepted is asked for a minute
            return pytest.mark.slow, pytest.mark.timeout(400)
        return () if way.name == "openai" and test in TOGETHER else (pytest.mark.slow,)

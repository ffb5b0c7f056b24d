"""The node Generate / Edit: what it asks for, what it makes of the answer, and what it pays for."""

from __future__ import annotations

import asyncio
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from tests.comfyui.comfy import InterruptProcessingException
from tests.comfyui.conftest import refusal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.comfyui.comfy import ComfyUI
    from tests.comfyui.conftest import Stand

NODE = "BatchfluxGenerate"
HAD = "0 (1 of 1 had before, for 0.04 USD)"


def batch(*levels: float, height: int = 4, width: int = 5) -> Any:
    return np.stack([np.full((height, width, 3), level, dtype=np.float32) for level in levels])


async def test_a_prompt_becomes_a_picture_an_id_and_a_cost(comfy: ComfyUI, stand: Stand) -> None:
    made = await comfy.run(
        NODE, prompt=" a mug ", gateway=stand.url, ratio="16:9", model="flux", fields="quality: high"
    )
    (asked,) = stand.asked
    assert asked["path"] == "/v1/images/generations"
    assert (asked["prompt"], asked["n"], asked["model"]) == ("a mug", 1, "flux")
    assert (asked["aspect_ratio"], asked["quality"]) == ("16:9", "high")
    assert "seed" not in asked
    assert made["ids"] == "job-0"
    assert made["cost"] == "0.04 USD"
    assert made["images"].shape == (1, 6, 8, 3)
    assert made["images"].dtype == np.float32
    assert made["images"][0, 0, 0].tolist() == [1.0, 0.0, 0.0]
    assert comfy.steps == [(1, 1)]
    assert comfy.previews == 0
    assert comfy.texts == ([(NODE, "0.04 USD")] if comfy.modern else [])


async def test_equal_nodes_and_later_runs_pay_once(comfy: ComfyUI, stand: Stand) -> None:
    given = {"prompt": "a mug", "gateway": stand.url, "image_1": batch(0.5)}
    stand.held.clear()
    both = asyncio.gather(*(comfy.run(NODE, **given) for _ in range(2)))
    await stand.arrived.wait()
    stand.held.set()
    first, second = await both
    assert first["ids"] == second["ids"]
    assert {first["cost"], second["cost"]} == {"0.04 USD", HAD}
    later = await comfy.run(NODE, **given)
    assert later["cost"] == HAD
    assert len(stand.asked) == 3
    assert len(stand.paid) == 1


CHANGES: dict[str, Any] = {
    "prompt": "a cup",
    "model": "other",
    "seed": 7,
    "ratio": "1:1",
    "take": 2,
    "fields": "resolution: 2K",
    "image_1": batch(0.6),
    "image_2": batch(0.5),
}


async def test_whatever_changes_the_picture_changes_the_key(comfy: ComfyUI, stand: Stand) -> None:
    same = {"prompt": "a mug", "gateway": stand.url, "image_1": batch(0.5)}
    await comfy.run(NODE, **same)
    for name, value in CHANGES.items():
        await comfy.run(NODE, **{**same, name: value})
    await comfy.run(NODE, **{**same, "image_1": batch(0.5, height=5, width=4)})  # as many of the same pixels
    keys = [asked["key"] for asked in stand.asked]
    assert len(set(keys)) == len(keys)


async def test_what_changes_nothing_keeps_the_key(comfy: ComfyUI, stand: Stand) -> None:
    await comfy.run(NODE, prompt="a mug", gateway=stand.url, image_1=batch(0.5), fields="a: 1\nb: 2")
    await comfy.run(
        NODE,
        prompt="  a mug\n",
        gateway=f"{stand.url}/v1/",
        key_name="",
        image_3=batch(0.5),  # in whichever place
        fields="# sorted\n\nb:2\n a :  1",
    )
    assert stand.asked[0]["key"] == stand.asked[1]["key"]


async def test_further_pictures_have_the_seeds_or_takes_that_follow(comfy: ComfyUI, stand: Stand) -> None:
    made = await comfy.run(NODE, prompt="a mug", gateway=stand.url, seed=5, count=3)
    assert [asked["seed"] for asked in stand.asked] == ["5", "6", "7"]
    assert made["images"].shape[0] == 3
    assert made["cost"] == "0.12 USD"
    assert (await comfy.run(NODE, prompt="a mug", gateway=stand.url, seed=7))["cost"].startswith("0 (")
    await comfy.run(NODE, prompt="a cup", gateway=stand.url, count=2)
    assert (await comfy.run(NODE, prompt="a cup", gateway=stand.url, take=2))["cost"].startswith("0 (")
    assert len(stand.paid) == 5


async def test_pictures_are_sent_as_they_are_all_of_a_batch(comfy: ComfyUI, stand: Stand) -> None:
    grey = np.round(np.linspace(0, 255, 60)).reshape(1, 4, 5, 3) / 255
    await comfy.run(NODE, prompt="mix", gateway=stand.url, image_1=grey, image_4=batch(0.0, 1.0), seed=3)
    (asked,) = stand.asked
    assert asked["path"] == "/v1/images/edits"
    assert (asked["prompt"], asked["seed"], asked["n"]) == ("mix", "3", "1")
    sent = [np.asarray(Image.open(io.BytesIO(data))) for data in asked["pictures"]]
    assert [one.shape for one in sent] == [(4, 5, 3)] * 3
    assert np.array_equal(sent[0], np.round(grey[0] * 255))
    assert [one.max() for one in sent[1:]] == [0, 255]


async def test_a_mask_is_white_and_transparent_where_it_is_painted(comfy: ComfyUI, stand: Stand) -> None:
    painted = np.zeros((1, 4, 5), dtype=np.float32)
    painted[0, 1, 2] = 1.0
    await comfy.run(NODE, prompt="mix", gateway=stand.url, image_1=batch(0.5), mask=painted)
    await comfy.run(NODE, prompt="mix", gateway=stand.url, image_1=batch(0.5), mask=1 - painted)
    assert len(stand.paid) == 2
    sent = np.asarray(Image.open(io.BytesIO(stand.asked[0]["pictures"][1])))
    assert sent[1, 2].tolist() == [255, 255, 255, 0]
    assert sent[0, 0].tolist() == [0, 0, 0, 255]
    for wrong, says in ((painted * 0, "The mask is empty"), (np.ones((4, 4), dtype=np.float32), "must have its size")):
        with pytest.raises(Exception, match=says):
            await comfy.run(NODE, prompt="mix", gateway=stand.url, image_1=batch(0.5), mask=wrong)
    with pytest.raises(Exception, match="give the picture that it was painted on"):
        await comfy.run(NODE, prompt="mix", gateway=stand.url, mask=painted)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"image_2": np.zeros((0, 4, 5, 3))}, "image_2 holds no picture"),
        ({"image_1": np.full((1, 4, 5, 3), np.nan)}, r"image_1 has pixels that are no numbers \(NaN\)"),
        ({"mask": np.zeros((0, 4, 5))}, "mask holds no picture"),
        ({"mask": np.stack([np.ones((4, 5)), np.eye(4, 5)])}, "mask holds 2 masks that differ"),
    ],
    ids=["empty", "NaN", "no mask", "masks"],
)
async def test_what_an_input_does_not_hold_is_not_bought_without_it(
    comfy: ComfyUI, stand: Stand, given: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        await comfy.run(NODE, prompt="mix", gateway=stand.url, **{"image_1": batch(0.5), **given})
    assert not stand.asked


async def test_pictures_of_other_sizes_stand_in_the_middle(comfy: ComfyUI, stand: Stand) -> None:
    stand.sizes = [(8, 6), (4, 10)]
    made = await comfy.run(NODE, prompt="a mug", gateway=stand.url, count=2)
    assert made["images"].shape == (2, 10, 8, 3)
    assert made["images"][0, :2].max() == 0
    assert made["images"][0, 2:8, :, 0].min() == 1


async def test_an_interrupt_ends_the_wait_and_the_next_run_has_what_was_made(comfy: ComfyUI, stand: Stand) -> None:
    stand.held.clear()
    running = asyncio.ensure_future(comfy.run(NODE, prompt="a mug", gateway=stand.url, count=2))
    await stand.arrived.wait()
    comfy.interrupted = True
    with pytest.raises(InterruptProcessingException):
        await running
    await stand.gone.wait()  # the connections are closed, not left
    stand.held.set()
    await comfy.run(NODE, prompt="a mug", gateway=stand.url, count=2)
    assert len(stand.paid) == 2


async def test_a_refusal_is_the_gateways_own_sentence(comfy: ComfyUI, stand: Stand) -> None:
    stand.answer = lambda _: refusal(400, "content_policy_violation", "The provider refused the prompt.")
    with pytest.raises(Exception, match=r"^The provider refused the prompt\.$"):
        await comfy.run(NODE, prompt="a mug", gateway=stand.url)
    assert len(stand.asked) == 1


async def test_one_of_several_that_fails_leaves_the_others_free_for_the_next_run(comfy: ComfyUI, stand: Stand) -> None:
    stand.answer = lambda asked: refusal(400, "unknown_outcome", "It may be billed.") if asked["seed"] == "2" else None
    with pytest.raises(Exception, match=r"^It may be billed\. To ask again, raise take\. The other 2 are kept, and "):
        await comfy.run(NODE, prompt="a mug", gateway=stand.url, seed=1, count=3)
    stand.answer = lambda _: None
    made = await comfy.run(NODE, prompt="a mug", gateway=stand.url, seed=1, count=3)
    assert made["cost"] == "0.04 USD (2 of 3 had before, for 0.08 USD)"


@pytest.mark.parametrize("later", [(503, "unavailable"), (429, "rate_limit_exceeded")])
async def test_it_is_asked_again_by_the_same_key_where_nothing_was_bought(
    comfy: ComfyUI, stand: Stand, later: tuple[int, str]
) -> None:
    headers = {"Retry-After": "0"}
    stand.answer = lambda _: refusal(later[0], later[1], **headers) if len(stand.asked) < 2 else None
    made = await comfy.run(NODE, prompt="a mug", gateway=stand.url)
    assert made["cost"] == "0.04 USD"
    assert len(stand.asked) == 2
    assert stand.asked[0]["key"] == stand.asked[1]["key"]


FINAL = [
    (503, "unavailable", {}),
    (503, "unavailable", {"Retry-After": "100000"}),
    (429, "insufficient_quota", {"Retry-After": "1"}),
    (500, "unknown", {"Retry-After": "1"}),
    (400, "unknown_outcome", {"Retry-After": "1"}),
    (401, "invalid_api_key", {}),
]


@pytest.mark.parametrize(("status", "code", "headers"), FINAL)
async def test_it_is_not_asked_again_where_something_may_have_been_bought(
    comfy: ComfyUI, stand: Stand, status: int, code: str, headers: dict[str, str]
) -> None:
    stand.answer = lambda _: refusal(status, code, **headers)
    with pytest.raises(Exception, match=r"^It is so\."):
        await comfy.run(NODE, prompt="a mug", gateway=stand.url)
    assert len(stand.asked) == 1


async def test_what_a_key_means_may_change_with_the_gateway(comfy: ComfyUI, stand: Stand) -> None:
    given = {"prompt": "a mug", "gateway": stand.url, "image_1": batch(0.5)}
    await comfy.run(NODE, **given)
    first = stand.asked[0]["key"]
    stand.answer = lambda asked: refusal(400, "idempotency_key_reused") if asked["key"] == first else None
    changed = await comfy.run(NODE, **given)
    again = await comfy.run(NODE, **given)
    assert (changed["cost"], again["cost"]) == ("0.04 USD", HAD)
    assert len(stand.paid) == 2
    stand.answer = lambda _: refusal(400, "idempotency_key_reused")
    with pytest.raises(Exception, match=r"^It is so\.$"):
        await comfy.run(NODE, **given)
    assert len({asked["key"] for asked in stand.asked}) == 8


def _in_the_environment(monkeypatch: pytest.MonkeyPatch, _config: Path) -> None:
    monkeypatch.setenv("BATCHFLUX_STUDIO", "sk-canary")


def _in_the_file(_monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    config.mkdir(parents=True)
    (config / "comfyui.env").write_text("# mine\nBATCHFLUX_STUDIO = 'sk-canary'\n", encoding="utf-8")


@pytest.mark.parametrize("put", [_in_the_environment, _in_the_file])
async def test_the_key_comes_from_this_machine_by_its_name(
    comfy: ComfyUI, stand: Stand, put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put(monkeypatch, tmp_path / "config" / "batchflux")
    await comfy.run(NODE, prompt="a mug", gateway=stand.url, key_name="BATCHFLUX_STUDIO")
    await comfy.run(NODE, prompt="a mug", gateway=stand.url, key_name="BATCHFLUX_OTHER")
    assert [asked["bearer"] for asked in stand.asked] == ["Bearer sk-canary", None]


STRANGERS = [
    ({"gateway": "http://evil.example"}, "is not a gateway that this ComfyUI trusts, so nothing was sent"),
    ({"gateway": "http://127.0.0.1.evil.example:8790"}, "is not a gateway that this ComfyUI trusts"),
    ({"gateway": "http://127.0.0.1:80@evil.example"}, "must look like http://"),
    ({"gateway": "file:///etc/passwd"}, "must look like http://"),
    ({"gateway": "http://127.0.0.1:x"}, "must look like http://"),
    ({"gateway": ""}, "must look like http://"),
    ({"key_name": "AWS_SECRET_ACCESS_KEY"}, "must begin with BATCHFLUX_"),
    ({"key_name": "sk-batchflux-canary"}, "never the key itself"),
    ({"prompt": " "}, "The prompt is empty"),
    ({"fields": "2K"}, "write name: value"),
    ({"fields": "a: 1\na: 2"}, "a stands twice"),
    ({"fields": "n: 5"}, "n does not stand in fields"),  # it would buy five
    ({"fields": "image[]: https://a.example/a.png"}, "does not stand in fields"),
]


@pytest.mark.parametrize(("given", "says"), STRANGERS)
async def test_what_a_strangers_workflow_says_reaches_nobody(
    comfy: ComfyUI, stand: Stand, given: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sk-canary")
    with pytest.raises(Exception, match=says) as caught:
        await comfy.run(NODE, **{"prompt": "a mug", "gateway": stand.url, **given})
    assert "canary" not in str(caught.value)
    assert stand.asked == []


async def test_a_gateway_elsewhere_is_trusted_when_this_machine_lists_it(
    comfy: ComfyUI, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = "http://batchflux.invalid:8790"  # a name that nobody has
    monkeypatch.setenv("BATCHFLUX_GATEWAYS", f"https://a.example {elsewhere}/")
    with pytest.raises(Exception, match="BATCHFLUX_GATEWAY_KEY is not set: put the gateway's key"):
        await comfy.run(NODE, prompt="a mug", gateway=elsewhere)
    monkeypatch.setenv("BATCHFLUX_GATEWAY_KEY", "sk-canary")
    with pytest.raises(Exception, match="No gateway answers at http://batchflux"):
        await comfy.run(NODE, prompt="a mug", gateway=elsewhere)


async def test_what_is_no_gateway_is_said_so(comfy: ComfyUI, stand: Stand) -> None:
    with pytest.raises(Exception, match="answered 404 as no batchflux gateway does"):
        await comfy.run(NODE, prompt="a mug", gateway=f"{stand.url}/elsewhere")


async def test_fingerprints_change_with_the_widgets_alone(comfy: ComfyUI) -> None:
    entry = comfy.nodes[NODE]
    one, same = (entry.fingerprint(**{**entry.required, "prompt": "a", "image_1": None}) for _ in range(2))
    assert one == same
    assert one != entry.fingerprint(**{**entry.required, "prompt": "a", "take": 2})


def test_no_widget_can_hold_a_key(comfy: ComfyUI) -> None:
    for entry in comfy.nodes.values():
        assert "canary" not in json.dumps(dict(entry.required))
        assert [name for name in entry.kinds if "key" in name] == ["key_name"]

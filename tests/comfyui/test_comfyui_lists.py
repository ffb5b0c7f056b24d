"""The nodes that make lists: what a manifest's calls are, what ends them all, and what is loaded from where."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.comfyui.comfy import InterruptProcessingException
from tests.comfyui.conftest import picture, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.comfyui.comfy import ComfyUI
    from tests.comfyui.conftest import Stand

BATCH, LOAD = "BatchfluxBatch", "BatchfluxLoad"


def job(number: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"j{number}",
        "prompt": f"p{number}",
        "model": "m",
        "images": [],
        "idempotency_key": f"k{number}",
        **more,
    }


async def test_jobs_are_called_for_as_they_come(comfy: ComfyUI, stand: Stand) -> None:
    stand.jobs = [job(1, seed=7, prompt_upsampling=False), job(2, images=["https://a.example/a.png"], resolution="2K")]
    stand.sizes = [(8, 6), (3, 4)]
    made = await comfy.run(BATCH, gateway=stand.url, manifest="jobs: ...")
    manifest, one, two = stand.asked
    assert manifest == {"manifest": "jobs: ..."}
    assert (one["path"], one["key"], one["model"], one["seed"]) == ("/v1/images/generations", "k1", "m", 7)
    assert one["prompt_upsampling"] is False
    assert (two["path"], two["images"], two["resolution"]) == ("/v1/images/edits", ["https://a.example/a.png"], "2K")
    assert [one.shape for one in made["images"]] == [(1, 6, 8, 3), (1, 4, 3, 3)]
    assert made["ids"] == ["job-0", "job-1"]


async def test_what_ends_all_keeps_the_rest_from_being_asked(comfy: ComfyUI, stand: Stand) -> None:
    stand.jobs = [job(number) for number in range(5)]
    stand.answer = lambda asked: refusal(429, "insufficient_quota", "The budget is spent.") if "key" in asked else None
    with pytest.raises(Exception, match=r"^5 of 5 pictures could not be made: p0: The budget is spent\."):
        await comfy.run(BATCH, gateway=stand.url, at_once=1)
    assert len(stand.asked) == 2  # the manifest, and the first call


async def test_so_many_at_once_and_an_interrupt_ends_them_all(comfy: ComfyUI, stand: Stand) -> None:
    stand.jobs = [job(number) for number in range(5)]
    stand.held.clear()
    running = asyncio.ensure_future(comfy.run(BATCH, gateway=stand.url, at_once=2))
    while len(stand.paid) < 2:
        await stand.arrived.wait()
        await asyncio.sleep(0)
    comfy.interrupted = True
    with pytest.raises(InterruptProcessingException):
        await running
    assert len(stand.paid) == 2


@pytest.mark.parametrize("rows", [None, 3, [1]])
async def test_an_answer_of_something_else_is_said_so(comfy: ComfyUI, stand: Stand, rows: Any) -> None:
    stand.jobs = rows
    with pytest.raises(Exception, match=r"answer cannot be read: is the address right\?"):
        await comfy.run(BATCH, gateway=stand.url)


async def test_pages_are_read_until_there_is_enough(comfy: ComfyUI, stand: Stand) -> None:
    colours = ["red", "lime", "blue", "black", "white"]
    stand.rows = [
        {"id": f"{colour}-1", "prompt": colour, "url": f"https://pictures.example.com/images/{colour}.png"}
        for colour in colours
    ]
    stand.rows[3]["url"] = None  # not made yet
    made = await comfy.run(LOAD, gateway=stand.url)
    assert made["prompts"] == ["red", "lime", "blue", "white"]
    assert [one[0, 0, 0].tolist() for one in made["images"][:2]] == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert (await comfy.run(LOAD, gateway=stand.url, limit=3))["ids"] == ["red-1", "lime-1", "blue-1"]
    assert (await comfy.run(LOAD, gateway=stand.url, only="*lu*"))["ids"] == ["blue-1"]
    fingerprint = comfy.nodes[LOAD].fingerprint(**comfy.nodes[LOAD].required)
    assert fingerprint != fingerprint  # noqa: PLR0124  asked anew each time


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "out"
    (made / "images").mkdir(parents=True)
    (made / "images" / "a.png").write_bytes(picture((4, 4), "blue"))
    (made / "images" / "b.webp").write_bytes(picture((2, 2), "#00000000", "RGBA", "WEBP"))
    (made / "images" / "c.png").write_bytes(b"no picture")
    (tmp_path / "secret.png").write_bytes(picture())
    (made / "results.csv").write_text(
        "\ufeffid,status,file_name,prompt,review\n"
        'a,done,images/a.png,"a mug, blue",accept\nb,done,images/b.webp,b,reject\nf,failed,,f,\n'
        "s,done,../secret.png,s,accept\ng,done,images/gone.png,g,accept\n",
        encoding="utf-8",
    )
    return made


async def test_a_folders_pictures_are_loaded_by_id_and_verdict(comfy: ComfyUI, folder: Path) -> None:
    for named in (folder, folder / "results.csv"):
        made = await comfy.run(LOAD, folder=str(named), gateway="")
        assert made["ids"] == ["a", "b"]  # not what lies elsewhere, or is gone
        assert made["prompts"] == ["a mug, blue", "b"]
    assert made["images"][0][0, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert np.all(made["images"][1] == 1)  # what is transparent is white
    assert (await comfy.run(LOAD, folder=str(folder), verdict="accept"))["ids"] == ["a"]
    assert (await comfy.run(LOAD, folder=str(folder), limit=1))["ids"] == ["a"]
    entry = comfy.nodes[LOAD]
    before = entry.fingerprint(**{**entry.required, "folder": str(folder)})
    with (folder / "results.csv").open("a", encoding="utf-8") as table:
        table.write("c,done,images/c.png,c,\n")
    assert entry.fingerprint(**{**entry.required, "folder": str(folder)}) != before
    with pytest.raises(Exception, match=r"What lies there for c is not a picture that can be read\."):
        await comfy.run(LOAD, folder=str(folder))
    with pytest.raises(Exception, match=r"There is no .*results\.csv: name an output folder"):
        await comfy.run(LOAD, folder=str(folder / "images"))

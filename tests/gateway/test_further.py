"""An answer of the provider's that holds several pictures: what clients get of them, for the price of one call."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.testing.bank import picture_of
from batchflux.testing.serving import serving
from tests.gateway.test_desk import AGAIN, look, urls

if TYPE_CHECKING:
    from tests.gateway.conftest import Gateways

NAMES = ("one", "two", "three")
LINK = re.compile(r"!\[image\]\(([^)]+)\)")


async def test_a_chat_shows_all_of_them_and_the_images_api_links_the_others(gateways: Gateways) -> None:
    front_of: list[str] = []
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(await request.text())
        return web.json_response({"data": [{"url": f"{front_of[0]}/{name}.png"} for name in NAMES]})

    async def file(request: web.Request) -> web.Response:
        return web.Response(body=picture_of(request.match_info["name"]), content_type="image/png")

    app = web.Application()
    app.router.add_post("/v1/images/generations", answer)
    app.router.add_get("/{name}.png", file)
    with serving(app) as url:
        front_of.append(url)
        manifest = f"version: 1\nname: g\nprovider: {{name: tuzi, base_url: {url}, keys: [TEST_KEY], price: 1}}\n"
        async with gateways.opened(manifest=manifest) as front:
            chat = {"messages": [{"role": "user", "content": "a mug"}]}
            said = await front.post("/chat/completions", chat)
            message = said.json["choices"][0]["message"]
            shown = LINK.findall(message["content"])
            assert [one["image_url"]["url"] for one in message["images"]] == shown
            assert [await look(front, link) for link in shown] == [picture_of(name) for name in NAMES]
            async with front.http.post(
                f"{front.url}/chat/completions", json=chat | {"stream": True}, headers=AGAIN
            ) as it:
                assert LINK.findall(await it.text()) == shown
            made = await front.picture("a cup")
            further = made.headers["x-batchflux-further"].split(", ")
            pictures = [await look(front, link) for link in (*urls(made), *further)]
            assert pictures == [picture_of(name) for name in NAMES]
            next((gateways.folder / "out" / "images").glob("a-mug-*_3.png")).unlink()
            again = await front.post("/chat/completions", chat, **AGAIN)
            assert LINK.findall(again.json["choices"][0]["message"]["content"]) == shown[:2]
            async with front.http.get(shown[2]) as gone:
                assert (gone.status, (await gone.json())["error"]["code"]) == (404, "picture_gone")
    assert len(asked) == 2

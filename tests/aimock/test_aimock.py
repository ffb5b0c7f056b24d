"""Runs of the whole program against a mock that others wrote: each picture asked for once, by the mock's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from batchflux.testing.bank import picture_of
from batchflux.testing.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.testing.program import Program
    from tests.aimock.conftest import Mock

pytestmark = pytest.mark.slow

# Name: what stands in `provider` (at the mock's address), and the path that is asked.
WAYS = {
    "openai": ("name: openai, base_url: '{}', model: gpt-image-1.5", "/v1/images/generations"),
    "gemini": (
        "name: gemini, base_url: '{}', model: gemini-2.5-flash-image",
        "/v1beta/models/gemini-2.5-flash-image:generateContent",
    ),
    "openrouter": (
        "name: openrouter, base_url: '{}/api', model: google/gemini-3-pro-image, options: {{endpoint: chat}}",
        "/api/v1/chat/completions",
    ),
    "chat": ("name: tuzi, style: chat, base_url: '{}', model: gpt-image-1", "/v1/chat/completions"),
    "standard": ("name: tuzi, style: standard, base_url: '{}', model: gpt-image-1", "/v1/images/generations"),
}


def run(program: Program, mock: Mock, provider: str, jobs: str) -> dict[str, dict[str, str]]:
    """Run jobs as one provider makes them, and return their rows."""
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{{provider.format(mock.url)}, keys: [TEST_KEY], price: 0.04}}\n"
        f"limits: {{timeout: 20s}}\noutput: {{dir: {program.out}}}\njobs:\n{jobs}",
    )
    ended = program.run()
    assert ended.code in (0, 1), ended.said
    return {row["id"]: row for row in program.rows()}


@pytest.mark.parametrize("way", WAYS)
def test_each_picture_is_asked_for_once_and_again_only_when_that_is_free(
    program: Program, aimock: Mock, way: str
) -> None:
    provider, path = WAYS[way]
    names = ("a", "b", "limited", "refused")
    jobs = "".join(f"  - {{id: {name}, prompt: 'the {way} mug {name}'}}\n" for name in names)
    rows = run(program, aimock, provider, jobs)
    refused = rows.pop("refused")
    assert (refused["status"], refused["error_code"]) == ("failed", "moderated"), refused
    assert {row["status"] for row in rows.values()} == {"done"}, rows
    for row in rows.values():
        assert (program.out / row["file_name"]).read_bytes() == aimock.picture
        assert way != "openrouter" or row["cost"] == "0.04"
    once = [(path, 200)]
    asked = {name: aimock.asked(f"the {way} mug {name}") for name in names}
    assert asked == {"a": once, "b": once, "limited": [(path, 429), *once], "refused": [(path, 400)]}
    assert program.run().code == 1
    assert {name: aimock.asked(f"the {way} mug {name}") for name in names} == asked


def test_an_edit_goes_as_a_form_to_whoever_is_not_openai_itself(program: Program, aimock: Mock) -> None:
    """The mock knows the multipart form alone, as many relays do."""
    (program.folder / "p.png").write_bytes(picture_of("reference"))
    rows = run(program, aimock, WAYS["openai"][0], "  - {id: a, prompt: 'an edited mug', image: p.png}\n")
    assert rows["a"]["status"] == "done", rows["a"]["error"]
    assert aimock.asked("an edited mug") == [("/v1/images/edits", 200)]


@pytest.fixture
def queue(aimock: Mock) -> Iterator[str]:
    """The address of fal's queue: the mock is told by a header which of fal's hosts it is, and names that host."""

    async def forward(http: web.Request) -> web.Response:
        headers = {"x-fal-target-host": "queue.fal.run", "Content-Type": "application/json"}
        async with aiohttp.request(
            http.method, f"{aimock.url}/fal{http.path}", data=await http.read(), headers=headers
        ) as answer:
            body = (await answer.read()).replace(b"https://queue.fal.run", f"http://{http.host}".encode())
            told = {
                name: answer.headers[name] for name in ("Retry-After", "x-fal-billable-units") if name in answer.headers
            }
            return web.Response(status=answer.status, body=body, content_type="application/json", headers=told)

    app = web.Application(client_max_size=1 << 26)
    app.router.add_route("*", "/{path:.*}", forward)
    with serving(app) as url:
        yield url


def test_a_task_of_fals_queue_is_submitted_once(program: Program, aimock: Mock, queue: str) -> None:
    provider = f"name: fal, base_url: '{queue}', model: fal-ai/flux-pro/kontext"
    names = ("a", "b", "limited")
    jobs = "".join(f"  - {{id: {name}, prompt: 'the fal mug {name}', output_format: png}}\n" for name in names)
    rows = run(program, aimock, provider, jobs)
    assert {row["status"] for row in rows.values()} == {"done"}, [row["error"] for row in rows.values()]
    for row in rows.values():
        assert (program.out / row["file_name"]).read_bytes() == aimock.picture
        assert row["cost"] == "0.04"
    once = [("/fal/fal-ai/flux-pro/kontext/text-to-image", 200)]
    asked = {name: aimock.asked(f"the fal mug {name}") for name in names}
    assert asked == {"a": once, "b": once, "limited": [(once[0][0], 429), *once]}

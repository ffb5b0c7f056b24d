"""Runs of the whole program against a mock that others wrote: each picture asked for once, by the mock's own record."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.bank import picture_of

if TYPE_CHECKING:
    from tests.aimock.conftest import Mock
    from tests.program import Program

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

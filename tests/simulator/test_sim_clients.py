"""The official clients of OpenAI and of Gemini make pictures at the simulator: they know the wire better than we do."""

from __future__ import annotations

import base64
import os
from typing import TYPE_CHECKING, Any

import openai
import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.simulator.conftest import Tools

    Open = Callable[..., EmbeddedSimulator]

KEY = "sk-test"
MODEL = "gpt-image-1.5"
DRAWN = "gemini-3-pro-image"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Starts simulators in threads of their own, and stops them all."""
    started: list[EmbeddedSimulator] = []

    def start(**options: Any) -> EmbeddedSimulator:
        told = {"latency": 0, "size": 64, "keys": [KEY], "cache_dir": str(tmp_path / "uploads"), **options}
        started.append(EmbeddedSimulator(parse_options(told)))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def base(made: EmbeddedSimulator) -> str:
    return f"http://{made.simulator.host}:{made.simulator.port}"


def images(made: EmbeddedSimulator, key: str = KEY) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{base(made)}/v1", max_retries=0)


def test_openai_generates_edits_and_streams(opened: Open, tools: type[Tools]) -> None:
    made = opened()
    photo = ("cup.png", tools.photo(), "image/png")
    with images(made) as client:
        new = client.images.generate(model=MODEL, prompt="A mug", size="1536x1024", quality="low", output_format="jpeg")
        changed = client.images.edit(model=MODEL, prompt="Red", image=[photo, photo], mask=photo, input_fidelity="high")
        single = client.images.edit(model=MODEL, prompt="Red", image=photo)
        events = list(client.images.generate(model=MODEL, prompt="A mug", stream=True, partial_images=2))
        edits = list(client.images.edit(model=MODEL, prompt="Red", image=photo, stream=True, partial_images=1))
    assert new.data is not None
    picture = tools.opened(base64.b64decode(new.data[0].b64_json or ""))
    assert (picture.format, picture.width > picture.height) == ("JPEG", True)
    assert new.usage is not None
    assert new.usage.output_tokens == 272
    assert (new.size, new.quality, new.output_format) == ("1536x1024", "low", "jpeg")
    for answer, pictures in ((changed, 3), (single, 1)):
        assert answer.data is not None
        assert tools.opened(base64.b64decode(answer.data[0].b64_json or "")).format == "PNG"
        assert answer.usage is not None
        assert answer.usage.input_tokens_details.image_tokens == pictures * 323
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.type for event in edits] == ["image_edit.partial_image", "image_edit.completed"]
    made.stop()  # a picture is counted once its answer has left, in the simulator's own thread
    assert made.simulator.requests.billed == made.simulator.requests.answered == 5


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        ("moderated", openai.BadRequestError, "moderation_blocked"),
        ("billing_limit", openai.BadRequestError, "billing_hard_limit_reached"),
        ("quota", openai.RateLimitError, "insufficient_quota"),
        ("rate_limited", openai.RateLimitError, "rate_limit_exceeded"),
        ("forbidden", openai.PermissionDeniedError, "organization_must_be_verified"),
        ("model_not_found", openai.NotFoundError, "model_not_found"),
    ],
)
def test_openai_understands_the_refusals(
    opened: Open, fault: str, error: type[openai.APIStatusError], code: str
) -> None:
    with images(opened(faults={fault: 1})) as client, pytest.raises(error) as refused:
        client.images.generate(model=MODEL, prompt="A mug")
    assert refused.value.code == code


def test_openai_sees_an_error_in_a_stream(opened: Open) -> None:
    with images(opened(faults={"error_event": 1})) as client, pytest.raises(openai.APIError):
        list(client.images.generate(model=MODEL, prompt="A mug", stream=True))


@pytest.fixture(scope="module")
def genai() -> Any:
    """Google's client, which only the slow tests need: it brings much along."""
    try:
        from google import genai  # noqa: PLC0415  it may be missing, and takes a second to load
    except ImportError:
        sentence = "There is no google-genai: pip install -e '.[clients]' brings the clients of other APIs."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return genai


def gemini(genai: Any, made: EmbeddedSimulator, key: str = KEY) -> Any:
    options = genai.types.HttpOptions(base_url=base(made), retry_options=genai.types.HttpRetryOptions(attempts=1))
    return genai.Client(api_key=key, http_options=options)


def pictures(answer: Any, *, thought: bool) -> list[bytes]:
    parts = answer.candidates[0].content.parts
    return [part.inline_data.data for part in parts if part.inline_data and bool(part.thought) == thought]


@pytest.mark.slow
def test_gemini_draws_whole_or_streamed(genai: Any, opened: Open, tools: type[Tools]) -> None:
    made, types = opened(), genai.types
    photo = types.Part.from_bytes(data=tools.photo(), mime_type="image/png")
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"], image_config=types.ImageConfig(aspect_ratio="16:9", image_size="2K"), seed=7
    )
    with gemini(genai, made) as client:
        answer = client.models.generate_content(model=DRAWN, contents=["Make it red", photo], config=config)
        chunks = list(client.models.generate_content_stream(model=DRAWN, contents="A mug", config=config))
    [draft], [picture] = pictures(answer, thought=True), pictures(answer, thought=False)
    assert tools.opened(picture).width > tools.opened(draft).width
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert answer.usage_metadata.candidates_token_count == 1290
    assert answer.model_version == DRAWN
    assert [bool(pictures(chunk, thought=False)) for chunk in chunks] == [False, False, True]
    assert chunks[-1].candidates[0].finish_reason == types.FinishReason.STOP
    assert made.simulator.requests.billed == 2


@pytest.mark.slow
def test_gemini_understands_the_refusals(genai: Any, opened: Open) -> None:
    errors = {"rate_limited": 429, "quota": 429, "region": 400, "server_503": 503, "model_not_found": 404}
    made = opened(script=[{"match": f"[{name}]", "fault": name} for name in (*errors, "moderated", "blocked_prompt")])
    with gemini(genai, made) as client:
        for name, code in errors.items():
            with pytest.raises(genai.errors.APIError) as refused:
                client.models.generate_content(model=DRAWN, contents=f"A mug [{name}]")
            assert refused.value.code == code
        blocked = client.models.generate_content(model=DRAWN, contents="A mug [moderated]")
        assert blocked.candidates[0].finish_reason == genai.types.FinishReason.IMAGE_SAFETY
        feedback = client.models.generate_content(model=DRAWN, contents="A mug [blocked_prompt]").prompt_feedback
        assert feedback.block_reason == genai.types.BlockedReason.PROHIBITED_CONTENT
    with gemini(genai, made, "wrong") as client, pytest.raises(genai.errors.ClientError) as refused:
        client.models.generate_content(model=DRAWN, contents="A mug")
    assert (refused.value.code, refused.value.status) == (400, "INVALID_ARGUMENT")
    assert made.simulator.requests.billed == 0

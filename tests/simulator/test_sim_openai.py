"""The official openai client, an independent reader of the API, talks to the simulator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import openai
import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from openai.types.chat import ChatCompletionUserMessageParam

    from tests.simulator.conftest import Serve, Tools

MODEL = "flux-kontext-pro"


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[str]:
    """The base URL of a simulator in a thread of its own."""
    options = {"latency": 0, "size": 64, "keys": ["sk-test"], "cache_dir": str(tmp_path / "uploads")}
    simulator = EmbeddedSimulator(parse_options(options))
    host, port = simulator.start()
    yield f"http://{host}:{port}"
    simulator.stop()


def message(tools: type[Tools], prompt: str, picture: bytes) -> ChatCompletionUserMessageParam:
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": prompt},
            {"type": "image_url", "image_url": {"url": tools.data_url(picture)}},
        ],
    }


def test_the_client_makes_an_image(embedded: str) -> None:
    with openai.OpenAI(api_key="sk-test", base_url=f"{embedded}/v1", max_retries=0) as client:
        answer = client.images.generate(
            model=MODEL,
            prompt="https://photos.example/mug.png Make the mug red",
            extra_body={"seed": 42, "aspect_ratio": "16:9", "safety_tolerance": 2, "prompt_upsampling": False},
            output_format="png",
        )
    assert answer.created > 0
    assert answer.data is not None
    url = answer.data[0].url
    assert url is not None
    assert url.startswith(f"{embedded}/v1/files/")
    assert url.endswith(".png")


def test_the_client_streams_a_chat(embedded: str, tools: type[Tools]) -> None:
    with openai.OpenAI(api_key="sk-test", base_url=f"{embedded}/v1", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[message(tools, "Make it red", tools.photo())], stream=True
        )
        chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk.model for chunk in chunks} == {MODEL}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert f"![image]({embedded}/v1/files/" in said
    assert "[点击下载](" in said


async def test_the_async_client_does_both(serve: Serve, tools: type[Tools]) -> None:
    server = await serve()
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.base}/v1", max_retries=0) as client:
        answer = await client.images.generate(model=MODEL, prompt="A mug", extra_body={"seed": 1})
        stream = await client.chat.completions.create(
            model=MODEL, messages=[message(tools, "Make it red", tools.photo())], stream=True
        )
        said = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        models = [model.id async for model in client.models.list()]
    assert answer.data is not None
    assert (await server.get(str(answer.data[0].url))).status == 200
    assert "![image](" in "".join(said)
    assert MODEL in models


def test_the_client_understands_the_errors(embedded: str) -> None:
    with openai.OpenAI(api_key="sk-wrong", base_url=f"{embedded}/v1", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            client.images.generate(model=MODEL, prompt="A mug")
        assert refused.value.code == "invalid_api_key"
    with openai.OpenAI(api_key="sk-test", base_url=f"{embedded}/v1", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as wrong:
            client.images.generate(model=MODEL, prompt="A mug", n=2)
        assert wrong.value.param == "n"
        with pytest.raises(openai.BadRequestError) as unstreamed:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "A mug"}])
        assert unstreamed.value.param == "stream"


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("rate_limited", openai.RateLimitError),
        ("server_500", openai.InternalServerError),
        ("forbidden", openai.PermissionDeniedError),
        ("error_event", openai.APIError),
        ("reset", openai.APIConnectionError),
    ],
)
async def test_the_client_sees_the_faults(serve: Serve, fault: str, error: type[Exception]) -> None:
    server = await serve(faults={fault: 1})
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.base}/v1", max_retries=0) as client:
        with pytest.raises(error):
            await _drained(client)


async def _drained(client: openai.AsyncOpenAI) -> None:
    async with asyncio.timeout(20):
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "A mug"}], stream=True
        )
        async for _ in stream:
            pass


async def test_the_client_retries_a_rate_limit_as_told(serve: Serve) -> None:
    server = await serve(faults={"rate_limited": {"times": 1}})
    async with openai.AsyncOpenAI(api_key="any", base_url=f"{server.base}/v1", max_retries=1) as client:
        answer = await client.images.generate(model=MODEL, prompt="A mug")
    assert answer.data
    assert server.simulator.requests.by_status == {429: 1, 200: 1}

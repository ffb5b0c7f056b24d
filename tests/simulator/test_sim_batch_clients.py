"""The official clients of OpenAI and of Gemini take batches through the simulator: they know the wire best."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.simulator.conftest import Tools

    Open = Callable[..., tuple[EmbeddedSimulator, str]]

KEY = "sk-test"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Starts simulators in threads of their own, and stops them all."""
    started: list[EmbeddedSimulator] = []

    def start(**options: Any) -> tuple[EmbeddedSimulator, str]:
        told = {"latency": 0, "batch_seconds": 0.1, "size": 64, "keys": [KEY], "cache_dir": str(tmp_path / "u")}
        started.append(EmbeddedSimulator(parse_options({**told, **options})))
        host, port = started[-1].start()
        return started[-1], f"http://{host}:{port}"

    yield start
    for one in started:
        one.stop()


def lines(*entries: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def asked(key: str, **body: Any) -> dict[str, Any]:
    whole = {"model": "gpt-image-1.5", "prompt": f"picture {key}", "quality": "low", **body}
    return {"custom_id": key, "method": "POST", "url": "/v1/images/generations", "body": whole}


def test_openai_takes_a_batch_through(opened: Open, tools: type[Tools]) -> None:
    made, base = opened()
    content = lines(*(asked(f"k{number}") for number in range(3)), asked("bad", size="7x7"))
    with openai.OpenAI(api_key=KEY, base_url=f"{base}/openai/v1", max_retries=0) as client:
        file = client.files.create(file=("night.jsonl", content), purpose="batch")
        assert (file.filename, file.bytes, file.purpose) == ("night.jsonl", len(content), "batch")
        assert client.files.content(file.id).read() == content
        batch = client.batches.create(
            input_file_id=file.id,
            endpoint="/v1/images/generations",
            completion_window="24h",
            metadata={"batchflux": "one"},
        )
        assert (batch.status, batch.errors) == ("validating", None)
        assert [one.id for one in client.batches.list(limit=5) if (one.metadata or {})["batchflux"] == "one"] == [
            batch.id
        ]
        while batch.status != "completed":
            time.sleep(0.02)
            batch = client.batches.retrieve(batch.id)
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 4, "completed": 3, "failed": 1}
        assert batch.output_file_id is not None
        assert batch.error_file_id is not None
        told = [json.loads(line) for line in client.files.content(batch.output_file_id).iter_lines()]
        wrong = [json.loads(line) for line in client.files.content(batch.error_file_id).iter_lines()]
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(batch.id)
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_none")
    assert {one["custom_id"] for one in told} == {"k0", "k1", "k2"}
    for one in told:
        assert one["response"]["status_code"] == 200
        picture = tools.opened(base64.b64decode(one["response"]["body"]["data"][0]["b64_json"]))
        assert picture.format == "PNG"
    (bad,) = wrong
    assert (bad["custom_id"], bad["response"]["status_code"], bad["error"]) == ("bad", 400, None)
    assert bad["response"]["body"]["error"]["param"] == "size"
    assert made.simulator.requests.billed == 3


def test_openai_cancels_a_batch_and_reads_why_one_failed(opened: Open) -> None:
    made, base = opened(batch_seconds=60)
    with openai.OpenAI(api_key=KEY, base_url=f"{base}/openai/v1", max_retries=0) as client:
        file = client.files.create(file=("night.jsonl", lines(asked("k"))), purpose="batch")
        about: Any = {"input_file_id": file.id, "completion_window": "24h"}
        batch = client.batches.create(endpoint="/v1/images/generations", **about)
        assert client.batches.cancel(batch.id).status == "cancelling"
        with pytest.raises(openai.BadRequestError, match="embeddings"):
            client.batches.create(endpoint="/v1/embeddings", **about)
        with pytest.raises(openai.BadRequestError, match="purpose"):
            client.files.create(file=("x", b"x"), purpose="vision")
    _, base = opened(faults={"batch_failed": 1})
    with openai.OpenAI(api_key=KEY, base_url=f"{base}/openai/v1", max_retries=0) as client:
        file = client.files.create(file=("night.jsonl", lines(asked("k"))), purpose="batch")
        about = {"input_file_id": file.id, "completion_window": "24h"}
        batch = client.batches.create(endpoint="/v1/images/generations", **about)
        while batch.status != "failed":
            time.sleep(0.02)
            batch = client.batches.retrieve(batch.id)
    assert batch.errors is not None
    assert [error.code for error in batch.errors.data or ()] == ["invalid_json_line"]
    assert made.simulator.requests.billed == 0


@pytest.mark.slow
def test_gemini_takes_a_batch_through(opened: Open, tools: type[Tools], tmp_path: Path) -> None:
    genai = pytest.importorskip("google.genai", reason="pip install -e '.[clients]' brings the clients of other APIs")
    types = genai.types
    made, base = opened()
    photo = {"inlineData": {"mimeType": "image/png", "data": base64.b64encode(tools.photo()).decode()}}
    content = lines(
        *(
            {"key": f"k{number}", "request": {"contents": [{"parts": [{"text": f"picture {number}"}, photo]}]}}
            for number in range(3)
        ),
        {"key": "bad", "request": {"contents": []}},
    )
    (tmp_path / "night.jsonl").write_bytes(content)
    with genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=f"{base}/gemini")) as client:
        config = types.UploadFileConfig(display_name="night", mime_type="application/jsonl")
        file = client.files.upload(file=str(tmp_path / "night.jsonl"), config=config)
        assert file.name is not None
        assert file.size_bytes == len(content)
        job = client.batches.create(
            model="gemini-2.5-flash-image", src=file.name, config=types.CreateBatchJobConfig(display_name="one")
        )
        assert job.name is not None
        assert [one.name for one in client.batches.list() if one.display_name == "one"] == [job.name]
        while job.state != types.JobState.JOB_STATE_SUCCEEDED:
            time.sleep(0.02)
            job = client.batches.get(name=job.name or "")
        assert job.dest is not None
        assert job.dest.file_name is not None
        told = [json.loads(line) for line in client.files.download(file=job.dest.file_name).splitlines()]
        client.batches.cancel(name=job.name or "")
    by_key = {one["key"]: one for one in told}
    assert by_key.keys() == {"k0", "k1", "k2", "bad"}
    assert by_key["bad"]["error"]["code"] == 3
    for number in range(3):
        answer = types.GenerateContentResponse.model_validate(by_key[f"k{number}"]["response"])
        (picture,) = [part.inline_data for part in answer.parts or () if part.inline_data]
        assert tools.opened(picture.data or b"").format == "PNG"
    assert made.simulator.requests.billed == 3

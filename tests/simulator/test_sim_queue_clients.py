"""The official clients of fal and of Replicate make pictures at the simulator: they know the wire better than we do."""

from __future__ import annotations

from contextlib import ExitStack
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fal_client
import httpx
import pytest
from fal_client import client as fal_module
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError

from batchflux.simulator import EmbeddedSimulator, parse_options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.simulator.conftest import Tools

    Open = Callable[..., EmbeddedSimulator]

KEY = "id:secret"
KONTEXT = "fal-ai/flux-pro/kontext"
FLUX = "black-forest-labs/flux-kontext-pro"


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Starts simulators in threads of their own, and stops them all; fal's client asks the last one.

    Its host can be had from the environment, when it is loaded, but it would speak TLS to it. Neither client can be
    closed, so what they ask through is.
    """
    started: list[EmbeddedSimulator] = []
    made = ExitStack()

    class Closed(httpx.Client):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.callback(self.close)

    monkeypatch.setattr(httpx, "Client", Closed)

    def start(**options: Any) -> EmbeddedSimulator:
        told = {"latency": 0.01, "size": 64, "keys": [KEY], "cache_dir": str(tmp_path / "uploads"), **options}
        started.append(EmbeddedSimulator(parse_options(told)))
        started[-1].start()
        for name in ("QUEUE_URL_FORMAT", "REST_URL", "CDN_URL"):
            ending = "/" if getattr(fal_module, name).endswith("/") else ""
            monkeypatch.setattr(fal_module, name, f"{base(started[-1])}{ending}")
        return started[-1]

    with made:
        yield start
    for one in started:
        one.stop()


def base(made: EmbeddedSimulator) -> str:
    return f"http://{made.simulator.host}:{made.simulator.port}"


def test_fal_uploads_and_waits_in_the_queue(opened: Open, tools: type[Tools]) -> None:
    made = opened(faults={"echoed_input": 1})
    client = fal_client.SyncClient(key=KEY)
    url = client.upload(tools.photo(), "image/png", file_name="cup.png")
    seen: list[Any] = []
    body = client.subscribe(
        KONTEXT, {"prompt": "Red", "image_url": url, "seed": 7}, on_queue_update=seen.append, interval=0.01
    )
    assert isinstance(seen[-1], fal_client.Completed)
    assert (body["seed"], body["has_nsfw_concepts"]) == (7, [False])
    assert httpx.get(body["images"][0]["url"]).content == tools.photo()
    assert made.simulator.requests.billed == made.simulator.requests.answered == 1


@pytest.mark.slow
def test_fal_understands_queues_cancels_and_refusals(opened: Open) -> None:
    ends = {"content_moderated": 422, "generation_timeout": 504, "quota": 403, "model_not_found": 404}
    made = opened(script=[{"match": f"[{name}]", "fault": name} for name in (*ends, "task_stuck")])
    client = fal_client.SyncClient(key=KEY)
    for name, status in ends.items():
        with pytest.raises(fal_client.FalClientHTTPError) as refused:
            client.submit(f"{KONTEXT}/text-to-image", {"prompt": f"A mug [{name}]"}).get()
        assert refused.value.status_code == status
    stuck = client.submit(f"{KONTEXT}/text-to-image", {"prompt": "A mug [task_stuck]"})
    assert isinstance(stuck.status(), fal_client.Queued)
    stuck.cancel()
    assert isinstance(stuck.status(with_logs=True), fal_client.Completed)
    assert made.simulator.requests.billed == 0


def test_replicate_runs_waits_uploads_and_lists(opened: Open, tools: type[Tools]) -> None:
    made = opened(faults={"echoed_input": 1})
    client = Client(api_token=KEY, base_url=base(made))
    output: Any = client.run(FLUX, input={"prompt": "Red", "input_image": BytesIO(tools.photo()), "seed": 7})
    assert httpx.get(str(output)).content == tools.photo()
    file = client.files.create(BytesIO(tools.photo(64, 64)), filename="cup.png", content_type="image/png")
    made_of = {"prompt": "Blue", "input_image": file.urls["get"]}
    prediction = client.models.predictions.create(FLUX, input=made_of, wait=False)
    prediction.wait()
    assert (prediction.status, prediction.error) == ("succeeded", None)
    assert client.predictions.list()[0].id == prediction.id
    assert made.simulator.requests.billed == made.simulator.requests.answered == 2


@pytest.mark.slow
def test_replicate_understands_failures_cancels_and_refusals(opened: Open) -> None:
    refusals = {"quota": 402, "model_not_found": 404, "server_500": 500}
    names = (*refusals, "content_moderated", "task_stuck")
    made = opened(script=[{"match": f"[{name}]", "fault": name} for name in names])
    client = Client(api_token=KEY, base_url=base(made))
    for name, status in refusals.items():
        with pytest.raises(ReplicateError) as refused:
            client.run(FLUX, input={"prompt": f"A mug [{name}]"})
        assert refused.value.status == status
    with pytest.raises(ModelError, match="E005"):
        client.run(FLUX, input={"prompt": "A mug [content_moderated]"})
    stuck = client.models.predictions.create(FLUX, input={"prompt": "A mug [task_stuck]"})
    stuck.cancel()
    stuck.reload()
    assert stuck.status in ("canceled", "aborted")
    with pytest.raises(ReplicateError, match="valid authentication token"):
        Client(api_token="other", base_url=base(made)).run(FLUX, input={"prompt": "A mug"})
    assert made.simulator.requests.billed == 0

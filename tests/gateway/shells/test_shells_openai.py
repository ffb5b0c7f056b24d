"""The real `openai` client at a gateway: what it gets, and that what it sends again by itself is paid once."""

from __future__ import annotations

import base64
import threading
from typing import TYPE_CHECKING, Any

import openai
import pytest

from batchflux.testing.bank import picture_of
from tests.gateway.shells.conftest import GPT, RELAYED, TASKS, Gate
from tests.gateway.shells.cutting import wired
from tests.gateway.shells.shapes import CUP, MUG
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def client(url: str, **how: Any) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url=f"{url}/v1", **how)


def pictures(answer: Any) -> list[bytes]:
    return [base64.b64decode(each.b64_json) for each in answer.data]


@pytest.mark.slow
def test_models_are_listed(gate: Gate) -> None:
    with client(gate.url) as own:
        listed = {model.id for model in own.models.list()}
    assert listed >= {RELAYED, GPT, TASKS}


@pytest.mark.slow
def test_generate_edit_and_stream(gate: Gate) -> None:
    files = [("a.png", MUG, "image/png"), ("b.png", CUP, "image/png")]
    with client(gate.url) as own:
        made = own.images.generate(model=RELAYED, prompt="job o1 #b64", n=2, extra_body={"seed": 7})
        one = own.images.edit(model=RELAYED, prompt="job o2 #b64", image=files[0])
        two = own.images.edit(model=GPT, prompt="job o3", image=files, size="1024x1536", quality="high")
        events = list(own.images.generate(model=GPT, prompt="job o4", stream=True))
        edits = list(own.images.edit(model=GPT, prompt="job o5", image=files[0], stream=True))
        link = own.images.generate(model=RELAYED, prompt="job o6 #url", response_format="url")
    assert pictures(made) == [picture_of("o1")] * 2
    assert (pictures(one), pictures(two)) == ([picture_of("o2")], [picture_of("o3")])
    assert [event.type for event in (*events, *edits)] == ["image_generation.completed", "image_edit.completed"]
    assert [base64.b64decode(event.b64_json) for event in (*events, *edits)] == [picture_of("o4"), picture_of("o5")]
    assert link.data is not None
    assert str(link.data[0].url).startswith(f"{gate.url}/images/")
    assert {name: gate.bank.billed[name] for name in ("o1", "o2", "o3", "o4", "o5", "o6")} == {
        **dict.fromkeys(("o2", "o3", "o4", "o5", "o6"), 1),
        "o1": 2,
    }


@pytest.mark.slow
def test_chat_streamed_and_whole(gate: Gate) -> None:
    with client(gate.url) as own:
        said: Any = [{"role": "user", "content": "job c1 #link"}]
        whole = own.chat.completions.create(model=RELAYED, messages=said)
        said = [{"role": "user", "content": "job c2 #link"}]
        parts = [
            part.choices[0].delta.content or ""
            for part in own.chat.completions.create(model=RELAYED, messages=said, stream=True)
        ]
    for text in (str(whole.choices[0].message.content), "".join(parts)):
        assert f"]({gate.url}/images/" in text
    assert (gate.bank.billed["c1"], gate.bank.billed["c2"]) == (1, 1)


@pytest.mark.slow
def test_refusals_are_what_the_client_knows(gate: Gate) -> None:
    with client(gate.url) as own:
        with pytest.raises(openai.BadRequestError) as refused:
            own.images.generate(model=RELAYED, prompt="a mug", partial_images=2)
        assert (refused.value.param, refused.value.code) == ("partial_images", "unsupported_value")
        with pytest.raises(openai.NotFoundError) as unknown:
            own.images.generate(model="dall-e-9", prompt="a mug")
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as lost:
            own.images.generate(model=RELAYED, prompt="job r1 #lost")
        assert lost.value.code == "unknown_outcome"
    assert (gate.bank.billed["r1"], gate.bank.posts["r1"]) == (1, 1)


@pytest.mark.slow
def test_connection_cut_while_the_picture_is_made_is_paid_once(gate: Gate) -> None:
    held = threading.Event()
    gate.bank.held = lambda: not held.is_set()

    def cut() -> bool:
        return gate.bank.posts["w1"] > 0

    known = {"Host": gate.url.removeprefix("http://")}  # the gateway knows itself by this name only
    with wired(gate.port) as wire, client(wire.url, default_headers=known) as own:
        wire.cuts += [cut, cut]
        releasing = _when(lambda: wire.connections == 3, held.set)
        raw = own.images.with_raw_response.generate(model=RELAYED, prompt="job w1 #b64")
        releasing.join()
    assert pictures(raw.parse()) == [picture_of("w1")]
    assert raw.headers["x-batchflux-joined"] == "true"
    assert (gate.bank.billed["w1"], wire.connections) == (1, 3)


def _when(holds: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
    """Do something once something holds, in a thread of its own; the bound is there for what hangs alone."""

    def wait() -> None:
        try:
            wait_until(holds)
        finally:
            then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _slow(gate: Gate, name: str, times: int, patience: float) -> None:
    """Have a picture take so long that a client gives up so many times, which asks again until it is there."""
    held, joined = threading.Event(), gate.number("joined_total")
    gate.bank.held = lambda: not held.is_set()
    releasing = _when(lambda: gate.number("joined_total") >= joined + times, held.set)
    with client(gate.url, timeout=patience, max_retries=20) as own:
        assert pictures(own.images.generate(model=RELAYED, prompt=f"job {name} #b64")) == [picture_of(name)]
    releasing.join()
    assert gate.number("joined_total") >= joined + times
    assert (gate.bank.billed[name], gate.bank.posts[name]) == (1, 1)


@pytest.mark.slow
def test_client_that_gives_up_and_asks_again_pays_once(gate: Gate) -> None:
    _slow(gate, "t1", 1, 2.0)


@pytest.mark.long
def test_client_that_gives_up_within_a_minute_pays_once(gate: Gate) -> None:
    _slow(gate, "t60", 4, 10.0)


def _killed(gate: Gate, model: str, name: str, way: str) -> Any:
    """Kill the gateway while the provider has a call, start it again, and return what the client got."""
    held = True
    gate.bank.held = lambda: held
    got: list[Any] = []

    def ask() -> None:
        with client(gate.url, max_retries=20) as own:
            try:
                got.append(own.images.generate(model=model, prompt=f"job {name} {way}"))
            except openai.APIStatusError as error:
                got.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: gate.bank.posts[name] > 0)
    if model == TASKS:
        held = False
        wait_until(lambda: gate.bank.polls[name] > 0)
    gate.kill()
    held = False
    gate.bank.prompts[name] = f"job {name}"  # what it is made for no longer waits
    gate.start()
    thread.join(100)
    return got[0]


@pytest.mark.slow
def test_gateway_killed_while_a_call_is_out_never_pays_it_twice(gate: Gate) -> None:
    got = _killed(gate, RELAYED, "k1", "#b64")
    assert isinstance(got, openai.BadRequestError)
    assert got.code == "unknown_outcome"
    assert (gate.bank.billed["k1"], gate.bank.posts["k1"]) == (1, 1)


@pytest.mark.slow
def test_gateway_killed_while_a_task_is_made_gives_its_picture(gate: Gate) -> None:
    got = _killed(gate, TASKS, "k2", "#wait*1000")
    assert pictures(got) == [picture_of("k2")]
    assert (gate.bank.billed["k2"], gate.bank.posts["k2"]) == (1, 1)

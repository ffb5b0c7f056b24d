"""Answers of every API with a fault in them: a code, never a traceback, and never a second payment for what is known.

A fault is a field that is missing, null, or of another type, or an answer that breaks off.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchflux.errors import RULES, Code, JobError
from batchflux.models import BASE, Ended, Finished, HttpRequest, Job, Missing, Pending, Reply, Submitted, Then
from batchflux.providers import Provider, providers
from tests.providers.apis import EXAMPLES, Example

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OTHER: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, -1.5, "", "x", "http://[", [], [None], {}, {"a": 1}, 10**400]
)
STATUSES = (200, 201, 202, 400, 401, 403, 404, 422, 429, 499, 500, 502, 504)


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to each value in an answer."""
    yield way
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*way, key))


def damaged(value: Any, way: tuple[Any, ...], to: Any) -> Any:
    """Return an answer with another value in a place; Ellipsis takes out what is there."""
    if not way:
        return to
    copy = dict(value) if isinstance(value, dict) else dict(enumerate(value))
    copy[way[0]] = damaged(copy[way[0]], way[1:], to)
    if copy[way[0]] is Ellipsis:
        del copy[way[0]]
    return copy if isinstance(value, dict) else list(copy.values())


@st.composite
def faulty(draw: st.DrawFn, answer: Any) -> tuple[bytes, bool]:
    """Return an answer with a fault, and whether it is complete."""
    for way in draw(st.lists(st.sampled_from(list(places(answer))[1:] or [()]), min_size=1, max_size=2)):
        other = draw(st.just(Ellipsis) | OTHER)
        try:
            answer = damaged(answer, way, other)
        except (KeyError, TypeError):  # the first fault took the place of the second
            continue
    body = json.dumps(answer).encode()
    cut = draw(st.none() | st.integers(0, len(body)))
    return (body, True) if cut is None else (body[:cut], False)


def read(request: HttpRequest, body: bytes, example: Example, *, status: int = 200, complete: bool = True) -> Any:
    reader = request.reader(status, {BASE: "http://127.0.0.1:8188", **example.headers})
    reader.feed(body)
    try:
        return reader.finish(complete=complete)
    except JobError as error:
        return error


def job_of(example: Example, make_job: Callable[..., Job]) -> tuple[Provider, Job]:
    style = example.style or example.api
    job = make_job(style=style, model=example.model, options=tuple(example.options.items()), images=())
    return providers()[example.api, style], job


def through(provider: Provider, job: Job, example: Example) -> Iterator[tuple[HttpRequest, Any]]:
    """Yield each free step after an accepted request, with its whole answer."""
    request = provider.poll(job, example.handle)
    for answer in example.polled:
        yield request, answer
        reply = read(
            request,
            json.dumps({} if answer == example.polled[0] and example.api == "comfyui" else answer).encode(),
            example,
        )
        if not isinstance(reply, Then):
            return
        assert reply.request.repeatable
        request = reply.request


DRESSED: dict[str, Callable[[str], str]] = {
    "as it should be": lambda text: text,
    "with a BOM": lambda text: f"\ufeff{text}",
    "as a string": json.dumps,
    "as a string in a string": lambda text: json.dumps(json.dumps(text)),
    "twice": lambda text: text + text,
    "and a comment": lambda text: f"{text}\n<!-- 0.1 s -->",
}


@pytest.mark.parametrize(("how", "complete"), [*((how, True) for how in DRESSED), ("as it should be", False)])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.api)
def test_an_answer_is_read_as_it_should_be_and_dressed(
    example: Example, make_job: Callable[..., Job], how: str, *, complete: bool
) -> None:
    provider, job = job_of(example, make_job)

    def told(request: HttpRequest, answer: Any) -> Any:
        return read(request, DRESSED[how](json.dumps(answer)).encode(), example, complete=complete)

    reply: Reply | JobError = told(provider.submit(job, 1), example.submitted)
    if example.polled:
        assert isinstance(reply, Submitted)
        reply = told(provider.poll(job, example.handle), example.polled[0])
        if isinstance(reply, Then):
            reply = told(reply.request, example.polled[1])
    assert isinstance(reply, Finished), reply


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.api)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_fault_in_an_answer_is_a_code_and_no_second_payment(
    example: Example, make_job: Callable[..., Job], data: st.DataObject
) -> None:
    provider, job = job_of(example, make_job)
    body, complete = data.draw(faulty(example.submitted))
    status = data.draw(st.sampled_from(STATUSES))
    reply = read(provider.submit(job, 1), body, example, status=status, complete=complete)
    assert isinstance(reply, Finished | Submitted | Then | JobError)
    if isinstance(reply, Submitted):
        assert read(provider.poll(job, reply.handle), b"{}", example) is not None
    if isinstance(reply, JobError) and status < 300 and example.polled:  # it was accepted
        again = RULES[reply.code].retry in ("backoff", "limits") or (
            RULES[reply.code].retry == "once" and not reply.final
        )
        assert not again, reply.message


@pytest.mark.slow
@pytest.mark.parametrize("example", [one for one in EXAMPLES if one.polled], ids=lambda one: one.api)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_fault_in_what_is_told_of_a_task_never_ends_it(
    example: Example, make_job: Callable[..., Job], data: st.DataObject
) -> None:
    provider, job = job_of(example, make_job)
    steps = list(through(provider, job, example))
    request, answer = data.draw(st.sampled_from(steps))
    body, complete = data.draw(faulty(answer))
    status = data.draw(st.sampled_from(STATUSES))
    reply = read(request, body, example, status=status, complete=complete)
    assert isinstance(reply, Finished | Pending | Missing | Ended | Then | JobError)
    if isinstance(reply, Ended) and status < 300 and example.api != "comfyui":  # where nothing is ever paid
        rule = RULES[reply.error.code]
        assert reply.error.final or rule.retry in ("never", "once", "resend"), reply.error.message
        assert reply.error.code is not Code.INTERNAL

"""Which jobs a run works on, and where it takes them up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.ledger.means import Means
from batchflux.ledger.reconcile import Selection, Work, work_for
from batchflux.ledger.tables import Known
from batchflux.models import Finished, Job, Link, Reference, Way

JobOf = Callable[..., Job]
LINK = "https://cdn.example/a.png"
ALL: list[dict[str, Any]] = [{}, {"retry_failed": True}, {"on_unknown": "hold"}, {"on_unknown": "fail"}]


def known(status: str, **fields: Any) -> Known:
    values: dict[str, Any] = dict.fromkeys(Known._fields)
    return Known(**(values | {"status": status, "attempts": 0} | fields))


def decide(
    job: Job, row: Known | None, *, files: bool = True, means: Means | None = None, **selection: Any
) -> Work | None:
    return work_for(job, row, Selection(**selection), lambda _: files, means or Means())


@pytest.mark.parametrize("asked", ALL)
def test_what_is_not_known_is_submitted(job_number: JobOf, asked: dict[str, Any]) -> None:
    assert decide(job_number(0), None, **asked) == Work(job=job_number(0))


@pytest.mark.parametrize("asked", ALL)
def test_what_is_done_is_left_alone(job_number: JobOf, asked: dict[str, Any]) -> None:
    assert decide(job_number(0), known("done", file_name="images/j0.png", link=LINK), **asked) is None


@pytest.mark.parametrize("asked", ALL)
def test_what_was_answered_is_never_submitted(job_number: JobOf, asked: dict[str, Any]) -> None:
    by_link = decide(job_number(0), known("pending", link=LINK, attempts=3), **asked)
    assert by_link is not None
    assert (by_link.picture, by_link.costs, by_link.renew) == (Link(url=LINK), False, False)
    for files in (True, False):  # a spooled file that is gone was moved into its place before a kill
        by_bytes = decide(job_number(0), known("pending", spool=".spool/1"), files=files, **asked)
        assert by_bytes is not None
        assert (by_bytes.picture, by_bytes.costs) == (".spool/1", False)


def test_what_was_interrupted_goes_on_counting_its_attempts(job_number: JobOf) -> None:
    work = decide(job_number(0), known("pending", attempts=3))
    assert work == Work(job=job_number(0), used=3)
    assert work.costs


@pytest.mark.parametrize("asked", ALL)
def test_what_is_out_is_unknown_to_a_plan(job_number: JobOf, asked: dict[str, Any]) -> None:
    """As it is to the run that follows, which counts it as unknown before it looks."""
    out = decide(job_number(0), known("pending", in_flight=0, attempts=1), **asked)
    assert out == decide(job_number(0), known("unknown", attempts=1), **asked)


KEPT: dict[str, Any] = {"file_name": "rejected/j0-7.webp", "attempt": 7, "link": LINK}


@pytest.mark.parametrize("code", ["moderated", "bad_answer", "bad_image", "unsafe_url", "differs", "echoed_input"])
def test_what_failed_stays_failed(job_number: JobOf, code: str) -> None:
    assert decide(job_number(0), known("failed", error_code=code, link=LINK)) is None
    assert decide(job_number(0), known("failed", error_code=code)) is None


@pytest.mark.parametrize(("code", "hosts"), [("download", False), ("download", True), ("unsafe_url", True)])
def test_what_is_free_is_done_by_every_run(job_number: JobOf, code: str, hosts: bool) -> None:  # noqa: FBT001  a table's column
    work = decide(job_number(0), known("failed", error_code=code, link=LINK, attempt=7), means=Means(hosts=hosts))
    assert work == Work(job=job_number(0), picture=Link(url=LINK), attempt=7)


@pytest.mark.parametrize("code", ["download", "bad_image", "invalid_request", "unsafe_url"])
def test_retry_failed_begins_with_a_link_that_may_live(job_number: JobOf, code: str) -> None:
    row = known("failed", error_code=code, link=LINK, attempts=5)
    work = decide(job_number(0), row, retry_failed=True)
    assert work is not None
    assert work == Work(job=job_number(0), picture=Link(url=LINK), renew=True)
    assert (work.costs, work.may_cost) == (False, True)
    work = decide(job_number(0), row, retry_failed=True, pay_again=True)
    assert work is not None
    assert work == Work(job=job_number(0), picture=Link(url=LINK), renew=True, pay_again=True)
    assert (work.costs, work.may_cost) == (False, True)


@pytest.mark.parametrize(
    ("differs", "accept", "taken"),
    [
        ("format", (), False),
        ("format", ("format",), True),
        ("format ratio", ("format",), False),
        ("format ratio", ("ratio", "colour", "format"), True),
    ],
)
def test_a_picture_that_differs_is_judged_anew_by_every_run(
    job_number: JobOf,
    differs: str,
    accept: tuple[str, ...],
    taken: bool,  # noqa: FBT001  a table's column
) -> None:
    row = known("failed", error_code="differs", differs=differs, **KEPT)
    work = decide(job_number(0), row, means=Means(accept=frozenset(accept)))
    assert work == (Work(job=job_number(0), picture=KEPT["file_name"], attempt=7) if taken else None)
    assert (decide(job_number(0), row, means=Means(accept=frozenset(accept)), retry_failed=True) is None) is not taken
    bought = decide(job_number(0), row, means=Means(accept=frozenset(accept)), retry_failed=True, pay_again=True)
    assert bought is not None
    assert bought.costs is not taken


@pytest.mark.parametrize("code", ["invalid_request", "moderated"])
def test_a_picture_whose_place_was_taken_is_put_there_by_the_run_that_finds_it_free(
    job_number: JobOf, code: str
) -> None:
    row = known("failed", error_code=code, **KEPT)
    assert decide(job_number(0), row) == Work(job=job_number(0), picture=KEPT["file_name"], attempt=7)
    work = decide(job_number(0), row, retry_failed=True)
    assert work == Work(job=job_number(0), picture=KEPT["file_name"], attempt=7, renew=True)


def test_kept_answers_are_read_again_the_latest_first(job_number: JobOf) -> None:
    def read(_: Job, name: str) -> Finished:
        if name.startswith("answers/j0-3"):
            return Finished(asset=Link(url=LINK))
        raise JobError(Code.MODERATED, "no such picture", final=True)

    row = known("failed", error_code="no_image", answers="answers/j0-9.txt\nanswers/j0-3.json\nanswers/j0-1.json")
    assert decide(job_number(0), row, means=Means(read=read)) is None
    for means, how in ((Means(read=read, newer=True), {}), (Means(read=read), {"retry_failed": True})):
        work = decide(job_number(0), row, means=means, **how)
        assert work is not None
        assert (work.attempt, work.costs) == (3, False)
        assert work.answer is not None
        assert work.answer() == Finished(asset=Link(url=LINK))
    none = row._replace(answers="answers/j0-9.txt")
    assert decide(job_number(0), none, means=Means(read=read, newer=True)) is None
    assert decide(job_number(0), none, means=Means(read=read), retry_failed=True) == Work(job=job_number(0))
    cut_off = decide(job_number(0), none._replace(status="pending", error_code=None), means=Means(read=read))
    assert cut_off is not None
    assert cut_off.verdict == (Code.MODERATED, "no such picture"), "a kill came before the ledger learned it"


def test_a_job_is_asked_again_once_over_all_runs(job_number: JobOf) -> None:
    """A kill may leave it pending after an answer without a picture."""
    row = known("pending", error_code="no_image", error="a text came", attempts=1, again=1)
    said = (Code.NO_IMAGE, "a text came")
    assert decide(job_number(0), row) == Work(job=job_number(0), used=1, again=1, answered=said)
    assert decide(job_number(0), row._replace(again=2)) == Work(job=job_number(0), verdict=said)
    lost = row._replace(status="unknown", error_code="unknown")
    assert decide(job_number(0), lost) == Work(job=job_number(0), used=1, resent=1, again=1)


def test_retry_failed_counts_a_request_that_may_have_been_billed_as_sent_again(job_number: JobOf) -> None:
    """So that of a job left failed by --on-unknown fail, a second unknown outcome is not sent a third time."""
    work = decide(job_number(0), known("failed", error_code="unknown", attempts=2), retry_failed=True)
    assert work == Work(job=job_number(0), resent=1)


@pytest.mark.parametrize(
    ("code", "link"),
    [(code, None) for code in ("bad_answer", "no_image", "moderated", "invalid_request", "server", "reference")]
    + [("internal", None), ("echoed_input", LINK)],
)
def test_retry_failed_starts_anew_where_a_link_is_no_help(job_number: JobOf, code: str, link: str | None) -> None:
    work = decide(job_number(0), known("failed", error_code=code, link=link, attempts=5), retry_failed=True)
    assert work == Work(job=job_number(0))


def test_a_done_job_without_its_file_is_fetched_again(job_number: JobOf) -> None:
    row = known("done", file_name="images/j0.png", link=LINK)
    assert decide(job_number(0), row, files=False) == Work(job=job_number(0), picture=Link(url=LINK))
    retried = decide(job_number(0), row, files=False, retry_failed=True)
    assert retried == Work(job=job_number(0), picture=Link(url=LINK), renew=True)


def test_a_done_job_without_file_and_link_is_made_again_only_when_asked(job_number: JobOf) -> None:
    row = known("done", file_name="images/j0.png")
    work = decide(job_number(0), row, files=False)
    assert work is not None
    assert work.verdict == (
        Code.DOWNLOAD,
        "its file images/j0.png was removed and no link to it is known; --retry-failed makes it again",
    )
    assert not work.costs
    assert decide(job_number(0), row, files=False, retry_failed=True) == Work(job=job_number(0))


def test_on_unknown(job_number: JobOf) -> None:
    row = known("unknown", attempts=2, error_code="unknown")
    again = decide(job_number(0), row)
    assert again == Work(job=job_number(0), used=2, resent=1)
    assert again.costs
    assert decide(job_number(0), row, on_unknown="hold") is None
    failed = decide(job_number(0), row, on_unknown="fail")
    assert failed is not None
    assert failed.verdict is not None
    assert (failed.verdict[0], failed.costs) == (Code.UNKNOWN, False)


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [("j1", True), ("j*", True), ("J*", False), ("k*", False), ("j[0-9]", True), ("?", False), ("*", True)],
)
@pytest.mark.parametrize("row", [None, known("pending")])
def test_only_is_a_glob_on_ids(job_number: JobOf, pattern: str, chosen: bool, row: Known | None) -> None:  # noqa: FBT001  pytest's
    assert (decide(job_number(1), row, only=pattern) is not None) is chosen


def test_a_broken_reference_costs_nothing(job_number: JobOf) -> None:
    broken = Reference(source="a.jpg", path="/a.jpg", fault="a.jpg is not there")
    work = decide(job_number(0, images=(broken,)), None)
    assert work is not None
    assert not work.costs


@pytest.mark.parametrize("asked", ALL)
@pytest.mark.parametrize("status", ["pending", "unknown", "failed"])
def test_a_task_is_asked_for_by_every_run_and_never_submitted(
    job_number: JobOf, status: str, asked: dict[str, Any]
) -> None:
    """Also where `--on-unknown fail` gave it up: to ask is free."""
    row = known(status, error_code=None if status == "pending" else "unknown", attempts=1, attempt=7, handle="t")
    work = decide(job_number(0), row._replace(in_flight=5 if status == "pending" else None, reserved=5), **asked)
    assert work is not None
    assert (work.handle, work.attempt, work.price, work.used, work.costs) == ("t", 7, 5, 1, False)


def test_a_pending_picture_is_bought_again_only_where_the_user_says_so(job_number: JobOf) -> None:
    work = decide(job_number(0), known("pending", link=LINK), retry_failed=True, pay_again=True)
    assert work is not None
    assert (work.costs, work.renew, work.pay_again) == (False, True, True)
    work = decide(job_number(0), known("pending", link=LINK), pay_again=True)
    assert work is not None
    assert not work.renew


def test_what_a_fallback_gave_is_taken_up_as_its_own(job_number: JobOf) -> None:
    """Its link is fetched by its provider's rules, and its answers are read as that one means them."""
    own = replace(job_number(0), provider="first", style="flux")
    way = Way(provider="other", style="openai", model="gpt")
    spec = json.dumps({"provider": "other", "style": "openai", "model": "gpt"})
    for status, more in (("failed", {"error_code": "download"}), ("done", {"file_name": "images/gone.jpg"})):
        work = decide(own, known(status, link=LINK, attempt=7, spec=spec, **more), files=False)
        assert work is not None
        assert (work.job, work.made_by) == (own, way)
    asked: list[Job] = []

    def read(job: Job, _: str) -> Finished:
        asked.append(job)
        raise JobError(Code.NO_IMAGE, "none")

    decide(own, known("pending", answers="answers/a-1.txt", again=1, spec=spec), means=Means(read=read))
    assert asked
    assert {(job.provider, job.style) for job in asked} == {("other", "openai")}

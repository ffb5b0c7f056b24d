"""The simulator's batches, taken through by our own providers: what comes back, what is billed, and each fault."""

from __future__ import annotations

import hashlib
import time
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.errors import Code, JobError
from batchflux.models import Job, Missing, Pending, Reference, Submitted
from tests.simulator.batching import KEY, Batching, jobs_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import aiohttp

    from batchflux.simulator import Simulator
    from tests.conftest import MakeJob
    from tests.simulator.conftest import Serve, Tools

    Open = Callable[..., Awaitable[tuple[Batching, Simulator]]]

MODELS = {"openai": "gpt-image-1.5", "gemini": "gemini-2.5-flash-image"}
APIS = pytest.mark.parametrize("api", MODELS)


@pytest.fixture
def opened(serve: Serve, session: aiohttp.ClientSession, tmp_path: Path) -> Open:
    """Start a simulator whose batches take no time, and what takes jobs through them."""

    async def start(api: str, fault: str = "", **options: Any) -> tuple[Batching, Simulator]:
        faults = {fault: 1} if fault else {}
        client = await serve(**{"batch_seconds": 0, "keys": [KEY], "faults": faults, **options})
        return Batching(api, f"{client.base}/{api}", session, tmp_path), client.simulator

    return start


def job_of(make_job: MakeJob, api: str, **fields: Any) -> Job:
    return make_job(style=api, provider=api, model=MODELS[api], **fields)


@APIS
async def test_a_batch_gives_every_picture_once_at_half_the_price(api: str, opened: Open, make_job: MakeJob) -> None:
    batching, simulator = await opened(api)
    jobs = jobs_of(job_of(make_job, api), 7)
    handle = await batching.create(jobs)
    closed = await batching.closed(handle)
    assert (closed.state, closed.error, len(closed.files)) == ("completed", None, 1)
    for _ in range(2):  # read again, it is the same, and counts once
        answers = await batching.answers(closed)
        pictures = batching.pictures(jobs, answers)
        assert pictures.keys() == {job.key for job in jobs}
        assert len(answers) == len({bytes(one) for one in pictures.values()}) == 7
        assert simulator.requests.billed == simulator.requests.answered == 7
    live = await batching.step(batching.provider.submit(jobs[0], 1))
    assert live.asset.data == pictures[jobs[0].key]  # type: ignore[union-attr]
    *halves, whole = [charge["credits"] for charge in simulator.requests.charges]
    assert halves == [pytest.approx(whole / 2)] * 7
    assert await batching.find("one") == handle
    assert await batching.find("two") is None
    assert isinstance(await batching.step(batching.api.cancel(handle)), Pending)
    assert simulator.requests.batches == {"created": 1, "completed": 1}
    secret = [request for request in batching.asked if request.keyless]
    assert [request.method for request in secret] == (["POST"] if api == "gemini" else [])


@APIS
async def test_photos_travel_in_the_lines(
    api: str, opened: Open, make_job: MakeJob, tools: type[Tools], tmp_path: Path
) -> None:
    batching, _ = await opened(api)
    data = tools.photo(200, 100)
    (tmp_path / "cup.png").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    photo = Reference(source="cup.png", path=str(tmp_path / "cup.png"), sha256=digest, media_type="image/png")
    more = {"mask": photo} if api == "openai" else {}
    jobs = jobs_of(job_of(make_job, api, images=(photo,), **more), 2)
    pictures = batching.pictures(jobs, await batching.answers(await batching.closed(await batching.create(jobs))))
    sizes = [tools.opened(picture).size for picture in pictures.values()]
    assert [width > height for width, height in sizes] == [True, True]  # as the photo is
    assert batching.api.kind(jobs[0]) != batching.api.kind(job_of(make_job, api)) or api == "gemini"


@APIS
async def test_requests_that_fail_are_told_as_single_ones_are(api: str, opened: Open, make_job: MakeJob) -> None:
    script = [
        {"match": "picture 0", "fault": "moderated"},
        {"match": "picture 1", "fault": "server_500"},
        {"match": "picture 2", "fault": "no_image"},
        {"match": "picture 3", "fault": "server_502_html"},
        {"match": "picture 4", "fault": "reset"},  # of a connection, which a line has none of
    ]
    batching, simulator = await opened(api, script=script)
    jobs = jobs_of(job_of(make_job, api), 6)
    closed = await batching.closed(await batching.create(jobs))
    assert len(closed.files) == (2 if api == "openai" else 1)
    pictures = batching.pictures(jobs, await batching.answers(closed))
    assert len(pictures) == 6
    codes = [found for job in jobs if isinstance(found := pictures[job.key], Code)]
    assert codes == [Code.MODERATED, Code.SERVER, Code.NO_IMAGE, Code.SERVER]
    assert simulator.requests.billed == 3  # no_image is


@APIS
async def test_half_of_an_expired_batch_is_there_or_none(api: str, opened: Open, make_job: MakeJob) -> None:
    batching, simulator = await opened(api, "batch_expired")
    jobs = jobs_of(job_of(make_job, api), 9)
    closed = await batching.closed(await batching.create(jobs))
    assert (closed.state, closed.error) == ("expired", None)
    answers = await batching.answers(closed)
    kept = 4 if api == "openai" else 0
    assert len(batching.pictures(jobs, answers)) == kept == simulator.requests.billed
    assert answers.count(None) == (5 if api == "openai" else 0)


@APIS
async def test_what_was_made_of_a_cancelled_batch_is_kept(api: str, opened: Open, make_job: MakeJob) -> None:
    batching, simulator = await opened(api, "batch_stuck")
    jobs = jobs_of(job_of(make_job, api), 40)
    handle = await batching.create(jobs)
    while simulator.requests.billed < 20:
        assert isinstance(await batching.step(batching.api.poll(handle)), Pending)
    for _ in range(3):  # however often it is asked for
        assert isinstance(await batching.step(batching.api.poll(handle)), Pending)
    assert isinstance(await batching.step(batching.api.cancel(handle)), Pending)
    closed = await batching.closed(handle)
    assert closed.state == "cancelled"
    made = batching.pictures(jobs, await batching.answers(closed))
    assert len(made) == simulator.requests.billed == 20
    assert await batching.step(batching.api.cancel(handle)) == (closed if api == "openai" else Pending())


@APIS
@pytest.mark.parametrize(
    ("fault", "comes"),
    [
        ("batch_cancelled", ("cancelled", 4, 4)),
        ("batch_half", ("completed", 4, 4)),
        ("batch_twice", ("completed", 8, 11)),
    ],
)
async def test_faults_of_what_a_batch_gives(
    api: str, fault: str, comes: tuple[str, int, int], opened: Open, make_job: MakeJob
) -> None:
    state, kept, billed = comes
    batching, simulator = await opened(api, fault)
    jobs = jobs_of(job_of(make_job, api), 8)
    closed = await batching.closed(await batching.create(jobs))
    assert closed.state == state
    answers = await batching.answers(closed)
    assert len(batching.pictures(jobs, answers)) == kept
    assert len([*filter(None, answers)]) == simulator.requests.billed == billed
    assert simulator.requests.faults == {fault: 1}


@APIS
@pytest.mark.parametrize(("fault", "code"), [("batch_failed", Code.INVALID_REQUEST), ("batch_quota", Code.QUOTA)])
async def test_a_batch_that_is_refused_says_why(
    api: str, fault: str, code: Code, opened: Open, make_job: MakeJob
) -> None:
    batching, simulator = await opened(api, fault)
    jobs = jobs_of(job_of(make_job, api), 2)
    if (api, fault) == ("gemini", "batch_quota"):
        with pytest.raises(JobError) as refused:
            await batching.create(jobs)
        error = refused.value
        assert simulator.requests.batches == {}
    else:
        closed = await batching.closed(await batching.create(jobs))
        assert (closed.state, closed.files) == ("failed", ())
        assert closed.error is not None
        error = closed.error
    assert (error.code, error.billed, simulator.requests.billed) == (code, False, 0)


@APIS
@pytest.mark.parametrize("fault", ["batch_dropped", "batch_lost", "batch_unlisted"])
async def test_a_lost_create_is_found_by_its_name_if_it_was_accepted(
    api: str, fault: str, opened: Open, make_job: MakeJob
) -> None:
    batching, simulator = await opened(api, fault)
    jobs = jobs_of(job_of(make_job, api), 2)
    with pytest.raises(JobError) as lost:
        await batching.create(jobs, "mine")
    assert lost.value.code is Code.UNKNOWN
    found = [await batching.find("mine") for _ in range(3)]
    if fault == "batch_dropped":
        assert found == [None] * 3
        assert simulator.requests.batches == {}
        return
    first = {"batch_lost": 0, "batch_unlisted": 2}[fault]
    assert found[:first] == [None] * first
    assert found[2] is not None
    closed = await batching.closed(found[2])
    assert len(batching.pictures(jobs, await batching.answers(closed))) == 2


@APIS
async def test_a_download_that_breaks_off_is_whole_the_next_time(
    api: str, opened: Open, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says the same, however much later it is."""
    seconds = count(1_800_000_000)
    monkeypatch.setattr(
        "batchflux.simulator.endpoint.time", SimpleNamespace(time=lambda: next(seconds), monotonic=time.monotonic)
    )
    batching, _ = await opened(api, "batch_cut")
    jobs = jobs_of(job_of(make_job, api), 6)
    closed = await batching.closed(await batching.create(jobs))
    cut = await batching.lines(closed.files[0])
    assert b"Error" in cut[-1]
    whole = await batching.lines(closed.files[0])
    assert len(whole) == 6
    assert whole[:3] == cut[:3]


@APIS
async def test_many_batches_are_listed_page_by_page(api: str, opened: Open, make_job: MakeJob) -> None:
    batching, _ = await opened(api)
    jobs = jobs_of(job_of(make_job, api), 1)
    file = await batching.upload(jobs)
    handles = []
    for number in range(103):
        created = await batching.step(batching.api.create(batching.api.kind(jobs[0]), file, f"b{number}"))
        assert isinstance(created, Submitted)
        handles.append(created.handle)
    before = len(batching.asked)
    assert await batching.find("b0") == handles[0]
    assert len(batching.asked) == before + 2
    assert await batching.find("b") is None


@APIS
async def test_a_key_sees_its_own_batches_only(api: str, opened: Open, make_job: MakeJob, session: Any) -> None:
    batching, _ = await opened(api, keys=[KEY, "sk-other"])
    handle = await batching.create(jobs_of(job_of(make_job, api), 1))
    request = batching.api.poll(handle)
    for key, status in (("sk-other", 404), ("sk-none", 400 if api == "gemini" else 401), (KEY, 200)):
        async with session.get(f"{batching.base}{request.url}", headers=batching.provider.authorize(key)) as answer:
            assert answer.status == status
    assert isinstance(await batching.step(batching.api.poll(f"{handle[:-1]}x")), Missing)
    assert isinstance(await batching.step(batching.api.answers("file-none")), Missing)


async def test_a_file_that_is_none_of_a_batch_is_refused(opened: Open, make_job: MakeJob, tmp_path: Path) -> None:
    batching, simulator = await opened("openai")
    jobs = jobs_of(job_of(make_job, "openai"), 2)
    twice = [jobs[0], jobs[0]]
    mixed = [jobs[0], *jobs_of(job_of(make_job, "openai"), 1, model="gpt-image-2")]
    for wrong, said in ((twice, "is the name of an earlier request"), (mixed, "must be for one model")):
        closed = await batching.closed(await batching.create(wrong))
        assert closed.state == "failed"
        assert closed.error is not None
        assert said in closed.error.message
    assert simulator.requests.billed == 0


async def test_what_is_known_of_old_batches_is_bounded(
    opened: Open, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchflux.simulator.batches.base._KEPT_LINES", 5)
    monkeypatch.setattr("batchflux.simulator.batches.base._IDLE_FILES", 2)
    batching, _ = await opened("openai")
    jobs = jobs_of(job_of(make_job, "openai"), 2)
    handles = [await batching.create(jobs, str(number)) for number in range(4)]
    closed = [await batching.closed(handle) for handle in handles[-2:]]
    assert [await batching.find(str(number)) for number in range(4)] == [None, None, *handles[-2:]]
    assert len(await batching.answers(closed[1])) == 2
    files = [await batching.upload(jobs) for _ in range(4)]
    with pytest.raises(JobError, match="No such File"):
        await batching.step(batching.api.create(batching.api.kind(jobs[0]), files[1], "old"))
    last = await batching.step(batching.api.create(batching.api.kind(jobs[0]), files[3], "new"))
    assert isinstance(last, Submitted)

"""Steps on workers elsewhere: what is paid is never repeated, what is free is done all the same, and no key travels."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchflux.engine.executors.opening import Elsewhere
from batchflux.engine.executors.remote_worker import Said, Step
from batchflux.errors import Code, JobError, UsageError
from batchflux.models import Finished, Inline, Link
from batchflux.providers import providers
from batchflux.testing.bank import opened, picture_of
from batchflux.transport import CallTimes
from tests.waiting import until
from tests.workers import HELD, KEY_NAME, MARK, PLACE, NearWorker, NearWorkers, near_workers, remote_for, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from batchflux.engine.executors.remote import RemoteExecutor
    from batchflux.models import HttpRequest, Job
    from batchflux.testing.bank import Bank
    from tests.conftest import MakeJob

KEY = "sk-canary-5f1c0ffee0ddba11"
RELAY = providers()["flux-relay", "standard"]


@pytest.fixture
def bank() -> Iterator[Bank]:
    with opened() as made:
        yield made


class Scene:
    """Two workers, and an executor over them."""

    def __init__(self, executor: RemoteExecutor, workers: NearWorkers, folder: Path, job: Job) -> None:
        self.executor, self.folder, self.job = executor, folder, job
        self.workers = [one for one in workers.all if isinstance(one, NearWorker)]

    async def ask(self, request: HttpRequest) -> object:
        exchanged = await self.executor.exchange(request, provider=RELAY, secret=KEY, at=PLACE)
        return exchanged.reply

    async def submit(self, said: str = "b64") -> object:
        return await self.ask(RELAY.submit(replace(self.job, prompt=f"job mug #{said}"), 1))

    async def fails(self, said: str = "b64") -> JobError:
        with pytest.raises(JobError) as caught:
            await self.submit(said)
        return caught.value

    async def inline(self) -> Inline:
        reply = await self.submit()
        assert isinstance(reply, Finished)
        assert isinstance(reply.asset, Inline)
        return reply.asset

    def all_calls(self) -> list[str]:
        return [name for worker in self.workers for name in worker.calls]


async def opened_scene(
    stack: AsyncExitStack, folder: Path, url: str, job: Job, mark: str = MARK, **more: object
) -> Scene:
    (folder / ".spool").mkdir(parents=True)
    (folder / MARK).touch()
    workers = await near_workers(stack, settings_for(folder, url))
    return Scene(await remote_for(stack, folder, url, KEY, workers, **more), workers, folder, job)


@pytest.fixture
async def scene(bank: Bank, tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setenv(KEY_NAME, KEY)
    job = make_job(style="standard", provider="bfl", output_format="png")
    async with AsyncExitStack() as stack:
        yield await opened_scene(stack, tmp_path / "out", bank.url, job)
    HELD.clear()


async def test_bytes_of_an_answer_stay_where_they_came_until_they_are_kept(scene: Scene, bank: Bank) -> None:
    picture = await scene.inline()
    assert picture.data == b""
    name = await scene.executor.keep(scene.job, picture)
    assert (scene.folder / name).read_bytes() == picture_of("mug")
    collected = await scene.executor.collect(scene.job, name, 1)
    assert (scene.folder / collected.stored.file_name).read_bytes() == picture_of("mug")
    assert scene.all_calls() == ["leave", "answer", "keep", "collect"]
    assert bank.seen[0].headers["Authorization"] == f"Bearer {KEY}"
    assert not any(KEY.encode() in worker.got for worker in scene.workers)


@pytest.mark.parametrize("lost_in", ["leave", "answer"])
async def test_a_paid_request_of_a_lost_worker_is_unknown_and_never_repeated(
    scene: Scene, bank: Bank, lost_in: str
) -> None:
    for worker in scene.workers:
        worker.loses = lost_in
    error = await scene.fails()
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    await until(lambda: bank.posts)  # it may be on its way
    assert bank.posts.total() == 1


async def test_a_word_that_comes_late_is_not_followed(scene: Scene, bank: Bank) -> None:
    """A worker that stood still must not catch up: the turns of what it was told have passed."""
    for worker in scene.workers:
        worker.late = 5.0
    error = await scene.fails()
    assert (error.code, error.billed, bank.posts.total()) == (Code.NETWORK, False, 0)


async def test_nothing_is_sent_while_nobody_is_there(scene: Scene, bank: Bank) -> None:
    for worker in scene.workers:
        worker.there = False
    error = await scene.fails()
    assert (error.code, error.billed, bank.posts.total()) == (Code.NETWORK, False, 0)


async def test_a_free_step_of_a_lost_worker_is_as_if_the_network_were_gone(scene: Scene) -> None:
    scene.workers[0].loses = scene.workers[1].loses = "ask"
    request = replace(RELAY.submit(scene.job, 1), repeatable=True)
    with pytest.raises(JobError) as caught:
        await scene.ask(request)
    assert (caught.value.code, caught.value.billed) == (Code.NETWORK, False)


async def test_a_worker_that_stands_still_is_waited_for_no_longer_than_a_call_may_take(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchflux.engine.executors.remote.GRACE", 0.05)
    monkeypatch.setattr(scene.executor, "_times", {"bfl": CallTimes(0.05)})
    for worker in scene.workers:
        worker.hangs = "answer"
    error = await scene.fails()
    assert (error.code, error.billed) == (Code.UNKNOWN, True)
    assert "give_up" in scene.all_calls()
    await asyncio.gather(*(worker.told for worker in scene.workers if "give_up" in worker.calls))


async def test_a_picture_that_is_lost_with_its_worker_is_unknown(scene: Scene) -> None:
    picture = await scene.inline()
    for worker in scene.workers:
        worker.lose()
    with pytest.raises(JobError) as caught:
        await scene.executor.keep(scene.job, picture)
    assert (caught.value.code, caught.value.billed) == (Code.UNKNOWN, True)


async def test_a_picture_that_was_kept_by_a_lost_worker_is_taken_up(scene: Scene) -> None:
    picture = await scene.inline()
    for worker in scene.workers:
        worker.loses = "keep"
    name = await scene.executor.keep(scene.job, picture)
    assert (scene.folder / name).read_bytes() == picture_of("mug")
    collected = await scene.executor.collect(scene.job, name, 1)
    assert (scene.folder / collected.stored.file_name).read_bytes() == picture_of("mug")


async def test_a_lost_download_is_done_here(scene: Scene) -> None:
    reply = await scene.submit("url")
    assert isinstance(reply, Finished)
    assert isinstance(reply.asset, Link)
    for worker in scene.workers:
        worker.loses = "collect"
    collected = await scene.executor.collect(scene.job, reply.asset, 1)
    assert (scene.folder / collected.stored.file_name).read_bytes() == picture_of("mug")


async def test_what_would_carry_a_secret_is_done_here(
    bank: Bank, tmp_path: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_NAME, KEY)
    job = make_job(style="standard", provider="bfl", prompt="job mug #url whsec-of-a-hook")
    async with AsyncExitStack() as stack:
        secrets = [KEY, "whsec-of-a-hook"]
        scene = await opened_scene(stack, tmp_path / "out", bank.url, job, secrets=secrets, fetched_here=("bfl",))
        reply = await scene.ask(RELAY.submit(job, 1))
        assert isinstance(reply, Finished)
        assert isinstance(reply.asset, Link)
        await scene.executor.collect(job, reply.asset, 1)
        assert scene.all_calls() == []


async def test_a_file_that_is_not_there_is_sent_from_here(scene: Scene) -> None:
    none = str(scene.folder / "none.png")
    step = Step(request=b"", provider=("flux-relay", "standard"), at=PLACE, key=None, files=(none,))
    assert await scene.workers[0].call("ask", step) is Said.ABSENT
    assert await scene.workers[0].call("leave", 1, step, scene.workers[0].its_clock() + 1) is Said.ABSENT


async def test_numbers_of_one_name_are_brought_to_their_places_by_one_worker(scene: Scene, bank: Bank) -> None:
    reply = await scene.submit("url")
    assert isinstance(reply, Finished)
    assert isinstance(reply.asset, Link)
    stored = (await scene.executor.collect(scene.job, reply.asset, 1)).stored
    for worker in scene.workers:
        worker.calls.clear()
    told = await scene.executor.beside(scene.job, stored, [Inline(data=picture_of("cup"))])
    assert told == "the answer had another picture, kept as images/mug_2.png"
    other = replace(scene.job, id="mug_2", key="ab" * 32, file_name="images/mug_2.png")
    await scene.executor.collect(other, reply.asset, 2)
    assert sorted(worker.calls for worker in scene.workers) == [[], ["beside", "collect"]]


async def test_a_key_that_is_not_set_there_is_said(tmp_path: Path, bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_NAME, raising=False)
    (tmp_path / "out").mkdir()
    worker = NearWorker(settings_for(tmp_path / "out", bank.url), 0)
    greeting = await worker.worker.hello()
    assert greeting.fault is not None
    assert f"the environment variable {KEY_NAME} is not set" in greeting.fault


async def test_another_version_there_is_said(tmp_path: Path, bank: Bank) -> None:
    (tmp_path / "out").mkdir()
    worker = NearWorker(settings_for(tmp_path / "out", bank.url, version="0.0.1"), 0)
    greeting = await worker.worker.hello()
    assert greeting.fault is not None
    assert greeting.fault.endswith("and 0.0.1 here: install the same version on all nodes")


@pytest.mark.parametrize("on", ["dask", "rays://head", "ray:", "ray://"])
def test_what_is_no_cluster_is_said(on: str) -> None:
    with pytest.raises(UsageError, match="allowed is ray, ray://auto and ray://HOST:PORT"):
        Elsewhere(on=on)


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'batchflux\[ray\]'"):
        Elsewhere(on="ray")

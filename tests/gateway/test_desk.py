"""The desk: what joins a call that is there, what is a new one, what is tried again; by what a bank bills."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest

from batchflux.gateway import desk
from batchflux.gateway.clients import digest_of
from batchflux.planner import load_manifest
from batchflux.runner import RunOptions, run, stream
from batchflux.testing.bank import KEY, PRICE, picture_of
from tests.gateway.conftest import at_once
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.gateway.conftest import Answer, Front, Gateways

AGAIN = {"x-stainless-retry-count": "1"}


def urls(answer: Answer) -> list[str]:
    """Return the links of an answer that has pictures."""
    assert answer.status == 200, answer.json
    return [one["url"] for one in answer.json["data"]]


async def left(front: Front, call: Coroutine[Any, Any, Answer], there: Callable[[], object]) -> None:
    """Make a call that is left once it is there, as far as the gateway sees it."""
    waiting, asking = front.desk.waiting, asyncio.create_task(call)
    await until(there)
    asking.cancel()
    await until(lambda: asking.done() and front.desk.waiting == waiting)


async def look(front: Front, url: str) -> bytes:
    """Fetch a picture by its link."""
    async with front.http.get(url) as answer:
        assert answer.status == 200
        return await answer.read()


async def test_a_call_gives_its_picture_by_a_link_and_is_on_record(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        answer = await front.picture("job a")
        assert await look(front, urls(answer)[0]) == picture_of("a")
        assert answer.headers["x-batchflux-cost"] == str(PRICE)
        assert answer.headers["x-batchflux-currency"] == "CNY"
    rows = gateways.rows()
    assert [(row["status"], row["prompt"], row["tags.client"]) for row in rows] == [("done", "job a", "local")]
    assert answer.headers["x-batchflux-jobs"] == rows[0]["id"]


async def test_the_same_while_it_is_made_joins_and_afterwards_is_another_picture(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first, second = await at_once(gateways.bank, front.desk, front.picture("job a"), front.picture("job a"))
        assert urls(first) == urls(second)
        assert gateways.bank.billed == {"a": 1}
        third = await front.picture("job a")
        assert urls(third) != urls(first)
        assert "x-batchflux-joined" not in third.headers
        assert gateways.bank.billed == {"a": 2}


async def test_what_a_client_asks_again_joins_its_last_call(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first = await front.picture("job a")
        second = await front.picture("job a", headers=AGAIN)
        assert urls(first) == urls(second)
        assert second.headers["x-batchflux-joined"] == "true"
        other = await front.picture("job a", headers=AGAIN, seed=7)
        assert urls(other) != urls(first), "a retry of what was never asked before is a call"
        assert gateways.bank.billed == {"a": 2}


async def test_a_mark_stands_for_one_call_for_ever(gateways: Gateways) -> None:
    mark = {"Idempotency-Key": "k-1"}
    async with gateways.opened() as front:
        first = await front.picture("job a", headers=mark)
    async with gateways.opened() as front:
        assert [url.rpartition("/")[2] for url in urls(await front.picture("job a", headers=mark))] == [
            url.rpartition("/")[2] for url in urls(first)
        ]
        reused = await front.picture("job b", headers=mark)
        assert (reused.status, reused.code) == (400, "idempotency_key_reused")
        other = await front.picture("job a", headers={"Idempotency-Key": "k-2"})
        assert urls(other) != urls(first)
    assert gateways.bank.billed == {"a": 2}


async def test_two_marks_at_once_are_two_calls(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        marks = ({"Idempotency-Key": mark} for mark in ("a", "b", "a"))
        calls = (front.picture("job a", headers=mark) for mark in marks)
        answers = await at_once(gateways.bank, front.desk, *calls)
        assert len({urls(answer)[0] for answer in answers}) == 2
    assert gateways.bank.billed == {"a": 2}


async def test_a_client_that_leaves_finds_its_picture_when_it_is_back(gateways: Gateways) -> None:
    gateways.bank.held = lambda: True
    async with gateways.opened() as front:
        await left(front, front.picture("job a"), lambda: gateways.bank.posts["a"])
        gateways.bank.held = None
        assert urls(await front.picture("job a", headers=AGAIN))
        assert gateways.bank.billed == {"a": 1}
    async with gateways.opened() as front:  # and after a restart
        assert urls(await front.picture("job a", headers=AGAIN))
    assert gateways.bank.billed == {"a": 1}


async def test_several_pictures_are_jobs_of_one_call(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first = await front.picture("job a", n=3)
        assert len(set(urls(first))) == 3
        assert urls(await front.picture("job a", n=3, headers=AGAIN)) == urls(first)
        assert first.headers["x-batchflux-cost"] == "0.42"
    assert gateways.bank.billed == {"a": 3}


async def test_a_lost_answer_is_not_paid_again_for_who_asks_again(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first = await front.picture("job a #lost")
        assert (first.status, first.code) == (400, "unknown_outcome")
        second = await front.picture("job a #lost", headers=AGAIN)
        assert (second.status, second.code) == (400, "unknown_outcome")
        assert gateways.bank.billed == {"a": 1}
        assert gateways.bank.posts == {"a": 1}


async def test_what_cost_nothing_is_tried_again_as_the_same_call(gateways: Gateways) -> None:
    async with gateways.opened(limits=", attempts: 1, max_consecutive_failures: 100") as front:
        first = await front.picture("job a #500*1 #url")
        assert (first.status, first.code) == (503, "provider_failed")
        second = await front.picture("job a #500*1 #url", headers=AGAIN)
        assert urls(second)
    assert [row["status"] for row in gateways.rows()] == ["done"]
    assert gateways.bank.billed == {"a": 1}


async def test_what_was_refused_is_not_sent_again(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        for headers in ({}, AGAIN):
            answer = await front.picture("job a #moderated", headers=headers)
            assert (answer.status, answer.code) == (400, "content_policy_violation")
    assert gateways.bank.posts == {"a": 1}


@pytest.mark.slow  # it is fetched several times, at growing intervals
async def test_a_picture_that_could_not_be_fetched_is_fetched_for_who_asks_again(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first = await front.picture("job a #link404")
        assert (first.status, first.code) == (400, "download_failed")
        gateways.bank.prompts["a"] = "job a"
        assert urls(await front.picture("job a #link404", headers=AGAIN))
    assert gateways.bank.billed == {"a": 1}


async def test_the_budget_is_never_passed_whoever_asks_at_once(gateways: Gateways) -> None:
    async with gateways.opened(limits=f", budget: {PRICE * 5:.2f}", at_once=50) as front:
        answers = await at_once(gateways.bank, front.desk, *(front.picture(f"job j{n}") for n in range(30)))
        codes = [answer.status for answer in answers]
        assert codes.count(200) == 5
        assert {answer.code for answer in answers if answer.status != 200} == {"insufficient_quota"}
        assert (await front.picture("job more")).status == 429
    assert gateways.bank.billed.total() == 5


async def test_each_client_has_its_own_money_over_all_runs(gateways: Gateways) -> None:
    keys = "".join(
        f"- name: {name}\n  sha256: {digest_of(key).hex()}\n  budget: {PRICE * most:.2f}\n"
        for name, key, most in (("one", "sk-one", 2), ("two", "sk-two", 1))
    )
    one, two = ({"Authorization": f"Bearer sk-{name}"} for name in ("one", "two"))
    async with gateways.opened(keys=keys) as front:
        calls = (front.picture(f"job j{n}", headers=one) for n in range(8))
        answers = await at_once(gateways.bank, front.desk, *calls)
        assert sorted(answer.status for answer in answers) == [200] * 2 + [429] * 6
    async with gateways.opened(keys=keys) as front:
        assert (await front.picture("job k", headers=one)).code == "insufficient_quota"
        assert (await front.picture("job k", headers=two)).status == 200
        assert (await front.picture("job l", headers=two)).code == "insufficient_quota"
        assert (await front.picture("job l")).code == "invalid_api_key"
    assert gateways.bank.billed.total() == 3


async def test_a_restart_does_not_forget_a_rate(gateways: Gateways) -> None:
    keys = f"- name: one\n  sha256: {digest_of('sk-one').hex()}\n  rate: 3/h\n"
    one = {"Authorization": "Bearer sk-one"}
    for words in ("ab", "c"):
        async with gateways.opened(keys=keys) as front:
            for word in words:
                assert (await front.picture(f"job {word}", headers=one)).status == 200
    async with gateways.opened(keys=keys) as front:
        refused = await front.picture("job d", headers=one)
    assert refused.status == 429
    assert refused.code == "rate_limit_exceeded"
    assert gateways.bank.billed.total() == 3


async def test_one_client_does_not_join_the_call_of_another(gateways: Gateways) -> None:
    keys = "".join(f"- name: {name}\n  sha256: {digest_of(f'sk-{name}').hex()}\n" for name in ("one", "two"))
    async with gateways.opened(keys=keys) as front:
        marks = ({"Authorization": f"Bearer sk-{name}", "Idempotency-Key": "same"} for name in ("one", "two"))
        calls = (front.picture("job a", headers=mark) for mark in marks)
        answers = await at_once(gateways.bank, front.desk, *calls)
        assert urls(answers[0]) != urls(answers[1])
    assert gateways.bank.billed == {"a": 2}


async def test_who_has_gone_before_the_request_left_is_not_charged(
    gateways: Gateways, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "PATIENCE", 0.0)
    gateways.bank.held = lambda: True
    async with gateways.opened(at_once=1) as front:
        first = asyncio.create_task(front.picture("job a"))
        await until(lambda: gateways.bank.posts["a"])
        await left(front, front.picture("job b"), lambda: front.desk.waiting == 2)
        gateways.bank.held = None
        assert urls(await first)
        assert urls(await front.picture("job c"))
        assert gateways.bank.billed == {"a": 1, "c": 1}
        assert urls(await front.picture("job b", headers=AGAIN)), "who is back gets it"


async def test_a_manifest_that_is_run_into_the_same_folder_keeps_the_calls(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        answer = await front.picture("job a")
    text = (gateways.folder / "g.yaml").read_text() + "\njobs:\n  - {id: own, prompt: job own}\n"
    (gateways.folder / "m.yaml").write_text(text)
    environ = {"TEST_KEY": KEY}
    loaded = load_manifest(gateways.folder / "m.yaml", out=str(gateways.folder / "out"), environ=environ)
    summary = await run(loaded, RunOptions(environ=environ))
    assert (summary.exit_code, summary.jobs["unlisted"]) == (0, 0)
    rows = gateways.rows()
    assert [row["id"] for row in rows] == ["own", answer.headers["x-batchflux-jobs"]]
    assert gateways.bank.billed == {"a": 1, "own": 1}


async def test_pictures_that_could_be_made_are_given_and_the_others_named(gateways: Gateways) -> None:
    async with gateways.opened(at_once=1) as front:
        answer = await front.picture("job a #moderated*1 #url", n=3)
        chat = {"model": "tuzi", "n": 2, "messages": [{"role": "user", "content": "job b #moderated*1 #url"}]}
        said = await front.post("/chat/completions", chat)
    assert len(urls(answer)) == 2
    assert answer.headers["x-batchflux-missing"] == "content_policy_violation"
    content = said.json["choices"][0]["message"]["content"]
    assert content.startswith("> 1 more could not be made: content_policy_violation\n\n![image](http")


async def test_of_several_failures_one_that_may_be_billed_decides(gateways: Gateways) -> None:
    async with gateways.opened(limits=", attempts: 1, max_consecutive_failures: 100", at_once=1) as front:
        answer = await front.picture("job a #500*1 #reset", n=2)
    assert (answer.status, answer.code) == (400, "unknown_outcome")


async def test_pictures_that_are_in_a_bucket_alone_are_answered_and_shown(gateways: Gateways) -> None:
    bucket = gateways.folder / "bucket"
    bucket.mkdir()
    more = f"output: {{mirror: 'file://{bucket}', keep_local: false}}\n"
    mark = {"Idempotency-Key": "k"}
    async with gateways.opened(more=more) as front:
        answer = await front.picture("job a", headers=mark)
        file = gateways.folder / "out" / "images" / f"{answer.headers['x-batchflux-jobs']}.jpg"
        await until(lambda: not file.exists() and not file.with_suffix(".png").exists())
        assert await look(front, urls(answer)[0]) == picture_of("a")
        again = await front.post("/images/generations", {"prompt": "job a"}, Idempotency_Key="k")
        assert base64.b64decode(again.json["data"][0]["b64_json"]) == picture_of("a")
        edit = {"prompt": "job b", "image": urls(answer)[0], "response_format": "url"}
        assert (await front.post("/images/edits", edit)).status == 200
    assert gateways.bank.billed == {"a": 1, "b": 1}


async def test_a_provider_that_is_away_is_not_waited_for_as_a_night_waits(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        assert front.run.session.manifest.limits.patience == stream.PATIENCE
    gateways.bank.url = "http://127.0.0.1:9"
    async with gateways.opened(limits=", patience: 1s") as front:
        refused = await front.picture("job a")
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (503, "provider_failing", "30")


async def test_an_answer_is_known_by_its_link_whatever_the_server_was_called_then(gateways: Gateways) -> None:
    async with gateways.opened() as front:
        first = urls(await front.picture("job a"))[0]
        name = first.rpartition("/")[2]
        forged = f"{name[:16]}-{'a' * 32}.png"
        for number, (base, known) in enumerate(
            [("http://gateway.internal:8790", True), ("https://a.example.com/pictures", True), ("http://b", False)]
        ):
            link = f"{base}/images/{name if known else forged}"
            said = [{"role": "user", "content": "job a"}, {"role": "assistant", "content": f"![image]({link})"}]
            asked = [*said, {"role": "user", "content": f"job b{number} make it blue"}]
            answer = await front.post("/chat/completions", {"messages": asked})
            if known:
                assert answer.status == 200, answer.json
                assert answer.headers["x-batchflux-reference"].startswith("the last picture of the conversation")
            else:  # it leads elsewhere, to a picture that cannot be had
                assert answer.status == 400, answer.json
    assert [row["images"].count("images/") for row in gateways.rows()][:3] == [0, 1, 1]


async def test_what_params_drop_leaves_out_is_told_with_what_the_reader_did(gateways: Gateways) -> None:
    bank = gateways.bank
    at = f"base_url: {bank.url}, keys: [TEST_KEY], currency: CNY"
    providers = f"{{a: {{api: flux-relay, {at}, price: 1}}, b: {{api: flux-relay, {at}, price: 1, params: drop}}}}"
    async with gateways.opened(manifest=f"version: 1\nname: g\nproviders: {providers}\n") as front:
        asked: dict[str, Any] = {"negative_prompt": "people", "style": "vivid"}
        refused = await front.picture("job a", model="a", **asked)
        assert (refused.status, refused.json["error"]["param"]) == (400, "negative_prompt")
        made = await front.picture("job a", model="b", **asked)
        assert made.headers["x-batchflux-dropped"] == "style, negative_prompt"
        again = await front.picture("job a", model="b", headers=AGAIN, **asked)
        assert again.headers["x-batchflux-dropped"] == "style, negative_prompt"
        body = {"prompt": "job b", "model": "b", "stream": True, **asked}
        async with front.http.post(f"{front.url}/images/generations", json=body) as streamed:
            assert streamed.headers["x-batchflux-dropped"] == "style, negative_prompt"
        plain = await front.picture("job c", model="b")
        assert "x-batchflux-dropped" not in plain.headers


async def test_a_mark_is_of_so_many_pictures(gateways: Gateways) -> None:
    mark = {"Idempotency-Key": "k"}
    async with gateways.opened() as front:
        assert (await front.picture("job a", headers=mark)).status == 200
        for n in (2, 3):
            assert (await front.picture("job a", n=n, headers=mark)).code == "idempotency_key_reused"
        assert (await front.picture("job a", headers=mark)).status == 200
    assert gateways.bank.billed == {"a": 1}

"""The policy, pure; and its adapter, which is shared by all jobs at once."""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.engine.retry import Retrying, RetryPolicy, Tries
from batchflux.engine.shutdown import Halted
from batchflux.errors import Code, JobError

RETRIED = {Code.SERVER, Code.NETWORK, Code.TIMEOUT, Code.BAD_ANSWER, Code.NO_IMAGE}
FREE = {Code.RATE_LIMITED, Code.AUTH, Code.QUOTA}


def error(code: Code, retry_after: float | None = None) -> JobError:
    return JobError(code, f"it says {code}", retry_after=retry_after)


@pytest.mark.parametrize("code", list(Code))
def test_which_codes_are_tried_again(code: Code) -> None:
    delay = RetryPolicy().api(Tries(used=1), error(code), Random(1))
    assert (delay is not None) is (code in RETRIED | FREE | {Code.UNKNOWN})
    spent = RetryPolicy(attempts=1).api(Tries(used=1), error(code), Random(1))
    assert (spent is not None) is (code in FREE)
    fetched = RetryPolicy().fetch(Tries(used=1), error(code), Random(1))
    assert (fetched is not None) is (code in {Code.DOWNLOAD, Code.BAD_IMAGE})
    assert RetryPolicy(attempts=1).fetch(Tries(used=1), error(code), Random(1)) is None


@pytest.mark.parametrize("code", sorted(FREE))
def test_a_rate_limit_and_a_dead_key_cost_no_wait_of_their_own(code: Code) -> None:
    assert RetryPolicy().api(Tries(used=1), error(code, 60.0), Random(1)) == 0.0


@given(used=st.integers(1, 10_000), base=st.floats(0.01, 10), cap=st.floats(0.01, 600), seed=st.integers())
def test_backoff_is_jittered_doubles_and_is_capped(used: int, base: float, cap: float, seed: int) -> None:
    policy = RetryPolicy(attempts=10**6, base=base, cap=cap)
    delay = policy.api(Tries(used=used), error(Code.SERVER), Random(seed))
    assert delay is not None
    assert 0.0 <= delay <= min(cap, base * 2 ** min(used - 1, 40))


def test_backoff_uses_all_of_its_range() -> None:
    random, policy = Random(7), RetryPolicy(base=1.0, cap=60.0)
    delays = [policy.api(Tries(used=3), error(Code.SERVER), random) or 0.0 for _ in range(1000)]
    assert 0.0 <= min(delays) < 0.2
    assert 3.8 < max(delays) <= 4.0


@pytest.mark.parametrize("code", [Code.SERVER, Code.UNKNOWN])
def test_retry_after_is_the_least_wait(code: Code) -> None:
    assert RetryPolicy().api(Tries(used=1), error(code, 77.0), Random(1)) == 77.0
    later = RetryPolicy(base=1000.0, cap=1000.0).api(Tries(used=1), error(code, 0.001), Random(1))
    assert later is not None
    assert later > 1


def test_retry_after_holds_for_downloads_too() -> None:
    assert RetryPolicy().fetch(Tries(used=1), error(Code.DOWNLOAD, 77.0), Random(1)) == 77.0


@pytest.mark.parametrize("on_unknown", ["hold", "fail"])
def test_an_unknown_outcome_is_sent_again_only_when_asked(on_unknown: str) -> None:
    policy = RetryPolicy(on_unknown="hold" if on_unknown == "hold" else "fail")
    assert policy.api(Tries(used=1), error(Code.UNKNOWN), Random(1)) is None


def test_an_unknown_outcome_is_sent_again_once() -> None:
    tries = Tries(used=1)
    assert RetryPolicy().api(tries, error(Code.UNKNOWN), Random(1)) is not None
    assert tries.resent == 1
    assert RetryPolicy().api(tries, error(Code.UNKNOWN), Random(1)) is None


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


async def test_many_jobs_share_one_adapter() -> None:
    """Each job's own tries decide, although all go through one AsyncRetrying."""
    retrying = Retrying(lambda tries, _: 0.0 if tries.used < 5 else None, no_sleep)
    seen: dict[int, int] = {}

    async def job(number: int) -> int:
        tries = Tries()

        async def step() -> int:
            await asyncio.sleep(0)
            tries.used += 1
            seen[number] = tries.used
            if tries.used <= number % 7:
                raise error(Code.SERVER)
            return number

        return await retrying(step, tries)

    ended = await asyncio.gather(*map(job, range(200)), return_exceptions=True)
    for number, result in enumerate(ended):
        if number % 7 < 5:
            assert result == number
            assert seen[number] == number % 7 + 1
        else:
            assert isinstance(result, JobError)
            assert seen[number] == 5


@pytest.mark.parametrize("fault", [Halted(), KeyError("bug"), asyncio.CancelledError()])
async def test_what_is_no_jobs_failure_is_not_tried_again(fault: BaseException) -> None:
    calls = 0

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise fault

    with pytest.raises(type(fault)):
        await Retrying(lambda *_: 0.0, no_sleep)(step, Tries())
    assert calls == 1


async def test_the_last_error_is_raised_as_it_was() -> None:
    last = error(Code.SERVER)

    async def step() -> None:
        raise last

    with pytest.raises(JobError) as caught:
        await Retrying(lambda *_: None, no_sleep)(step, Tries())
    assert caught.value is last


@pytest.mark.parametrize("allowed", [0, 1, 4])
async def test_a_step_is_tried_no_more_often_than_was_decided(allowed: int) -> None:
    """Each try may cost money: the first failure is judged before the step is performed again."""
    calls, judged = 0, list[int]()

    async def step() -> None:
        nonlocal calls
        calls += 1
        raise error(Code.SERVER)

    def decide(*_: object) -> float | None:
        judged.append(calls)
        return 0.0 if len(judged) <= allowed else None

    with pytest.raises(JobError):
        await Retrying(decide, no_sleep)(step, Tries())
    assert calls == 1 + allowed
    assert judged == list(range(1, 2 + allowed))


async def test_the_wait_is_what_was_decided() -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    delays = iter([3.5, 0.0, None])

    async def step() -> None:
        raise error(Code.SERVER)

    with pytest.raises(JobError):
        await Retrying(lambda *_: next(delays), sleep)(step, Tries())
    assert waits == [3.5, 0.0]

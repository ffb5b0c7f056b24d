"""What ledgers tell of a provider: how long its calls took, what they came to, when it was not there, what it allows.

Attempts are counted one by one. Those that failed in a row because nobody was there are an outage, and drawn as one;
all others may come to any call. Of a batch nothing is learned, nor of an attempt whose end nobody saw.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from math import inf
from operator import sub
from statistics import fmean, median
from typing import TYPE_CHECKING, NamedTuple

from batchflux.errors import RULES, Code
from batchflux.ledger.lessons import lessons_of
from batchflux.ledger.tables import get_meta
from batchflux.night.weather import FETCHED, Allowed, Call, Climate, Draws, Outage, Past
from batchflux.planner.estimates import SECONDS_A_CALL

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from batchflux.manifest import Manifest, ProviderConfig

MOST = 200_000  # attempts of a folder that are looked at, the latest
ROW, ROW_SECONDS = 5, 3.0  # failures in a row, over so many seconds, that are an outage
PAUSE = 600.0  # seconds without a request, in which nothing was at work
LONGEST_RECORD = 5.0  # seconds; what takes longer was no writing to the ledger
_EMPTY, _LONG = 4.0, 20.0  # times a record: slots were not waited for if most gaps are as long; and one that is no gap
ENOUGH = 20  # calls of a model and style, to draw from them alone
RANGE = (0.5, 1.5)  # of the seconds that a call is assumed to take
UNSEEN = frozenset({Code.REFERENCE, Code.INTERNAL, Code.UNSAFE_URL})  # they say nothing of the provider


class Seen(NamedTuple):
    """One attempt that has ended: times in epoch seconds, `cost` in nanounits, None where no answer told."""

    provider: str
    model: str
    style: str
    sent_at: float
    ended_at: float
    state: str
    code: str | None
    billed: str | None
    cost: int | None
    status: str
    api_seconds: float | None
    download_seconds: float | None

    @property
    def seconds(self) -> float:
        """How long it was on its way, its record in the ledger included."""
        return max(self.ended_at - self.sent_at, 0.0)

    @property
    def record(self) -> float | None:
        """How long its record took, where that can be told."""
        spare = None if self.state != "captured" or not self.api_seconds else self.seconds - self.api_seconds
        return spare if spare is not None and 0.0 <= spare <= LONGEST_RECORD else None

    @property
    def failed(self) -> Code | None:
        """By what the call failed; None: it gave a picture, or an unknown code of a later version."""
        with suppress(ValueError):
            return None if self.state == "captured" or self.code is None else Code(self.code)
        return None

    def call(self, record: float) -> Call:
        """Return it as a call that is drawn; its record took so many seconds."""
        own = self.api_seconds if self.record is not None else None
        seconds = max(self.seconds - record, 0.0) if own is None else own
        billed = self.failed is not None and self.billed in {"maybe", "yes"}
        return Call(seconds=seconds, code=self.failed, billed=billed, cost=self.cost)

    def fetch(self) -> Call | None:
        """Return what became of its picture; None: that is not known."""
        if self.state != "captured" or self.status not in {"done", "failed"}:
            return None
        code = next((code for code in FETCHED if code.value == self.code), None)
        return Call(seconds=self.download_seconds or 0.0, code=code)


def seen_in(ledger: sqlite3.Connection) -> list[Seen]:
    """Return the attempts of a folder that have ended, in the order in which they were sent; of format 1 none."""
    made = {name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "submissions" not in made:
        return []
    live = " AND submission NOT IN (SELECT submission FROM batches)" if "batches" in made else ""
    query = (
        "SELECT provider, model, COALESCE(json_extract(spec, '$.style'), ''), sent_at, ended_at, state, code, billed,"  # noqa: S608  constants
        " cost, status, api_seconds, download_seconds FROM attempts JOIN submissions ON submissions.number = submission"
        " JOIN jobs ON jobs.number = job"
        f" WHERE state IN ('captured', 'failed', 'unknown') AND ended_at IS NOT NULL{live}"
        f" ORDER BY attempts.number DESC LIMIT {MOST}"
    )
    return sorted((Seen._make(row) for row in ledger.execute(query)), key=lambda one: one.sent_at)


def was_simulated(ledger: sqlite3.Connection) -> bool:
    """Whether a folder's last run was simulated: it tells nothing of a real provider."""
    return get_meta(ledger, "simulated") == "1"


class Writing(NamedTuple):
    """How many seconds a slot is held beside the call itself: until its attempt is on record, and what came of it."""

    before: float = 0.0
    after: float = 0.0


def writing_of(seen: Sequence[Seen]) -> Writing:
    """Return how long the ledger took, from attempts in the order in which they were sent.

    `after` is how long after an end the next attempt began, while all slots were in use: the n-th that begins then
    takes the place of the n-th that ended. Where slots stood empty, which a rate does, it is taken to be as `before`.
    """
    before = [one.record for one in seen if one.record is not None]
    if not before:
        return Writing()
    usual, gaps = fmean(before), list[float]()
    for run in _runs(seen):
        began, ended = [one.sent_at for one in run], sorted(one.ended_at for one in run)
        gaps += map(sub, began[_peak(began, ended) :], ended)
    full = bool(gaps) and median(gaps) <= _EMPTY * usual
    return Writing(usual, fmean(min(max(gap, 0.0), _LONG * usual) for gap in gaps) if full else usual)


def _runs(seen: Sequence[Seen]) -> Iterator[list[Seen]]:
    """Yield the attempts of each run, as pauses part them."""
    run: list[Seen] = []
    until = -inf
    for one in seen:
        if run and one.sent_at > until + PAUSE:
            yield run
            run = []
        run.append(one)
        until = max(until, one.ended_at)
    if run:
        yield run


def _peak(began: Sequence[float], ended: Sequence[float]) -> int:
    """Return how many were out at once, at most."""
    return max(bisect_right(began, at) - bisect_right(ended, at) for at in began)


def by_provider(manifest: Manifest, seen: Iterable[Seen]) -> dict[str, list[Seen]]:
    """Return the attempts that tell of each provider: its own, or, of a name that is no more, those of its model."""
    found: dict[str, list[Seen]] = {name: [] for name in manifest.providers}
    by_model = {provider.model: name for name, provider in reversed([*manifest.providers.items()])}
    only = None if manifest.several else manifest.provider.name
    for one in seen:
        name = one.provider if one.provider in found else only or by_model.get(one.model)
        if name is not None:
            found[name].append(one)
    return found


def climate_of(provider: ProviderConfig, ledger: sqlite3.Connection, seen: Sequence[Seen]) -> Climate:
    """Return what is known of a provider, from attempts in the order in which they were sent."""
    allowed = allowed_by(provider, ledger)
    if not any(one.state == "captured" for one in seen):
        return _unknown(provider, allowed)
    record, outages = writing_of(seen).before, [*_outages(seen)]
    away = {id(one) for outage in outages for one in outage.attempts}
    kinds: dict[tuple[str, str], list[Call]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    for one in seen:
        if _is_left_out(one, limited=bool(allowed)):
            left_out[one.code or ""] += 1
        elif id(one) not in away:
            kinds[one.model, one.style].append(one.call(record))
    calls = [call for kind in kinds.values() for call in kind]
    active = _active(seen)
    return Climate(
        past=_past(calls, outages, active, left_out),
        usual=Draws.of(calls),
        calls={kind: Draws.of(found) for kind, found in kinds.items() if len(found) >= ENOUGH},
        fetches=Draws.of([fetch for one in seen if (fetch := one.fetch()) is not None]),
        outages=[outage.drawn(record) for outage in outages],
        every=max(active / len(outages), ROW_SECONDS) if outages else 0.0,
        allowed=allowed,
    )


def given(climate: Climate, seconds: tuple[float, float] | None, fails: Mapping[Code, float] | None) -> Climate:
    """Return what the user gives in place of the history of calls: how long they take, and what share of them fails."""
    if seconds is None and fails is None:
        return climate
    low, usual, high = climate.past.seconds
    low, high = seconds or (low or usual, high or usual)
    in_calls = {code: share for code, share in (fails or {}).items() if code not in FETCHED}
    of_pictures = {code: share for code, share in (fails or {}).items() if code in FETCHED}
    past = Past(
        source="given", seconds=(low, (low + high) / 2, high), fails={c.value: s for c, s in (fails or {}).items()}
    )
    return Climate(
        past=past,
        usual=Draws.given((low, high), in_calls),
        fetches=Draws.given((0.0, 0.0), of_pictures),
        allowed=climate.allowed,
    )


def allowed_by(provider: ProviderConfig, ledger: sqlite3.Connection) -> dict[str, Allowed]:
    """Return what a provider allows, by the names of keys: as it was found, or as the simulator was told."""
    if provider.simulated:
        from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which others do not need

        told = parse_options(provider.options)
        burst = float(told.burst) if told.burst is not None else max(1.0, told.rate or 1.0)
        all_keys = Allowed(rate=told.rate, burst=burst, active=told.concurrency, tells=True)
        return {} if told.rate is None and told.concurrency is None else {"": all_keys}
    return {
        name: Allowed(rate=lesson.rate, burst=max(1.0, lesson.rate or 1.0), active=lesson.active)
        for name, lesson in lessons_of(provider, ledger).items()
        if lesson.rate is not None or lesson.active is not None
    }


def _unknown(provider: ProviderConfig, allowed: Mapping[str, Allowed]) -> Climate:
    """Return what is assumed of a provider of which nothing is known."""
    source, seconds = "assumed", (RANGE[0] * SECONDS_A_CALL, RANGE[1] * SECONDS_A_CALL)
    if provider.simulated:
        from batchflux.simulator import parse_options  # noqa: PLC0415  a server, which others do not need

        source, seconds = "options", parse_options(provider.options).latency
    past = Past(source=source, seconds=(seconds[0], sum(seconds) / 2, seconds[1]))
    return Climate(past=past, usual=Draws.given(seconds, {}), allowed=allowed)


def _is_left_out(one: Seen, *, limited: bool) -> bool:
    """Whether an attempt is not to be drawn: a key's refusal ends nights, and limits refuse by themselves."""
    failed = one.failed
    if one.state != "captured" and failed is None:
        return True
    if failed is None:
        return False
    return RULES[failed].fault == "key" or failed in UNSEEN or (limited and failed is Code.RATE_LIMITED)


class _Row(NamedTuple):
    """Attempts that failed because nobody was there, with no answer between them, and how many seconds that lasted."""

    attempts: list[Seen]
    seconds: float

    def drawn(self, record: float) -> Outage:
        """Return it as an outage that is drawn."""
        began = self.attempts[0].ended_at
        met = [one.call(record) for one in self.attempts if one.sent_at >= began]
        out = [one for one in self.attempts if one.sent_at < began]
        caught = [replace(one.call(record), seconds=one.ended_at - began) for one in out]
        return Outage(seconds=self.seconds, met=Draws.of(met or caught), caught=Draws.of(caught) if caught else None)


def _outages(seen: Sequence[Seen]) -> Iterator[_Row]:
    """Yield the rows of failures that are outages.

    One ends between its last failure and the request that was answered then, nobody knows when: in the middle.
    """
    row: list[Seen] = []
    for one in [*sorted(seen, key=lambda one: one.ended_at), None]:
        if one is not None and one.failed is not None and RULES[one.failed].fault == "away":
            row.append(one)
            continue
        if len(row) >= ROW:
            last = row[-1].ended_at
            back = last if one is None or one.sent_at - last > PAUSE else max(last, one.sent_at)
            if (seconds := (last + back) / 2 - row[0].ended_at) >= ROW_SECONDS:
                yield _Row(row, seconds)
        row = []


def _active(seen: Sequence[Seen]) -> float:
    """Return for how many seconds requests were out, the pauses between runs left out."""
    return sum(max(one.ended_at for one in run) - run[0].sent_at for run in _runs(seen))


def _past(calls: Sequence[Call], outages: Sequence[_Row], active: float, left_out: Mapping[str, int]) -> Past:
    took = sorted(call.seconds for call in calls if call.code is None) or [0.0]
    fails = Counter(call.code.value for call in calls if call.code is not None)
    low, middle, high = (took[int(share * (len(took) - 1))] for share in (0.05, 0.5, 0.95))
    return Past(
        source="history",
        calls=len(calls),
        seconds=(low, middle, high),
        fails={code: number / len(calls) for code, number in fails.most_common()},
        outages=len(outages),
        outage_seconds=sum(outage.seconds for outage in outages),
        active_seconds=active,
        left_out=dict(left_out),
    )

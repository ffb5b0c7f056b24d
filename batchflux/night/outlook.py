"""What rehearsed nights come to together: when they end, what they spend, and what cuts them short."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median, median_low
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from decimal import Decimal

    from batchflux.night.rehearsal import Night

RARE = 0.05  # of the nights, at either end, that are left out of the time by which they end


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """From `low` to `high` in so many `nights`, half of all below `middle`."""

    low: float
    middle: float
    high: float
    nights: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """So many `nights` ended with jobs left, from `low` to `high` of all, as shares; `message` is one night's own."""

    nights: int
    low: float
    high: float
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What so many `nights` came to.

    `ends` is in seconds from the start, of the nights that left nothing, but the earliest and latest (None: there was
    none). `spent` has the least, the middle and the most, in currency; `done`, `failed`, `unknown` and `refused` the
    least and the most. `failures` are a night's on average, by code; `cuts` are by what stopped a night.
    """

    nights: int
    ends: Band | None
    spent: tuple[Decimal, Decimal, Decimal]
    done: tuple[int, int]
    failed: tuple[int, int]
    unknown: tuple[int, int]
    refused: tuple[int, int]
    failures: Mapping[str, float]
    cuts: Mapping[str, Cut]


def outlook_of(nights: Sequence[Night], jobs: int) -> Outlook:
    """Return what nights, at least one, came to, of so many jobs each."""
    counts: Counter[str] = Counter()
    for night in nights:
        counts.update(night.failures)
    spent = sorted(night.spent for night in nights)
    return Outlook(
        nights=len(nights),
        ends=_band(sorted(night.seconds for night in nights if night.reason is None)),
        spent=(spent[0], median_low(spent), spent[-1]),
        done=_range(nights, lambda night: night.done),
        failed=_range(nights, lambda night: night.failed),
        unknown=_range(nights, lambda night: night.unknown),
        refused=_range(nights, lambda night: night.refused),
        failures={code: number / len(nights) for code, number in counts.most_common()},
        cuts=_cuts(nights, jobs),
    )


def _band(ends: Sequence[float]) -> Band | None:
    if not ends:
        return None
    rare = int(RARE * len(ends))
    usual = ends[rare : len(ends) - rare]
    return Band(low=usual[0], middle=median(ends), high=usual[-1], nights=len(usual))


def _range(nights: Iterable[Night], of: Callable[[Night], int]) -> tuple[int, int]:
    values = [of(night) for night in nights]
    return min(values), max(values)


def _cuts(nights: Iterable[Night], jobs: int) -> dict[str, Cut]:
    found: dict[str, list[Any]] = defaultdict(list)
    for night in nights:
        if night.reason is not None:
            found[night.reason].append((night.left / max(jobs, 1), night.message))
    return {
        reason: Cut(nights=len(cut), low=min(cut)[0], high=max(cut)[0], message=cut[0][1])
        for reason, cut in found.items()
    }

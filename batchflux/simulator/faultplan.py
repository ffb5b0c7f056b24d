"""Decides which faults a request meets.

The script is asked first: rules in order, the first that matches the prompt and is not used up gives the fault.
Otherwise every fault in `faults` is drawn, in the order written. Of those that hit, the first that replaces the
answer wins (`instead`); failing that, all that reshape a good answer apply together (`form`), and the first that
spoils the picture behind the link (`link`). Draws depend on seed, content and how often that content was asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from batchflux.errors import UsageError
from batchflux.simulator.faults import fraction
from batchflux.simulator.faults import FAULTS
from batchflux.simulator.options import integer, number

if TYPE_CHECKING:
    from batchflux.simulator.requests import Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """Draw `fault` with probability `rate`, for the first `times` requests of one content (None: for all)."""

    fault: str
    rate: float = 1.0
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptRule:
    """Give `fault` to the first `times` requests of one content whose prompt contains `match` (None: to all)."""

    match: str
    fault: str
    times: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The faults of one request."""

    instead: str | None = None
    form: frozenset[str] = frozenset()
    link: str | None = None

    @property
    def names(self) -> list[str]:
        """All of them, for the counters."""
        return sorted({*self.form, *(name for name in (self.instead, self.link) if name is not None)})


def _known(place: str, name: Any) -> str:
    if isinstance(name, str) and name in FAULTS:
        return name
    near = get_close_matches(str(name), FAULTS, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]}?" if near else f"it knows {', '.join(FAULTS)}."
    raise UsageError(f"{place} names {name!r}, which is no fault of the simulator; {remedy}")


def _only(place: str, data: Mapping[Any, Any], allowed: tuple[str, ...]) -> None:
    for key in data:
        if key not in allowed:
            raise UsageError(f"{place} has an unknown key {key!r}; allowed are {', '.join(allowed)}.")


def parse_faults(place: str, value: Any) -> tuple[tuple[FaultRule, ...], tuple[ScriptRule, ...]]:
    """Return the rules, and the script that may stand among them as `script`.

    Raises:
        UsageError: a fault is not known, or its probability or count not allowed.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{place} must map names of faults to probabilities, found {value!r}.")
    rules: list[FaultRule] = []
    script: tuple[ScriptRule, ...] = ()
    for name, spec in value.items():
        if name == "script":
            script = parse_script(f"{place}.script", spec)
            continue
        where = f"{place}.{_known(place, name)}"
        if not isinstance(spec, Mapping):
            rules.append(FaultRule(fault=name, rate=number(where, spec, high=1)))
            continue
        _only(where, spec, ("rate", "times"))
        rate = number(f"{where}.rate", spec.get("rate", 1), high=1)
        rules.append(FaultRule(fault=name, rate=rate, times=_times(where, spec)))
    return tuple(rules), script


def parse_script(place: str, value: Any) -> tuple[ScriptRule, ...]:
    """Return the rules of a script, in order.

    Raises:
        UsageError: a rule lacks something, names no known fault, or has an unknown key.
    """
    if not isinstance(value, list):
        raise UsageError(f"{place} must be a list of {{match, fault, times}}, found {value!r}.")
    rules = []
    for index, item in enumerate(value):
        where = f"{place}[{index}]"
        if not isinstance(item, Mapping):
            raise UsageError(f"{where} must be a mapping with match and fault, found {item!r}.")
        _only(where, item, ("match", "fault", "times"))
        match = item.get("match")
        if not isinstance(match, str):
            raise UsageError(f"{where}.match must be a part of the prompt, found {match!r}.")
        rules.append(ScriptRule(match=match, fault=_known(where, item.get("fault")), times=_times(where, item)))
    return tuple(rules)


def _times(place: str, spec: Mapping[Any, Any]) -> int | None:
    times = spec.get("times")
    return None if times is None else integer(f"{place}.times", times, low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Chooses by `rules` and `script`; `seed` makes another run of chance."""

    seed: int
    rules: tuple[FaultRule, ...]
    script: tuple[ScriptRule, ...]

    def choose(self, ask: Ask, turn: int) -> Chosen:
        """Return the faults for the request `ask`, whose content was asked `turn` times before."""
        hits = [FAULTS[name] for name in self._hits(ask, turn) if ask.style in FAULTS[name].styles]
        for info in hits:
            if info.stage == "instead":
                return Chosen(instead=info.name)
        return Chosen(
            form=frozenset(info.name for info in hits if info.stage == "form"),
            link=next((info.name for info in hits if info.stage == "link"), None),
        )

    def _hits(self, ask: Ask, turn: int) -> Iterator[str]:
        left = turn
        for step in self.script:
            if step.match not in ask.prompt:
                continue
            if step.times is None or left < step.times:
                yield step.fault
                return
            left -= step.times
        for rule in self.rules:
            in_time = rule.times is None or turn < rule.times
            if in_time and fraction(self.seed, rule.fault, ask.content, turn) < rule.rate:
                yield rule.fault

"""Read the simulator's options: `provider.options` of a manifest, or the file of `batchflux simulate --faults`."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from batchflux.errors import UsageError
from batchflux.simulator.faults import FAULTS, Rule

MIN_SIZE, MAX_SIZE = 40, 2048
_FILE_LIMIT = 1 << 20
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(s|min|h)\s*")
_UNITS = {"s": 1, "min": 60, "h": 3600}
_PAIR, _LONGEST = 2, 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulator behaves.

    `latency` (a task takes it to finish) and `download_latency` are seconds, from and to. `rate` is requests a
    second, `burst` how many may come at once (None: one second's worth, at least 1), `concurrency` how many may be
    in flight, `active_tasks` how many of one key may be unfinished (None: 24 at BFL's API, any number at a relay).
    `batch_seconds` are how long a batch takes, from and to. `seed` drives faults and latencies. `size` is a
    picture's long side in pixels. `keys` are the accepted ones (None: any, and none). `fetch`: references are fetched
    from their URLs, also in this network. `cache_dir` keeps reduced copies of uploads. `salt`, which only the program
    sets, changes the pictures of requests without a seed, as time does at a real API; so does it where they are
    `varied`, with each that is the same.
    """

    latency: tuple[float, float] = (0.05, 0.25)
    download_latency: tuple[float, float] = (0.0, 0.0)
    batch_seconds: tuple[float, float] = (1.0, 2.0)
    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    active_tasks: int | None = None
    seed: int = 0
    size: int = 512
    keys: frozenset[str] | None = field(default=None, repr=False)
    faults: tuple[Rule, ...] = ()
    script: tuple[Rule, ...] = ()
    fetch: bool = False
    cache_dir: str = field(default_factory=lambda: f"{tempfile.gettempdir()}/batchflux-simulator-{os.getuid()}")
    salt: int = 0
    varied: bool = False


def _check(holds: object, message: str) -> None:
    if not holds:
        raise UsageError(message)


def _keys(place: str, value: Any) -> frozenset[str]:
    names = [value] if isinstance(value, str) else value
    good = isinstance(names, list) and names and all(isinstance(name, str) and name for name in names)
    _check(good, f"{place} must be a list of the accepted keys, each a text.")
    return frozenset(names)


def _folder(place: str, value: Any) -> str:
    _check(isinstance(value, str) and value, f"{place} must be the path of a folder, found {value!r}.")
    return str(Path(value).absolute())


def _integer(place: str, value: Any, *, low: float = -math.inf, high: float = math.inf) -> int:
    _check(type(value) is int, f"{place} must be a whole number, found {value!r}.")
    limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
    _check(low <= value <= high, f"{place} must be {limits}, found {value}.")
    return int(value)


def _truth(place: str, value: Any) -> bool:
    _check(isinstance(value, bool), f"{place} must be true or false, found {value!r}.")
    return bool(value)


def _number(place: str, value: Any, *, high: float) -> float:
    good = type(value) in (int, float) and math.isfinite(value)
    _check(good, f"{place} must be a number from 0 to {high:g}, found {value!r}.")
    _check(0 <= value <= high, f"{place} must be from 0 to {high:g}, found {value:g}.")
    return float(value)


def _span(place: str, value: Any) -> tuple[float, float]:
    pair = value if isinstance(value, list | tuple) else [value, value]
    _check(len(pair) == _PAIR, f"{place} must be seconds, or two of them: [low, high]; found {value!r}.")
    low, high = (_number(place, part, high=_LONGEST) for part in pair)
    _check(low <= high, f"{place} must be [low, high] with low first, found {value!r}.")
    return low, high


def _per_second(place: str, value: Any) -> float:
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or not float(found[1]):
        raise UsageError(f"{place} must be like 10/s, 300/min or 100/h, found {value!r}.")
    return float(found[1]) / _UNITS[found[2]]


def _remedy(name: Any, known: Iterable[str]) -> str:
    near = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"it knows {', '.join(known)}."


def _fault(place: str, name: Any) -> str:
    known = isinstance(name, str) and name in FAULTS
    _check(known, f"{place} names {name!r}, which is no fault of the simulator; {_remedy(name, FAULTS)}")
    return str(name)


def _times(place: str, spec: Mapping[Any, Any], *others: str) -> int | None:
    allowed = (*others, "times")
    for key in spec:
        _check(key in allowed, f"{place} has an unknown key {key!r}; allowed are {', '.join(allowed)}.")
    times = spec.get("times")
    return None if times is None else _integer(f"{place}.times", times, low=1)


def _faults(place: str, value: Any) -> tuple[Rule, ...]:
    _check(isinstance(value, Mapping), f"{place} must map names of faults to probabilities, found {value!r}.")
    rules = []
    for name, spec in value.items():
        where, times, rate = f"{place}.{_fault(place, name)}", None, spec
        if isinstance(spec, Mapping):
            times, rate, where = _times(where, spec, "rate"), spec.get("rate", 1), f"{where}.rate"
        rules.append(Rule(fault=name, rate=_number(where, rate, high=1), times=times))
    return tuple(rules)


def _script(place: str, value: Any) -> tuple[Rule, ...]:
    _check(isinstance(value, list), f"{place} must be a list of {{match, fault, times}}, found {value!r}.")
    rules = []
    for index, item in enumerate(value):
        where = f"{place}[{index}]"
        _check(isinstance(item, Mapping), f"{where} must be a mapping with match and fault, found {item!r}.")
        times, match = _times(where, item, "match", "fault"), item.get("match")
        _check(isinstance(match, str), f"{where}.match must be a part of the prompt, found {match!r}.")
        rules.append(Rule(match=str(match), fault=_fault(where, item.get("fault")), times=times))
    return tuple(rules)


_positive = partial(_integer, low=1)
_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "latency": _span,
    "download_latency": _span,
    "rate": _per_second,
    "burst": _positive,
    "active_tasks": _positive,
    "concurrency": _positive,
    "batch_seconds": _span,
    "seed": _integer,
    "size": partial(_integer, low=MIN_SIZE, high=MAX_SIZE),
    "keys": _keys,
    "faults": _faults,
    "script": _script,
    "cache_dir": _folder,
    "fetch": _truth,
}
_NEVER_NULL = frozenset({"latency", "download_latency", "batch_seconds", "seed", "size"})


def parse_options(data: Mapping[str, Any]) -> SimulatorOptions:
    """Return the options in `data`, or raise UsageError; a script may also stand among the faults."""
    found: dict[str, Any] = {}
    scripted: tuple[Rule, ...] = ()
    for key, given in data.items():
        _check(key in _PARSERS, f"The simulator has no option {key!r}; {_remedy(key, _PARSERS)}")
        if given is None and key not in _NEVER_NULL:
            continue
        place, value = f"The simulator's option {key}", given
        if key == "faults" and isinstance(given, Mapping) and "script" in given:
            value = {name: rule for name, rule in given.items() if name != "script"}
            scripted = _script(f"{place}.script", given["script"])
        found[key] = _PARSERS[key](place, value)
    return SimulatorOptions(**found | {"script": (*found.get("script", ()), *scripted)})


def load_options(path: str | os.PathLike[str]) -> SimulatorOptions:
    """Return the options in a YAML or JSON file, or raise UsageError when it cannot be read or is wrong."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a YAML or JSON file of options.") from error
    _check(len(raw) <= _FILE_LIMIT, f"{path} is larger than {_FILE_LIMIT:,} bytes; a file of options is a few lines.")
    try:
        text = raw.decode("utf-8-sig")
        data = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is neither YAML nor JSON that can be read: {reason}.") from error
    good = isinstance(data, dict | None)
    _check(good, f"{path} must be a mapping of options, such as `faults: {{server_500: 0.1}}`.")
    try:
        return parse_options(data or {})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error

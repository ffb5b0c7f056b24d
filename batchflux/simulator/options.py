"""What the simulator can be told: `provider.options` of a manifest, and the file of `batchflux simulate --faults`.

Both carry the same keys. A wrong key or value is a UsageError of one sentence, before anything is served.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from batchflux.errors import UsageError
from batchflux.simulator.faults import FaultRule, ScriptRule, parse_faults, parse_script
from batchflux.simulator.options import integer, per_second, span

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Span = tuple[float, float]
MIN_SIZE, MAX_SIZE = 40, 2048
_FILE_LIMIT = 1 << 20


def default_cache_dir() -> str:
    """Return the folder for uploads that outlives the process: one per user, under the system's temp folder."""
    return str(Path(tempfile.gettempdir()) / f"batchflux-simulator-{os.getuid()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulator behaves.

    `latency` and `download_latency` are seconds, from and to. `rate` is requests per second and `burst` how many
    may come at once (None: one second's worth, at least 1); `concurrency` how many may be in flight. `seed` drives
    the faults and latencies. `size` is the long side of a picture in pixels. `keys` are the accepted bearer keys;
    None accepts any, and none. `cache_dir` keeps reduced copies of uploaded references. `salt` changes the pictures
    of requests without a seed, as time does at a real API; only the program sets it.
    """

    latency: Span = (0.05, 0.25)
    download_latency: Span = (0.0, 0.0)
    rate: float | None = None
    burst: int | None = None
    concurrency: int | None = None
    seed: int = 0
    size: int = 512
    keys: frozenset[str] | None = field(default=None, repr=False)
    faults: tuple[FaultRule, ...] = ()
    script: tuple[ScriptRule, ...] = ()
    cache_dir: str = field(default_factory=default_cache_dir)
    salt: int = 0


def _keys(place: str, value: Any) -> frozenset[str]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise UsageError(f"{place} must be a list of the accepted keys, each a text.")
    return frozenset(names)


def _folder(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{place} must be the path of a folder, found {value!r}.")
    return str(Path(value).absolute())


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "latency": span,
    "download_latency": span,
    "rate": per_second,
    "burst": lambda place, value: integer(place, value, low=1),
    "concurrency": lambda place, value: integer(place, value, low=1),
    "seed": integer,
    "size": lambda place, value: integer(place, value, low=MIN_SIZE, high=MAX_SIZE),
    "keys": _keys,
    "faults": parse_faults,
    "script": parse_script,
    "cache_dir": _folder,
}
_ABSENT_WHEN_NULL = frozenset({"rate", "burst", "concurrency", "keys", "cache_dir", "faults", "script"})


def parse_options(data: Mapping[str, Any]) -> SimulatorOptions:
    """Return the options in `data`.

    Raises:
        UsageError: a key is not known, or a value not allowed.
    """
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key not in _PARSERS:
            near = get_close_matches(str(key), _PARSERS, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else f"it knows {', '.join(_PARSERS)}."
            raise UsageError(f"The simulator has no option {key!r}; {remedy}")
        if value is None and key in _ABSENT_WHEN_NULL:
            continue
        found[key] = _PARSERS[key](f"The simulator's option {key}", value)
    rules, scripted = found.pop("faults", ((), ()))
    script = (*found.pop("script", ()), *scripted)
    return SimulatorOptions(faults=rules, script=script, **found)


def load_options(path: str | os.PathLike[str]) -> SimulatorOptions:
    """Return the options in a YAML or JSON file.

    Raises:
        UsageError: the file cannot be read or understood, or an option in it is wrong.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; name a YAML or JSON file of options.") from error
    if len(raw) > _FILE_LIMIT:
        raise UsageError(f"{path} is larger than {_FILE_LIMIT:,} bytes; a file of options is a few lines.")
    try:
        text = raw.decode("utf-8-sig")
        data = json.loads(text) if str(path).endswith(".json") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is neither YAML nor JSON that can be read: {reason}.") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise UsageError(f"{path} must be a mapping of options, such as `faults: {{server_500: 0.1}}`.")
    try:
        return parse_options(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


__all__ = ["MAX_SIZE", "MIN_SIZE", "SimulatorOptions", "load_options", "parse_options"]

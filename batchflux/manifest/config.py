"""What a manifest says, checked: frozen data for the stages that follow."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from batchflux.models import Verify


DEFAULT_FILE_NAME = "{{ id }}.{{ ext }}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`count` requests in `seconds`, as written: `300/min` is 300 in 60."""

    count: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When to stop: at `clock`, an (hour, minute) of local time, or `seconds` after the start. One of them is set."""

    clock: tuple[int, int] | None = None
    seconds: float | None = None

    def seconds_from(self, now: datetime) -> float:
        """How many seconds remain at `now`, which is local time with its zone; a clock time is the next such time."""
        if self.clock is None:
            return self.seconds or 0.0
        day = now.replace(hour=self.clock[0], minute=self.clock[1], second=0, microsecond=0, tzinfo=None)
        # Made local anew for each day, for the clocks may be changed in between.
        if day.astimezone() <= now:
            day += timedelta(days=1)
        return (day.astimezone() - now).total_seconds()

    def __str__(self) -> str:
        if self.clock is not None:
            return f"{self.clock[0]:02d}:{self.clock[1]:02d}"
        seconds = self.seconds or 0.0
        unit, size = next(((name, n) for name, n in (("h", 3600), ("min", 60)) if seconds % n == 0), ("s", 1))
        return f"{seconds / size:g}{unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """Which API to call and how. `keys` are names of environment variables; `base_url` is None for the simulator."""

    name: str = "simulator"
    style: Literal["auto", "standard", "chat"] = "auto"
    model: str = "flux-kontext-pro"
    base_url: str | None = None
    keys: tuple[str, ...] = ()
    price: Decimal | None = None
    currency: str = "USD"
    params: Literal["strict", "drop"] = "strict"
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # may hold what ${NAME} stands for


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """How much, how fast, how long. `timeout` in seconds for one API call, `budget` in the provider's currency."""

    concurrency: int = 8
    rate: Rate | None = None
    attempts: int = 5
    timeout: float = 360.0
    budget: Decimal | None = None
    deadline: Deadline | None = None
    max_consecutive_failures: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """Where pictures go and how they are checked. `dir` is absolute, `max_bytes` bounds one picture."""

    dir: Path
    file_name: str = DEFAULT_FILE_NAME
    verify: Verify = "decode"
    max_bytes: int = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Text with `{{ }}` or `{% %}` in it, to be rendered for each job."""

    text: str


FieldValue = Any  # a converted value, a Template, a tuple of texts and Templates (images), or pairs of them (tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a matrix: `kind` is list, range, glob or lines; `values` holds what was written for it."""

    name: str
    kind: Literal["list", "range", "glob", "lines"]
    values: tuple[Any, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One element of `jobs`, defaults merged in. `lines` tells where each field stands."""

    index: int
    line: int
    fields: Mapping[str, FieldValue]
    lines: Mapping[str, int]
    source: str | None = None
    axes: tuple[Axis, ...] = ()
    exclude: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest without static faults.

    `path` is absolute and `base` its folder, `display` the path as the user typed it, `text` the source as written
    (secrets unexpanded). `entries` is what `expand` makes jobs of; `file_name_line` is where output.file_name
    stands, and `keys_line` where provider.keys does, or the provider when it brings its own.
    """

    path: Path
    base: Path
    display: str
    name: str
    provider: ProviderConfig
    limits: LimitsConfig
    output: OutputConfig
    text: str = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    file_name_line: int = field(default=1, repr=False)
    keys_line: int = field(default=1, repr=False)

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The names of all tags, in the order in which the manifest first writes them."""
        pairs = (pair for entry in self.entries for pair in entry.fields.get("tags", ()))
        return tuple(dict.fromkeys(name for name, _ in pairs))

    def beside(self, source: str) -> str:
        """How a message names a file that the manifest names: as the user would type it from where they are."""
        return str(Path(self.display).parent / source)

"""What one way of calling an API can carry, as its module in `providers` says; the manifest is checked against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pydantic import BaseModel

    from batchflux.models import Style

RATIO_TOLERANCE = 0.08
"""How far a ratio may be off from one that an API has, as a share of it."""


def no_conflicts(_: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Return that all fields of a job can be together."""
    return ()


def nearest_ratio(ratio: str, allowed: Iterable[str]) -> str | None:
    """Return the one of the ratios W:H that is nearest to another, None when all are off by RATIO_TOLERANCE or more."""

    def off(other: str) -> float:
        (wide, high), (width, height) = (map(int, text.split(":")) for text in (ratio, other))
        share = (width * high) / (height * wide)
        return max(share, 1 / share) - 1

    best = min(allowed, key=off, default=None)
    return best if best is not None and off(best) < RATIO_TOLERANCE else None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTerms:
    """How an API sells batches: at `share` of the price of single requests, made within so many `hours`.

    A batch has `most` jobs, and only `unproven` while none of its model gave a picture yet; its file `most_bytes`.
    `conflicts` yields what of a job's fields a batch cannot carry, as that of Capabilities.
    """

    most: int
    most_bytes: int
    hours: float = 24.0
    share: Decimal = Decimal("0.5")
    unproven: int | None = None
    conflicts: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]] = no_conflicts


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one way of calling an API can carry; the manifest is checked against it.

    `api` and `style` name it, `base_url` and `key_names` are what the API's own name brings. `fields` are the request
    fields that it has a place for. `local_images` tells whether a file's bytes can travel, `url_images` whether a URL
    can, `least_images` and `most_images` how many references do (None: no bound). `allowed` has the values that a field
    may have, where that is a closed list; a ratio may be off by less than RATIO_TOLERANCE from one of them.
    `model` is that of a manifest that names none ("": one must be named).
    `active_tasks` is the API's own cap of tasks that have not ended. `options` is the model of what only this API
    knows, `option_files` are those that may be the path of a JSON file in place of what it holds. `by_model` returns
    what holds for a model, where models differ. `conflicts` yields what of a job's fields cannot be together, by the
    field's name with the reason and the remedy. `batch` is how it sells batches, None where it does not.
    `finds_lost`: one can ask whether a request was accepted whose answer was lost. For people: `files` says how a local
    picture travels, `tasks` whether a request gives a task that is polled, `tells_cost` whether answers say the cost.
    """

    api: str
    style: Style
    fields: frozenset[str]
    formats: frozenset[str] = frozenset({"jpeg", "png"})
    local_images: bool
    url_images: bool = True
    least_images: int = 0
    most_images: int | None = None
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    files: str = ""
    tasks: bool = False
    tells_cost: bool = False
    batch: BatchTerms | None = None
    finds_lost: bool = False
    model: str = "flux-kontext-pro"
    active_tasks: int | None = None
    options: type[BaseModel] | None = None
    option_files: tuple[str, ...] = ()
    base_url: str | None = None
    key_names: tuple[str, ...] = ()
    by_model: Callable[[str], Capabilities] | None = None
    conflicts: Callable[[Mapping[str, Any]], Iterable[tuple[str, str]]] = no_conflicts

    def value_for(self, name: str, value: Any) -> Any:
        """Return what the API takes for a field's value, of those that are `allowed`; None: it has nothing near it."""
        allowed = self.allowed.get(name)
        if allowed is None or value in allowed:
            return value
        return nearest_ratio(value, allowed) if name == "aspect_ratio" else None

    def for_model(self, model: str) -> Capabilities:
        """Return what holds for a model."""
        return self if self.by_model is None else self.by_model(model)

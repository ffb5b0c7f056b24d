"""What is done to a photo before it is sent: by default what no API can be trusted with, and what `references` asks.

Nothing here counts for a job's key but what the manifest says under `references`: a photo is its own bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Literal, get_args

from batchflux.photos.facts import MEGAPIXELS, SENT_AS_IS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.photos.facts import Facts, Kind

Step = Literal["upright", "rgb", "eight_bit", "still", "format", "scaled", "smaller", "flattened", "stripped"]
Target = Literal["jpeg", "png", "webp"]
STEPS: tuple[Step, ...] = get_args(Step)
_LOSSY: frozenset[Kind] = frozenset({"jpeg", "heic", "avif", "jpeg2000"})  # photographs, which stay such


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The manifest's `references`.

    `max_side` is of the longer side, in pixels, `max_bytes` of the file, `flatten` a colour.
    """

    orient: bool = True
    max_side: int | None = None
    max_bytes: int | None = None
    flatten: str | None = None
    strip_metadata: bool = False

    @property
    def written(self) -> str:
        """What of this is not the default, as canonical JSON; '' for nothing: it counts for keys."""
        given = {
            item.name: getattr(self, item.name) for item in fields(self) if getattr(self, item.name) != item.default
        }
        return json.dumps(given, sort_keys=True, separators=(",", ":")) if given else ""

    @property
    def shrinks(self) -> bool:
        """Whether a photo may be made smaller."""
        return self.max_side is not None or self.max_bytes is not None

    def text(self) -> str:
        """Return all of it, whatever is the default."""
        return json.dumps(asdict(self), sort_keys=True)


def steps_of(facts: Facts, settings: Settings) -> tuple[Step, ...]:
    """Return what has to be done to a photo, nothing where it is sent as it is."""
    return tuple(_steps(facts, settings))


def _steps(facts: Facts, settings: Settings) -> Iterator[Step]:
    if settings.orient and facts.orientation != 1:
        yield "upright"
    if facts.deep:
        yield "eight_bit"
    if not facts.plain:
        yield "rgb"
    if facts.moving:
        yield "still"
    if facts.kind not in SENT_AS_IS:
        yield "format"
    if settings.max_side is not None and max(facts.width, facts.height) > settings.max_side:
        yield "scaled"
    if settings.max_bytes is not None and facts.bytes > settings.max_bytes:
        yield "smaller"
    if settings.flatten is not None and facts.transparent:
        yield "flattened"
    if settings.strip_metadata and facts.personal:
        yield "stripped"


def too_large(facts: Facts, settings: Settings) -> str | None:
    """Return why a photo cannot be converted, as the end of a sentence; None where it can, or need not be.

    A JPEG that is to be scaled is decoded at a half, a quarter or an eighth of its size where that is enough.
    """
    steps = steps_of(facts, settings)
    if not steps or (steps == ("stripped",) and facts.kind == "jpeg"):
        return None
    scale = max(facts.width, facts.height) / settings.max_side if "scaled" in steps and settings.max_side else 1
    drawn_at = next(part for part in (8, 4, 2, 1) if part <= scale or part == 1) if facts.kind == "jpeg" else 1
    if facts.width * facts.height <= MEGAPIXELS * 1_000_000 * drawn_at**2:
        return None
    what = f"has {facts.width}x{facts.height} pixels; at most {MEGAPIXELS} megapixels can be converted"
    return f"{what}: references.max_side: 2048 sends it smaller"


def target_of(kind: Kind, *, transparent: bool) -> Target:
    """Return what a photo is encoded as: what it was where that keeps every pixel or is its own kind."""
    if kind == "webp":
        return "webp"
    return "jpeg" if kind in _LOSSY and not transparent else "png"

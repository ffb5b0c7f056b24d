"""What a request may ask for beside its prompt and pictures: job fields, and what OpenAI's API has of its own.

Three things can become of a parameter: it is ordered; it changes nothing here, and is taken in silence; or nobody can
carry it. The last is a 400, but where shells send it whatever their user does: then it is named among the dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.gateway.reading import sizes
from batchflux.gateway.reading.bodies import found, line, read, refused, typed, word
from batchflux.manifest.job_fields import FIELDS, READERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ORDERED = frozenset(
    {
        *("seed", "aspect_ratio", "output_format", "quality", "background"),
        *("negative_prompt", "resolution", "safety_tolerance", "prompt_upsampling"),
    }
)
SIZES = frozenset({"size", "width", "height", "aspectRatio"})  # LobeHub writes what its model cards say: aspectRatio
_TYPES = {row.name: tuple(row.types.split()) for row in FIELDS if row.name in ORDERED}
_DEFAULTS = {"quality": {"auto"}, "background": {"auto"}}  # words by which OpenAI's API says: as if left out

INERT = frozenset({"user", "safety_identifier"})  # who asks; the gateway knows by its own keys


def job_fields(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the job fields that a body asks for, each read as a manifest's is, as text; without the ratio."""
    made = {}
    for name in sorted(ORDERED - {"aspect_ratio"}):
        text = _as_text(name, body.get(name))
        if text not in _DEFAULTS.get(name, {""}) and read(name, text, READERS[name]) is not None:
            made[name] = text
    return made


def _as_text(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    value = typed(name, value, *(kind for kind in _TYPES[name] if kind not in {"null", "number"}))
    return str(value).lower() if isinstance(value, bool) else str(value)


def ratio(body: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the ratio that a body orders, and the note of what a size became (None: no size was asked for)."""
    aspect = line(body, "aspect_ratio") or line(body, "aspectRatio")
    size = _size(body)
    made = sizes.ordered(size, aspect)
    return made, made if size not in {None, "", "auto"} else None


def _size(body: Mapping[str, Any]) -> str | None:
    size: str | None = typed("size", body.get("size", ""), "string") or None
    sides = [typed(side, body[side], "integer") for side in ("width", "height") if side in body]
    if not sides:
        return size
    if len(sides) == 1 or size not in {None, "auto"}:
        raise refused("width", "found width or height without the other, or beside size; send both, or size alone")
    return f"{sides[0]}x{sides[1]}"


def only(*allowed: Any, says: str) -> Callable[[str, Any], None]:
    """Return a check that takes these values alone, which ask for nothing."""

    def check(param: str, value: Any) -> None:
        if not any(type(value) is type(each) and value == each for each in allowed):
            raise refused(param, f"found {found(value)}; {says}", "unsupported_value")

    return check


_FRAMES = only(1, says="one still picture is made; leave it out")
UNCARRIED: Mapping[str, Callable[[str, Any], None]] = {  # of OpenAI's image API: what asks for nothing passes
    "moderation": only("auto", says="leave it out, or set safety_tolerance, which providers carry"),
    "output_compression": only(100, says="pictures are handed on as their provider made them; leave it out"),
    "partial_images": only(0, says="pictures come whole; leave it out, or send 0"),
    "frame_count": _FRAMES,
    "frame_duration_ms": _FRAMES,
    "complexity": only(says="leave it out"),
    "svg": only(says="pictures are made of pixels; leave it out"),
    "markup": only(says="leave it out, or send the marked picture as a further image"),
}


def uncarried(body: Mapping[str, Any], checks: Mapping[str, Callable[[str, Any], None]]) -> None:
    """Refuse the first parameter that asks for what nobody does."""
    for param, value in body.items():
        if param in checks:
            checks[param](param, value)


def dalle(body: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take out what shells send whatever their user does, as words of one old model; return the rest, and their names.

    NextChat and SillyTavern send `quality: standard` and `style: vivid` with every picture of DALL·E 3: both are its
    defaults, a person chose neither, and the request must work. `hd` and `natural` were chosen: hd is ordered as
    the quality, natural has no equal anywhere. LobeHub sends `input_fidelity: high` with each edit of GPT Image:
    references are always sent on as they came.
    """
    dropped = [name for name in ("input_fidelity", "style") if name in body]
    word(body, "input_fidelity", "high", "low")
    if word(body, "style", "vivid", "natural") == "natural":
        raise refused("style", 'found "natural", which no provider carries; say in the prompt how it should look')
    rest = {name: value for name, value in body.items() if name not in dropped}
    if rest.get("quality") == "standard":
        del rest["quality"]
        dropped.append("quality")
    return rest, dropped

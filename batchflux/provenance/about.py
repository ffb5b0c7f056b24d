"""What is known of how a picture was made, and the words in which each mark says it."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.provenance.parts import LeftError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MARKS = {
    "iptc": "made by a trained model, and by which (IPTC DigitalSourceType)",
    "parameters": "prompt, seed, size and model, as text that image browsers show",
    "tc260": "the label of GB 45438-2025 (TC260 AIGC)",
}
"""The marks by name, with what each says."""
MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
EDITED = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MOST = 65_000  # bytes of a text; what a JPEG has room for, and readers show
CUT = "… [cut]"  # ends a text that does not fit whole
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NEEDS_QUOTES = re.compile(r'[",:\n]')


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the marks of one picture say, without secrets.

    `edit`: it was made from another picture. `producer` and `number` are who made it and by which number it is known
    there. Where a field is empty or None, nothing is said of it. Sizes are in pixels, as the model made it.
    """

    prompt: str
    model: str
    producer: str
    number: str
    edit: bool = False
    negative_prompt: str = ""
    seed: int | None = None
    steps: int | None = None
    width: int | None = None
    height: int | None = None


def parameters(about: About, fits: Callable[[str], bool]) -> str:
    """Return prompt and settings as A1111 writes them, the prompt cut until it `fits`; LeftError: nothing does."""
    negative = f"\nNegative prompt: {about.negative_prompt}" if about.negative_prompt else ""
    rest = readable("\n" + ", ".join(f"{name}: {_quoted(value)}" for name, value in _settings(about)))
    text = shortened(readable(about.prompt + negative), lambda begun: fits(begun + rest), rest)
    if not text:
        raise LeftError("its file has no room for what it was made by")
    return text


def _settings(about: About) -> Iterator[tuple[str, str]]:
    if about.steps is not None:
        yield "Steps", str(about.steps)
    if about.seed is not None:
        yield "Seed", str(about.seed)
    if about.width and about.height:
        yield "Size", f"{about.width}x{about.height}"
    if about.model:
        yield "Model", about.model
    yield "Version", "batchflux"  # readers take a line for settings that has three of them


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if _NEEDS_QUOTES.search(value) else value


def aigc(about: About) -> str:
    """Return the label of GB 45438-2025, annex E: generated (1), by whom, under which number; the rest is open."""
    known = {"Label": "1", "ContentProducer": readable(about.producer), "ProduceID": about.number, "ReservedCode1": ""}
    return json.dumps(
        known | {"ContentPropagator": "", "PropagateID": "", "ReservedCode2": ""},
        ensure_ascii=False,
        separators=(",", ":"),
    )


def readable(text: str) -> str:
    """Return a text with U+FFFD for each character that XML, or a text field of a file, cannot hold."""
    return _NOT_IN_XML.sub("\ufffd", text)


def shortened(text: str, fits: Callable[[str], bool], end: str = "") -> str:
    """Return the longest beginning of a text that `fits`, CUT behind it where it is not whole; then `end`.

    '' where not even the shortest does.
    """
    if fits(text):
        return text + end
    most = bisect_right(range(len(text)), 0, key=lambda length: 0 if fits(text[:length] + CUT) else 1)
    return text[: most - 1] + CUT + end if most else ""

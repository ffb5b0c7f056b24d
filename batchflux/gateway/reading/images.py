"""`/v1/images/generations` and `/v1/images/edits`, JSON and multipart → an Order and its Form."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from batchflux.gateway.orders import MOST_PICTURES, Form, Order, Picture
from batchflux.gateway.reading import parameters, pictures
from batchflux.gateway.reading.bodies import flag, known, line, read, refused, typed, whole, word
from batchflux.manifest.job_fields import READERS
from batchflux.manifest.reading import values

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ASKED = parameters.ORDERED | {"model", "prompt", "n", "size", "response_format", "stream", "image", "images", "mask"}
_ALLOWED = (_ASKED, parameters.SIZES, parameters.INERT, parameters.UNCARRIED, {"style", "input_fidelity"})
_IMAGE = re.compile(r"image(?:\[[0-9]{0,3}\])?")  # `image`, `image[]` as OpenAI's clients write several, `image[0]`


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a multipart body; `filename` is None where it is a plain field."""

    name: str
    data: bytes = field(repr=False)
    filename: str | None = None


def generation(body: Mapping[str, Any]) -> tuple[Order, Form]:
    """Read a body of `/v1/images/generations`; pictures in it are references, as relays' clients send them.

    Raises:
        RefusalError: With the parameter that is at fault.
    """
    given = known(body, *_ALLOWED)
    images = tuple(each for name in ("image", "images") if name in given for each in _listed(given, name))
    pictures.bounded(images, "image")
    mask = pictures.picture(pictures.link(given["mask"], "mask"), "mask") if "mask" in given else None
    return _read(given, images, mask)


def edit_json(body: Mapping[str, Any]) -> tuple[Order, Form]:
    """Read a JSON body of `/v1/images/edits`: pictures are links, data URLs or base64.

    Raises:
        RefusalError: With the parameter that is at fault.
    """
    order, form = generation(body)
    return _edited(order), form


def edit_form(parts: Iterable[Part]) -> tuple[Order, Form]:
    """Read a multipart body of `/v1/images/edits`: pictures are files; a plain field is a link, as in JSON.

    Raises:
        RefusalError: With the parameter that is at fault.
    """
    images: list[Picture] = []
    masks: list[Picture] = []
    texts: dict[str, str] = {}
    for part in parts:
        if _IMAGE.fullmatch(part.name) is not None:
            images.append(_uploaded(part))
            pictures.bounded(images, "image")
        elif part.name == "mask":
            masks.append(_uploaded(part))
        elif part.name in texts:
            raise refused(part.name, "found it twice; send it once")
        else:
            texts[part.name] = _text(part)
    if len(masks) > 1:
        raise refused("mask", f"found {len(masks)} masks; allowed is one")
    known(texts, *_ALLOWED)
    order, form = _read(_values(texts), tuple(images), masks[0] if masks else None)
    return _edited(order), form


def _listed(given: Mapping[str, Any], name: str) -> tuple[Picture, ...]:
    return pictures.pictures(given[name], name) if given[name] != [] else ()


def _edited(order: Order) -> Order:
    if not order.images:
        raise refused("image", "found no picture to edit; send one to 16", "missing_required_parameter")
    return order


def _uploaded(part: Part) -> Picture:
    name = "mask" if part.name == "mask" else "image"
    return pictures.picture(_text(part), name) if part.filename is None else pictures.file(part.data, name)


def _text(part: Part) -> str:
    if part.filename is not None:
        raise refused(part.name, "found a file; allowed is text, and files as image, image[] or mask")
    try:
        return part.data.decode("utf-8")
    except ValueError:
        raise refused(part.name, "found bytes that are not UTF-8; send text") from None


def _values(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return what a form's texts mean where JSON has types of its own; an empty one is not given."""
    made: dict[str, Any] = {name: text for name, text in texts.items() if text != "" or name == "prompt"}
    for name in made.keys() & _WHOLE:
        with suppress(ValueError):  # then it is text, which is refused as it is in JSON
            made[name] = values.whole(made[name], -(2**63), 2**63 - 1)
    if "stream" in made:
        made["stream"] = read("stream", made["stream"], READERS["prompt_upsampling"])
    return made


_WHOLE = frozenset({"n", "width", "height", "partial_images", "output_compression", "frame_count"})


def _read(given: Mapping[str, Any], images: tuple[Picture, ...], mask: Picture | None) -> tuple[Order, Form]:
    if mask is not None and not images:
        raise refused("mask", "found a mask without a picture; send the picture that it belongs to as image")
    parameters.uncarried(given, parameters.UNCARRIED)
    for name in given.keys() & parameters.INERT:
        typed(name, given[name], "string")
    rest, dropped = parameters.dalle(given)
    ratio, note = parameters.ratio(rest)
    fields = parameters.job_fields(rest) | ({"aspect_ratio": ratio} if ratio else {})
    order = Order(
        prompt=_prompt(given),
        model=line(given, "model"),
        images=images,
        mask=mask,
        count=whole(given, "n", 1, MOST_PICTURES, 1),
        fields=fields,
    )
    notes = {"size": note, "dropped": ", ".join(dropped)}
    inline = word(given, "response_format", "url", "b64_json") != "url"
    told = {name: text for name, text in notes.items() if text}
    return order, Form(inline=inline, stream=flag(given, "stream"), notes=told)


def _prompt(given: Mapping[str, Any]) -> str:
    if "prompt" not in given:
        raise refused("prompt", "found nothing; say what to make", "missing_required_parameter")
    text: str = read("prompt", typed("prompt", given["prompt"], "string"), READERS["prompt"])
    return text

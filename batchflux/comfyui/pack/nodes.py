"""The nodes: a picture, a manifest of pictures, and what was made before."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from itertools import islice
from typing import TYPE_CHECKING, Any

from . import content, folder, host, pixels, settings
from .declared import Input, Node, Output
from .gateway import Call, Gateway, GatewayError, Made

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from PIL.Image import Image

    from .declared import Values

AS_GIVEN = "as given"  # no ratio is asked for
RATIOS = (AS_GIVEN, "1:1", "5:4", "4:5", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16", "21:9", "9:21")
LEAVE_OUT, STOP = "leave out", "stop"
ANY = "any"
VERDICTS = (ANY, "accept", "reject", "redo")
MOST_IMAGES, MOST_PICTURES, PAGE = 4, 10, 100
NO_SEED, LARGEST_SEED = -1, 2**31 - 1
UNKNOWN = "unknown_outcome"  # what the gateway calls a call that may be billed, and has no picture
SHOWN = 5  # failures that are told one by one


class NodeError(Exception):
    """A node that ends without its pictures, in a sentence for the person at the screen."""


@dataclass(frozen=True)
class Shot:
    """A picture that was made, decoded."""

    made: Made
    image: Image = field(repr=False)


def _gateway(values: Values) -> Gateway:
    address = settings.address(values["gateway"])
    return Gateway(address, settings.key(values["key_name"], address))


def calls_of(values: Values) -> list[Call]:
    """Return the calls of a Generate / Edit node, one for each picture.

    With a seed they have that one and those that follow it, otherwise this take and those that follow it.
    """
    prompt, model, seed, take = values["prompt"].strip(), values["model"].strip(), values["seed"], values["take"]
    if not prompt:
        raise NodeError("The prompt is empty: say what to make.")
    names = [f"image_{number}" for number in range(1, MOST_IMAGES + 1)]
    images = [one for name in names for one in pixels.pictures(values[name], name)]
    masks = [_mask(values["mask"], images)] if values["mask"] is not None else []
    fields = content.fields_of(values["fields"] or "")
    if values["ratio"] != AS_GIVEN:
        fields["aspect_ratio"] = values["ratio"]
    seen = {"prompt": prompt, "model": model, "images": [*map(pixels.fingerprint, images)]}
    seen |= {"mask": pixels.fingerprint(masks[0])} if masks else {}
    files, mask = tuple(map(pixels.png, images)), pixels.png(masks[0]) if masks else None
    calls = []
    for number in range(values["count"]):
        own = fields if seed == NO_SEED else {**fields, "seed": str(seed + number)}
        which = take + (number if seed == NO_SEED else 0)
        key = content.key_of(**seen, fields=own, take=which)
        calls.append(Call(prompt=prompt, key=key, model=model, fields=own, images=files, mask=mask))
    return calls


def _mask(given: Any, images: Sequence[Any]) -> Any:
    mask = pixels.mask(given)
    if not mask[..., 0].any():
        raise NodeError("The mask is empty: paint what is to be changed, or take it off.")
    if not images or mask.shape[:2] != images[0].shape[:2]:
        raise NodeError("A mask belongs to image_1, and must have its size: give the picture that it was painted on.")
    return mask


async def _make(gateway: Gateway, calls: Sequence[Call], at_once: int) -> list[Shot | GatewayError]:
    """Make all calls, so many at once, and return how each ended; what would end all keeps the rest from being made."""
    gate, final = asyncio.Semaphore(at_once), list[GatewayError]()

    async def one(call: Call) -> Shot | GatewayError:
        async with gate:
            try:
                if not final:
                    made = await gateway.make(call)
                    return Shot(made, await asyncio.to_thread(pixels.opened, made.data))
            except GatewayError as error:
                final.extend([error] if error.for_all else [])
                return error
            except ValueError as error:
                return GatewayError(f"The picture {made.job} {error}; it is kept in the gateway's folder.")
            return final[0]

    bar = host.Progress(len(calls))
    several = at_once < len(calls)  # then it takes a while, and a person sees them come
    return await host.until_done(
        [one(call) for call in calls], lambda end: bar.step(end.image if several and isinstance(end, Shot) else None)
    )


def cost_of(shots: Sequence[Shot]) -> str:
    """Say what was spent now, and what the pictures that were there had cost."""
    had = [shot.made for shot in shots if not shot.made.new]
    spent = _sum([shot.made for shot in shots if shot.made.new])
    paid = f", for {_sum(had)}" if any(made.cost is not None for made in had) else ""
    return f"{spent} ({len(had)} of {len(shots)} had before{paid})" if had else spent


def _sum(several: Sequence[Made]) -> str:
    told = [made.cost for made in several if made.cost is not None]
    currency = next((made.currency for made in several if made.currency), "")
    return f"{sum(told, Decimal(0)):f} {currency}".strip() if told or not several else "no price told"


async def generate(values: Values) -> tuple[Any, ...]:
    """Make the pictures of one prompt: one batch of them, their ids, and what they cost."""
    calls = await asyncio.to_thread(calls_of, values)
    async with _gateway(values) as gateway:
        ends = await _make(gateway, calls, len(calls))
    shots = [end for end in ends if isinstance(end, Shot)]
    errors = [end for end in ends if isinstance(end, GatewayError)]
    if errors:
        kept = f" The other {len(shots)} are kept, and cost nothing when you queue this again." if shots else ""
        lost = " To ask again, raise take." if errors[0].code == UNKNOWN else ""
        raise NodeError(f"{errors[0]}{lost}{kept}")
    cost = cost_of(shots)
    host.show(cost)
    return pixels.tensor([shot.image for shot in shots]), "\n".join(shot.made.job for shot in shots), cost


def _job_call(job: Mapping[str, Any]) -> Call:
    apart = {"id", "prompt", "model", "images", "idempotency_key"}
    return Call(
        prompt=job["prompt"],
        key=job["idempotency_key"],
        model=job.get("model") or "",
        fields={name: value for name, value in job.items() if name not in apart and value is not None},
        links=tuple(job.get("images") or ()),
    )


async def batch(values: Values) -> tuple[Any, ...]:
    """Make the pictures of a manifest: lists of them, of their ids and prompts, and how it went."""
    async with _gateway(values) as gateway:
        (told,) = await host.until_done([gateway.expand(values["manifest"])])
        calls = [_job_call(job) for job in told["jobs"]]
        if len(calls) > values["most"]:
            price = f", for {told['cost']} {told['currency']} at most" if told.get("cost") else ""
            raise NodeError(
                f"The manifest lists {len(calls)} pictures{price}, and most allows {values['most']}: "
                "raise it to make them. Nothing was bought."
            )
        ends = await _make(gateway, calls, values["at_once"])
    made = [(call, end) for call, end in zip(calls, ends) if isinstance(end, Shot)]
    failed = [f"{call.prompt[:60]}: {end}" for call, end in zip(calls, ends) if isinstance(end, GatewayError)]
    if failed and (not made or values["failures"] == STOP):
        kept = f" {len(made)} are kept, and cost nothing when you queue this again." if made else ""
        raise NodeError(f"{len(failed)} of {len(calls)} pictures could not be made: {failed[0]}{kept}")
    summary = f"{len(made)} pictures, {cost_of([shot for _, shot in made])}"
    if failed:
        summary = "\n".join([summary, f"{len(failed)} left out:", *failed[:SHOWN]])
    host.show(summary)
    return (
        [pixels.tensor([shot.image]) for _, shot in made],
        [shot.made.job for _, shot in made],
        [call.prompt for call, _ in made],
        summary,
    )


@dataclass(frozen=True)
class _Found:
    name: str
    prompt: str
    image: Image = field(repr=False)


def _found(row: Mapping[str, Any], data: bytes) -> _Found:
    name = row.get("id") or ""
    try:
        return _Found(name, row.get("prompt") or "", pixels.opened(data))
    except ValueError as error:
        raise NodeError(f"What lies there for {name} {error}.") from None


def _wanted(values: Values, name: str, verdict: str) -> bool:
    said = values["verdict"]
    return fnmatchcase(name, values["only"].strip() or "*") and said in {ANY, verdict}


def from_folder(values: Values) -> list[_Found]:
    """Return the pictures of an output folder that are wanted, in the order of its table."""

    def wanted() -> Iterator[_Found]:
        for row, path in folder.rows(folder.table(values["folder"])):
            if path is not None and _wanted(values, row.get("id") or "", row.get("review") or ""):
                try:
                    data = path.read_bytes()
                except OSError as error:
                    raise NodeError(f"{path} cannot be read: {error.strerror}.") from None
                yield _found(row, data)

    return list(islice(wanted(), values["limit"]))


async def _pages(gateway: Gateway) -> AsyncIterator[Mapping[str, Any]]:
    after: str | None = None
    while True:
        page = await gateway.results(PAGE, after)
        for row in page["data"]:
            yield row
        after = page.get("next")
        if not after:
            return


async def from_gateway(values: Values) -> list[_Found]:
    """Return the pictures that the gateway made for this key and are wanted, the newest first."""
    found: list[_Found] = []
    async with _gateway(values) as gateway:
        async for row in _pages(gateway):
            if row.get("url") and _wanted(values, row["id"], row.get("review") or ""):
                found.append(_found(row, await gateway.picture(row["url"])))
            if len(found) == values["limit"]:
                break
    return found


async def load(values: Values) -> tuple[Any, ...]:
    """Load pictures that were made before: lists of them, of their ids and prompts."""
    source = asyncio.to_thread(from_folder, values) if values["folder"].strip() else from_gateway(values)
    (found,) = await host.until_done([source])
    if not found:
        where = values["folder"].strip() or "the gateway"
        raise NodeError(f"Nothing in {where} is as asked: look at only and verdict, or whether its pictures are there.")
    return (
        [pixels.tensor([one.image]) for one in found],
        [one.name for one in found],
        [one.prompt for one in found],
    )


def _constants(values: Values) -> str:
    """Return what stands in a node's own widgets, as one text: nothing else changes what it makes."""
    return content.key_of(**{name: value for name, value in values.items() if not hasattr(value, "shape")})


def _state(values: Values) -> Any:
    """Return what changes when the folder does; without one the gateway is asked anew each time."""
    if not values["folder"].strip():
        return float("nan")
    stat = folder.table(values["folder"]).stat()
    return f"{stat.st_mtime_ns}-{stat.st_size}"


_WHERE = (
    Input("gateway", "STRING", "The address of `batchflux gateway`.", "http://127.0.0.1:8790"),
    Input(
        "key_name",
        "STRING",
        "The NAME of the environment variable that holds your key, or of a line in ~/.config/batchflux/comfyui.env. "
        "Never the key itself: workflows are saved into pictures.",
        "BATCHFLUX_GATEWAY_KEY",
    ),
)
_LISTS = (
    Output("images", "IMAGE", "One picture after the other: they may differ in size.", listed=True),
    Output("ids", "STRING", "The id of each.", listed=True),
    Output("prompts", "STRING", "The prompt of each.", listed=True),
)


def _whole(name: str, says: str, default: int, least: int, most: int, **more: Any) -> Input:
    return Input(name, "INT", says, default, more={"min": least, "max": most, **more})


GENERATE = Node(
    name="BatchfluxGenerate",
    title="Batchflux Generate / Edit",
    says="Make pictures by any API behind a batchflux gateway. The same content is paid for once, today and later.",
    inputs=(
        Input("prompt", "STRING", "What to make, or what to change.", "", more={"multiline": True}),
        _whole(
            "seed",
            "The seed, and those that follow it for further pictures; -1 sends none.",
            NO_SEED,
            NO_SEED,
            LARGEST_SEED,
            control_after_generate=False,  # at randomize each press of the button would buy another picture
        ),
        Input("ratio", "COMBO", "The ratio of the picture.", AS_GIVEN, RATIOS),
        Input("model", "STRING", "A model, provider or provider/model of the gateway; empty: its own.", ""),
        _whole("count", "How many pictures.", 1, 1, MOST_PICTURES),
        _whole("take", "Another number makes another picture of the same content.", 1, 1, 1_000_000),
        *_WHERE,
        *(
            Input(f"image_{number}", "IMAGE", "A picture to change or to refer to.", optional=True)
            for number in range(1, MOST_IMAGES + 1)
        ),
        Input("mask", "MASK", "What of image_1 may change, for models that take masks.", optional=True),
        Input(
            "fields",
            "STRING",
            "Further fields, one a line, as resolution: 2K or output_format: png.",
            "",
            optional=True,
            more={"multiline": True},
        ),
    ),
    outputs=(
        Output("images", "IMAGE", "The pictures as one batch; smaller ones stand in the middle of black."),
        Output("ids", "STRING", "Their ids in the gateway's folder, one a line."),
        Output("cost", "STRING", "What was spent now."),
    ),
    run=generate,
    fingerprint=_constants,
)
BATCH = Node(
    name="BatchfluxBatch",
    title="Batchflux Batch from manifest",
    says="Make all pictures that a manifest lists, many at once. What was made before costs nothing.",
    inputs=(
        Input(
            "manifest",
            "STRING",
            "YAML with jobs, and defaults if you like: see batchflux docs manifest.",
            'jobs:\n  - prompt: "a {{ colour }} mug"\n    matrix: {colour: [red, blue]}\n',
            more={"multiline": True},
        ),
        _whole("at_once", "How many calls at once.", 4, 1, 64),
        _whole("most", "A manifest of more pictures is refused, and nothing bought.", 20, 1, 1000),
        Input("failures", "COMBO", "What becomes of pictures that cannot be made.", LEAVE_OUT, (LEAVE_OUT, STOP)),
        *_WHERE,
    ),
    outputs=(*_LISTS, Output("summary", "STRING", "How it went, and what was spent now.")),
    run=batch,
    fingerprint=_constants,
)
LOAD = Node(
    name="BatchfluxLoad",
    title="Batchflux Load results",
    says="Load pictures that batchflux made before: of an output folder, or of your calls to a gateway.",
    inputs=(
        Input("folder", "STRING", "An output folder, or its results.csv; empty: the gateway's, newest first.", ""),
        Input("only", "STRING", "Which ids, as mug-*.", "*"),
        Input("verdict", "COMBO", "What a review said of them.", ANY, VERDICTS),
        _whole("limit", "At most so many.", 16, 1, 1000),
        *_WHERE,
    ),
    outputs=_LISTS,
    run=load,
    fingerprint=_state,
)
NODES = (GENERATE, BATCH, LOAD)

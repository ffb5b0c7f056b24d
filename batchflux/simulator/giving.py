"""Gives a picture: by its links, which carry the host the client called, or by its bytes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from batchflux.simulator.calls import Given
from batchflux.simulator.images import MEDIA_TYPES, Recipe
from batchflux.simulator.requests import sniff

if TYPE_CHECKING:
    from batchflux.simulator.requests import Ask
    from batchflux.simulator.images import Studio

INLINE = frozenset({"b64_json", "data_url"})
UNSAFE_URL = "http://169.254.169.254/latest/meta-data/picture"


def shown(fault: str | None, ask: Ask) -> str:
    """Return the link's fault that `ask` can show: without a reference there is nothing to echo."""
    if fault is None or (fault == "echoed_input" and not (ask.urls or ask.uploads)):
        return ""
    return fault


async def give(studio: Studio, ask: Ask, recipe: Recipe, origin: str, *, inline: bool) -> Given:
    """Return the picture of `recipe`, for a client that knows this server as `origin`.

    Raises:
        GoneError: it is to be given inline, and an upload it is drawn from is no longer kept.
    """
    media_type = MEDIA_TYPES[ask.output_format]
    if recipe.fault == "echoed_input" and ask.urls:
        return Given(url=ask.urls[0], download_url=ask.urls[0], media_type=media_type)
    if recipe.fault == "echoed_input":
        await studio.off_loop(partial(studio.spool.keep_original, ask.uploads[0]))
    data = await studio.picture(recipe) if inline else None
    if data is not None and recipe.fault == "echoed_input":
        media_type = sniff(data) or media_type
    url, download = f"{origin}/v1/files/{recipe.path}", f"{origin}/v1/files/download/{recipe.path}"
    if recipe.fault == "unsafe_link":
        url = download = f"{UNSAFE_URL}.{recipe.path.rpartition('.')[2]}"
    return Given(url=url, download_url=download, media_type=media_type, data=data)

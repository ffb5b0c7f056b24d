"""The APIs, one module each: `Dialect` in `base` is what each of them says of itself.

To add one: a module with a DIALECT, its name in `replies.Api`, and its faults in `faults`; where a task is made of a
request, a class in `queues`, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.simulator.apis import comfyui, fal, gemini, openai, openrouter, replicate, siliconflow, together
from batchflux.simulator.apis.base import Asked, Dialect, Made, bearer
from batchflux.simulator.apis.openai import is_own
from batchflux.simulator.replies import as_detail

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchflux.simulator.replies import Api, Reply

__all__ = ["DIALECTS", "Asked", "Dialect", "Made", "is_own", "key_in", "told"]

DIALECTS: dict[Api, Dialect] = {
    module.DIALECT.name: module.DIALECT
    for module in (openai, gemini, openrouter, together, siliconflow, fal, replicate, comfyui)
}


def key_in(headers: Mapping[str, str], api: Api) -> str:
    """Return the key that a request of an API came with, "" without one."""
    if api == "bfl":
        return headers.get("x-key", "")
    return DIALECTS[api].key(headers) if api in DIALECTS else bearer(headers)


def told(reply: Reply, api: Api) -> Reply:
    """Return a reply as the API puts it, where it is an envelope."""
    if api == "bfl":
        return as_detail(reply)
    return DIALECTS[api].told(reply) if api in DIALECTS else reply

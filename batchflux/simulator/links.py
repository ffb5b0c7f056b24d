"""Serves pictures: the recipe in the link is drawn, or spoilt as the link's fault says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from batchflux.simulator.replies import reset, whole
from batchflux.simulator.faults import between
from batchflux.simulator.journal import Tally
from batchflux.simulator.images import MEDIA_TYPES, BadLinkError, Recipe, decode
from batchflux.simulator.images import GoneError
from batchflux.simulator.requests import sniff
from batchflux.simulator.replies import Reply, error_reply

if TYPE_CHECKING:
    from batchflux.simulator.calls import Api
    from batchflux.simulator.journal import Journal
    from batchflux.simulator.options import SimulatorOptions
    from batchflux.simulator.images import Studio

_SLOW_BYTES = 1024
_SLOW_SECONDS = 1.0
_PAGE = b"<!DOCTYPE html>\n<html><head><title>Please wait</title></head><body>Checking your browser</body></html>\n"


class Links:
    """The handler of `GET /v1/files/...`; `api` tells when the simulator closes."""

    def __init__(self, options: SimulatorOptions, journal: Journal, studio: Studio, api: Api) -> None:
        self._options = options
        self._journal = journal
        self._studio = studio
        self._api = api
        self._fetches = Tally()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer a link."""
        path = request.match_info["path"]
        try:
            recipe = decode(path.removeprefix("download/"))
            await self._api.pause(between(*self._options.download_latency, "download", path))
            reply = await self._reply(recipe, request)
        except (BadLinkError, GoneError):
            recipe, reply = None, _missing()
        self._journal.files[reply.status] += 1
        headers = {}
        if path.startswith("download/"):
            headers["Content-Disposition"] = f'attachment; filename="picture.{path.rpartition(".")[2]}"'
        if recipe is not None and recipe.fault == "slow_link" and request.method == "GET":
            return await self._slowly(request, reply)
        return whole(reply, headers)

    async def _reply(self, recipe: Recipe, request: web.Request) -> Reply:
        media_type = MEDIA_TYPES[recipe.output_format]
        match recipe.fault:
            case "dead_link":
                return _missing()
            case "redirect_loop":
                return Reply(status=302, content_type="text/plain", headers={"Location": request.rel_url.raw_path})
            case "flaky_link" if not self._fetches.add(int(recipe.digest[:8], 16) << 32 | recipe.turn):
                return Reply(status=503, content_type="text/plain", body=b"Service Unavailable\n")
            case "html_image":
                return Reply(body=_PAGE, content_type=media_type)
        data = await self._studio.picture(recipe)
        kind = sniff(data) or media_type if recipe.fault == "echoed_input" else media_type
        return Reply(body=data, content_type=kind)

    async def _slowly(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": reply.content_type})
        response.content_length = len(reply.body)
        await response.prepare(request)
        for start in range(0, len(reply.body), _SLOW_BYTES):
            if self._api.closing.is_set():
                return reset(request)
            await response.write(reply.body[start : start + _SLOW_BYTES])
            await self._api.pause(_SLOW_SECONDS)
        return response


def _missing() -> Reply:
    return error_reply(404, "There is no such file, or it has expired.", "invalid_request_error", code="not_found")

"""Answer Gemini's files, whose upload has two steps, and its batches: `:batchGenerateContent` and `/v1beta/batches`."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from batchflux.simulator import replies
from batchflux.simulator.apis import Asked
from batchflux.simulator.batches.base import FAILURES, Batch, BatchQueue, Line, StoredFile, new_file
from batchflux.simulator.queues.base import origin_of
from batchflux.simulator.replies import Refusal, Reply, dumps, json_reply
from batchflux.simulator.requests import check, json_object

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

_LIFE = 48 * 3600  # seconds
_MOST_BYTES = 2 << 30
_PAGE, _MOST_PAGE = 10, 100
_STATES = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}
_TYPE = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 500: 13, 503: 14, 504: 4}
_UNKNOWN = 2
_LENGTH = "Header-Content-Length"


class GeminiBatchQueue(BatchQueue):
    """The handlers of Gemini's files and batches."""

    api = "gemini"
    keeps_expired = False
    quota_at_once = True

    def new_id(self, kind: str) -> str:
        """Return a name that nothing has yet."""
        return super().new_id("files/x" if kind == "file" else "batches/x").replace("-", "")

    def routes(self, router: web.UrlDispatcher, *, alone: bool) -> None:
        """Put the handlers at their paths; `/v1/batches`, which Google's client may ask for, is OpenAI's, too."""
        del alone
        version, own = "{version:v1|v1beta}", "{id:x[0-9a-f]{24}}"
        for below in ("/gemini", ""):
            router.add_post(f"{below}/upload/{version}/files", self.uploaded)
            router.add_get(f"{below}/{version}/files/{own}", self.handled(self.about))
            for way in ("/download", ""):
                router.add_get(f"{below}{way}/{version}/files/{own}:download", self.handled(self.content))
            path = rf"{below}/{version}/models/{{model:[\w.-]+}}:batchGenerateContent"
            router.add_post(path, self.handled(self.create))
            router.add_get(f"{below}/{version}/batches", self.handled(self.list))
            router.add_get(f"{below}/{version}/batches/{own}", self.handled(self.retrieve))
            router.add_post(f"{below}/{version}/batches/{own}:cancel", self.handled(self.stop))

    def entry(self, raw: bytes) -> tuple[str, Asked]:
        """Return the `key` of a line, and its request; ValueError: it is no line of a batch."""
        try:
            line = json_object(raw)
        except Refusal as refusal:
            raise ValueError("This line is not parseable as valid JSON.") from refusal
        key, request = line.get("key"), line.get("request")
        if isinstance(key, str) and isinstance(request, dict):
            return key, Asked(raw=dumps(request))
        raise ValueError("A line must have a key and a request.")

    def check(self, batch: Batch, asked: Asked) -> str | None:
        """Return what a line has that its batch must not: the model is the batch's own."""
        del batch, asked
        return None

    def answer(self, line: Line, reply: Reply) -> bytes:
        """Return the line that tells an answer: a response, or an error by its code in gRPC."""
        key = dumps({"key": line.key})[:-1]
        if reply.status < FAILURES:
            return b'%b,"response":%b}\n' % (key, reply.body or b"{}")
        try:
            told = json.loads(reply.body)["error"]
        except (ValueError, LookupError, TypeError):
            told = {"message": "The request failed."}
        error = {"code": _GRPC.get(reply.status, _UNKNOWN), "message": told["message"]}
        more = {"details": told["details"]} if "details" in told else {}
        return b'%b,"error":%b}\n' % (key, dumps(error | more))

    def parts(self, batch: Batch) -> dict[str, Iterable[Line]]:
        """Return the one file that there is, unless the batch failed or expired."""
        done = [line for line in batch.lines if line.ended]
        return {"responses": done} if done and batch.state in ("completed", "cancelled") else {}

    async def uploaded(self, http: web.Request) -> web.StreamResponse:
        """Answer a step of an upload: who has its address needs no key."""
        return await (self.handled(self.upload) if "upload_id" not in http.query else self._keyless)(http)

    async def _keyless(self, http: web.Request) -> web.StreamResponse:
        try:
            return await self.more(http)
        except Refusal as refusal:
            return self.endpoint.response(refusal.reply, self.api)

    async def upload(self, http: web.Request, key: str) -> web.StreamResponse:
        """Answer the start of an upload by the address where it goes on."""
        told = {name: http.headers.get(f"X-Goog-Upload-{name}", "") for name in ("Protocol", "Command", _LENGTH)}
        good = told["Command"] == "start" and told["Protocol"] == "resumable" and told[_LENGTH].isdecimal()
        check(good, "The simulator takes resumable uploads of a known size only.", None)
        check(int(told[_LENGTH]) <= _MOST_BYTES, "The file is larger than 2 GB.", None)
        file = self.store(key, "upload", new_file(), 0)
        place = f"{origin_of(http, self.api)}/upload/v1beta/files?upload_id={file.id[6:]}&upload_protocol=resumable"
        return self._told({}, {"X-Goog-Upload-URL": place, "X-Goog-Upload-Status": "active"})

    async def more(self, http: web.Request) -> web.StreamResponse:
        """Take a piece of a file."""
        file = self.files.get(f"files/{http.query['upload_id']}")
        offset, command = http.headers.get("X-Goog-Upload-Offset", ""), http.headers.get("X-Goog-Upload-Command", "")
        if file is None or file.source is None or not offset.isdecimal() or int(offset) > file.size:
            raise replies.invalid("There is no such upload, or not at this place.", None)
        file.size = await _written(http, file.source, int(offset))
        if "finalize" not in command:
            return self._told({}, {"X-Goog-Upload-Status": "active"})
        return self._told({"file": _file(file, http)}, {"X-Goog-Upload-Status": "final"})

    async def about(self, http: web.Request, key: str) -> web.StreamResponse:
        """Tell of a file."""
        return self._told(_file(self.file(key, f"files/{http.match_info['id']}"), http))

    async def content(self, http: web.Request, key: str) -> web.StreamResponse:
        """Give a file of answers; one that was brought is not given."""
        file = self.file(key, f"files/{http.match_info['id']}")
        if file.batch is None:
            raise Refusal(replies.error_reply(403, "The file is not downloadable.", "invalid_request_error"))
        return await self.download(http, file)

    async def create(self, http: web.Request, key: str) -> web.StreamResponse:
        """Make a batch."""
        batch = json_object(await http.read(), _camel).get("batch")
        name = batch.get("displayName") if isinstance(batch, dict) else None
        source = batch.get("inputConfig") if isinstance(batch, dict) else None
        file = source.get("fileName") if isinstance(source, dict) else None
        if not isinstance(name, str) or not isinstance(file, str):
            raise replies.invalid("batch must have display_name and input_config with file_name.", "batch")
        model = http.match_info["model"]
        place = {"model": model, "action": "generateContent"}
        made = await self.made(http, key, self.file(key, file), place, {"name": name, "model": model})
        return self._told(_batch(made)) if isinstance(made, Batch) else made

    async def retrieve(self, http: web.Request, key: str) -> web.StreamResponse:
        """Tell of a batch."""
        batch = self.batch(key, f"batches/{http.match_info['id']}")
        self.endpoint.journal.polls[batch.state] += 1
        return replies.whole(json_reply(_batch(batch)), {})

    async def stop(self, http: web.Request, key: str) -> web.StreamResponse:
        """Cancel a batch."""
        self.cancel(self.batch(key, f"batches/{http.match_info['id']}"))
        return self._told({})

    async def list(self, http: web.Request, key: str) -> web.StreamResponse:
        """Give a page of a key's batches."""
        limit, token = http.query.get("pageSize", str(_PAGE)), http.query.get("pageToken", "0")
        check(limit.isdecimal() and token.isdecimal(), "pageSize and pageToken must be such as were given.", None)
        start, size = int(token), min(int(limit) or _PAGE, _MOST_PAGE)
        found = self.listed(key)
        following = {"nextPageToken": str(start + size)} if len(found) > start + size else {}
        return self._told({"operations": [_batch(one) for one in found[start : start + size]], **following})

    def _told(self, value: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
        response = self.endpoint.response(json_reply(value), self.api)
        response.headers.update(headers or {})
        return response


async def _written(http: web.Request, source: IO[bytes], offset: int) -> int:
    """Write a body into a file from a place on; return how long the file is then."""
    source.seek(offset)
    async for piece in http.content.iter_any():
        await asyncio.to_thread(source.write, piece)
    source.truncate()
    source.flush()
    return source.tell()


def _camel(read: dict[str, Any]) -> dict[str, Any]:
    names = {"display_name": "displayName", "input_config": "inputConfig", "file_name": "fileName"}
    return {names.get(key, key): value for key, value in read.items()}


def _file(file: StoredFile, http: web.Request) -> dict[str, Any]:
    return {
        "name": file.id,
        "mimeType": "application/jsonl",
        "sizeBytes": str(file.size),
        "createTime": _iso(file.created),
        "updateTime": _iso(file.created),
        "expirationTime": _iso(file.created + _LIFE),
        "uri": f"{origin_of(http, 'gemini')}/v1beta/{file.id}",
        "state": "ACTIVE",
        "source": "UPLOADED" if file.batch is None else "GENERATED",
    }


def _batch(batch: Batch) -> dict[str, Any]:
    counts, ended = batch.counts, batch.ended
    output = {"responsesFile": batch.outputs["responses"].id} if "responses" in batch.outputs else None
    stats = {
        "requestCount": counts["total"],
        "successfulRequestCount": counts["completed"],
        "failedRequestCount": counts["failed"],
        "pendingRequestCount": counts["total"] - counts["completed"] - counts["failed"],
    }
    about = {
        "@type": _TYPE,
        "name": batch.id,
        "model": f"models/{batch.about['model']}",
        "displayName": batch.about["name"],
        "inputConfig": {"fileName": batch.file.id},
        "createTime": _iso(batch.created),
        "updateTime": _iso(ended or batch.created),
        "batchStats": {name: str(count) for name, count in stats.items() if count},
        "state": f"BATCH_STATE_{_STATES[batch.state]}",
        **({"endTime": _iso(ended)} if ended is not None else {}),
        **({"output": output} if output else {}),
    }
    said: dict[str, Any] = {"name": batch.id, "metadata": about}
    if ended is None:
        return said
    if batch.state == "failed":
        return said | {"done": True, "error": {"code": 3, "message": batch.errors[0]["message"]}}
    return said | {"done": True, **({"response": {"@type": _TYPE, **output}} if output else {})}


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

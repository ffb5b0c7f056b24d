"""Answer OpenAI's files and batches: `/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
from typing import IO, TYPE_CHECKING, Any

from aiohttp import BodyPartReader

from batchflux.simulator import replies
from batchflux.simulator.apis import Asked
from batchflux.simulator.batches.base import Batch, BatchQueue, Line, StoredFile, new_file
from batchflux.simulator.replies import JSON_TYPE, Refusal, Reply, dumps, json_reply, whole
from batchflux.simulator.requests import check, json_object, refuse_unknown, text_in

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiohttp import web

_ENDPOINTS = {"/v1/images/generations": "generations", "/v1/images/edits": "edits"}
_FIELDS = frozenset({"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"})
_MOST_PAIRS, _PAGE, _MOST_PAGE = 16, 20, 100
_LIFE, _WINDOW = 30 * 86_400, 86_400  # seconds
_MOST_BYTES = 512 << 20
_PIECE = 1 << 18


class OpenAiBatchQueue(BatchQueue):
    """The handlers of OpenAI's files and batches."""

    api = "openai"
    keeps_expired = True
    quota_at_once = False

    def routes(self, router: web.UrlDispatcher, *, alone: bool) -> None:
        """Put the handlers at their paths; `POST /v1/files` is Replicate's, too."""
        for below in ("/openai", ""):
            file, batch = rf"{below}/v1/files/{{id:file-[\w-]+}}", f"{below}/v1/batches/{{id}}"
            if below or alone:
                router.add_post(f"{below}/v1/files", self.handled(self.upload))
            router.add_get(file, self.handled(self.about))
            router.add_get(f"{file}/content", self.handled(self.content))
            router.add_post(f"{below}/v1/batches", self.handled(self.create))
            router.add_get(f"{below}/v1/batches", self.handled(self.list))
            router.add_get(batch, self.handled(self.retrieve))
            router.add_post(f"{batch}/cancel", self.handled(self.stop))

    def entry(self, raw: bytes) -> tuple[str, Asked]:
        """Return the `custom_id` of a line, and its request; ValueError: it is no line of a batch."""
        try:
            line = json_object(raw)
        except Refusal as refusal:
            raise ValueError("This line is not parseable as valid JSON.") from refusal
        key, body = line.get("custom_id"), line.get("body")
        if not isinstance(key, str) or not isinstance(body, dict) or line.get("method") != "POST":
            raise ValueError("A line must have custom_id, method: POST, url and body.")
        return key, Asked(raw=dumps(body), path={"url": str(line.get("url")), "model": str(body.get("model"))})

    def check(self, batch: Batch, asked: Asked) -> str | None:
        """Return what a line has that its batch must not; a batch is for the model of its first line."""
        model = batch.about.setdefault("model", asked.path["model"])
        if asked.path["url"] != batch.about["endpoint"]:
            return "The URL provided for this request does not match the batch endpoint."
        return None if asked.path["model"] == model else "All requests of a batch must be for one model."

    def answer(self, line: Line, reply: Reply) -> bytes:
        """Return the line that tells an answer, as it is, under its status."""
        body = reply.body if reply.content_type == JSON_TYPE else dumps(reply.body.decode(errors="replace"))
        head = dumps({"id": f"batch_req_{line.start:x}", "custom_id": line.key})
        told = dumps({"status_code": reply.status, "request_id": f"req_{line.start:x}"})
        return b'%b,"response":%b,"body":%b},"error":null}\n' % (head[:-1], told[:-1], body or b"null")

    def parts(self, batch: Batch) -> dict[str, Iterable[Line]]:
        """Return the answers that went well, and those that did not, or were not made, where there are any."""
        well = [line for line in batch.lines if line.ended and line.refused is None]
        failed = [line for line in batch.lines if line.refused is not None]
        return {**({"output": well} if well else {}), **({"error": failed} if failed or self._left(batch) else {})}

    def rest(self, batch: Batch, part: str) -> bytes:
        """Return which requests were not made before the batch ended."""
        if part != "error":
            return b""
        code = f"batch_{batch.state}"
        says = f"This request could not be executed before the batch {batch.state}."
        lines = [
            {"id": f"batch_req_{line.start:x}", "custom_id": line.key, "response": None}
            | {"error": {"code": code, "message": says}}
            for line in self._left(batch)
        ]
        return b"".join(dumps(line) + b"\n" for line in lines)

    def _left(self, batch: Batch) -> list[Line]:
        return [line for line in batch.lines if not line.ended] if batch.state in ("expired", "cancelled") else []

    async def upload(self, http: web.Request, key: str) -> web.StreamResponse:
        """Take a file."""
        texts, found = dict[str, str](), list[tuple[str, IO[bytes], int]]()
        try:
            await _read(http, texts, found)
            check(texts.get("purpose") == "batch", "The simulator takes files for purpose=batch only.", "purpose")
            check(found, "'file' is a required property", "file")
        except Refusal:
            for _, source, _ in found:
                source.close()
            raise
        return self._told(_file(self.store(key, *found[0])))

    async def about(self, http: web.Request, key: str) -> web.StreamResponse:
        """Tell of a file."""
        return self._told(_file(self.file(key, http.match_info["id"])))

    async def content(self, http: web.Request, key: str) -> web.StreamResponse:
        """Give a file."""
        return await self.download(http, self.file(key, http.match_info["id"]))

    async def create(self, http: web.Request, key: str) -> web.StreamResponse:
        """Make a batch."""
        body = json_object(await http.read())
        refuse_unknown(body, _FIELDS)
        endpoint, pairs = text_in(body, "endpoint"), body.get("metadata") or {}
        check(endpoint in _ENDPOINTS, f"Invalid value: '{endpoint}'.", "endpoint", "invalid_value")
        check(body.get("completion_window") == "24h", "completion_window must be 24h.", "completion_window")
        texts = isinstance(pairs, dict) and all(isinstance(one, str) for pair in pairs.items() for one in pair)
        check(texts and len(pairs) <= _MOST_PAIRS, f"metadata must be at most {_MOST_PAIRS} texts.", "metadata")
        file = self.file(key, text_in(body, "input_file_id"))
        about = {"endpoint": endpoint, "metadata": pairs or None}
        made = await self.made(http, key, file, {"action": _ENDPOINTS[endpoint]}, about)
        return self._told(_batch(made)) if isinstance(made, Batch) else made

    async def retrieve(self, http: web.Request, key: str) -> web.StreamResponse:
        """Tell of a batch."""
        batch = self.batch(key, http.match_info["id"])
        self.endpoint.journal.polls[batch.state] += 1
        return whole(json_reply(_batch(batch)), {})

    async def stop(self, http: web.Request, key: str) -> web.StreamResponse:
        """Cancel a batch."""
        batch = self.batch(key, http.match_info["id"])
        says = f"Cannot cancel a batch with status '{batch.state}'."
        if batch.ended is not None and batch.state != "cancelled":
            raise Refusal(replies.error_reply(409, says, "invalid_request_error"))
        self.cancel(batch)
        return self._told(_batch(batch))

    async def list(self, http: web.Request, key: str) -> web.StreamResponse:
        """Give a page of a key's batches."""
        limit, after = http.query.get("limit", str(_PAGE)), http.query.get("after")
        size = int(limit) if limit.isdecimal() else 0
        check(1 <= size <= _MOST_PAGE, f"limit must be from 1 to {_MOST_PAGE}.", "limit")
        found = self.listed(key)
        ids = [batch.id for batch in found]
        check(after is None or after in ids, f"No batch found with id '{after}'.", "after")
        start = 0 if after is None else ids.index(after) + 1
        page = found[start : start + size]
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {"first_id": None, "last_id": None}
        more = len(found) > start + size
        return self._told({"object": "list", "data": [_batch(one) for one in page], **ends, "has_more": more})

    def _told(self, value: dict[str, Any]) -> web.Response:
        return self.endpoint.response(json_reply(value), self.api)


async def _read(http: web.Request, texts: dict[str, str], found: list[tuple[str, IO[bytes], int]]) -> None:
    """Read a form as it comes: its texts, and into a file of its own what is to be kept; or raise its Refusal."""
    if http.content_type != "multipart/form-data":
        raise replies.invalid("The body must be multipart/form-data.", None)
    try:
        reader = await http.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise replies.invalid("The body holds a form within a form.", None)
            if part.name == "file":
                found.append(await _kept(part))
            else:
                texts[part.name or ""] = await part.text()
    except ValueError as error:
        raise replies.invalid("The body is not valid multipart/form-data.", None) from error


async def _kept(part: BodyPartReader) -> tuple[str, IO[bytes], int]:
    source, size = new_file(), 0
    while piece := await part.read_chunk(_PIECE):
        size += len(piece)
        if size > _MOST_BYTES:
            source.close()
            raise replies.invalid("The file is larger than 512 MB.", "file")
        await asyncio.to_thread(source.write, piece)
    source.flush()
    return part.filename or "file", source, size


def _file(file: StoredFile) -> dict[str, Any]:
    created = int(file.created)
    return {
        "object": "file",
        "id": file.id,
        "purpose": "batch" if file.batch is None else "batch_output",
        "filename": file.name,
        "bytes": file.size,
        "created_at": created,
        "expires_at": created + _LIFE,
        "status": "processed",
        "status_details": None,
    }


def _batch(batch: Batch) -> dict[str, Any]:
    created, ended = int(batch.created), None if batch.ended is None else int(batch.ended)
    state, counts = batch.state, batch.counts
    errors = {"object": "list", "data": batch.errors} if batch.errors else None
    moments = dict.fromkeys(
        ("in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at")
    )
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.about["endpoint"],
        "model": batch.about.get("model"),
        "errors": errors,
        "input_file_id": batch.file.id,
        "completion_window": "24h",
        "status": state,
        "output_file_id": batch.outputs["output"].id if "output" in batch.outputs else None,
        "error_file_id": batch.outputs["error"].id if "error" in batch.outputs else None,
        "created_at": created,
        **moments,
        **({f"{state}_at": ended} if ended is not None else {}),
        "expires_at": created + _WINDOW,
        "request_counts": {name: counts[name] for name in ("total", "completed", "failed")},
        "metadata": batch.about["metadata"],
    }

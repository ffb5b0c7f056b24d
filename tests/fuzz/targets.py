"""What is fuzzed: bytes from strangers go in, and what must hold for any bytes is checked.

A target takes bytes, calls the program's own reader, and raises AssertionError when it did something that it never
may; everything else that it raises is a crash. `seeds` are whole inputs to begin with, `words` what its language is
made of.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from PIL import Image

from batchflux.errors import Code, Fault, JobError, ManifestError
from batchflux.manifest import expand, load_manifest, starter
from batchflux.models import Asset, Finished, Format, Inline, Job, Link, Reference, Verify
from batchflux.output.verify import Expected, check
from batchflux.providers import capabilities, providers
from batchflux.providers.answers import failures
from batchflux.providers.answers.echoes import canonical
from batchflux.providers.answers.reading import AnswerReader

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hook-canary-0123456789"
PHOTO = b"\xff\xd8the uploaded photo\xff\xd9"
REFERENCE = "https://photos.example/in/mug%20(1).jpg?v=1&w=2"
LONGEST_MESSAGE = 2000
MOST_JOBS = 60
_PADDING = b"\0\r\n"
_FORBIDDEN = re.compile(r"(?:^|/)\.\.(?:/|$)|[\x00-\x1f]|\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One thing to fuzz."""

    check: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    words: tuple[bytes, ...]


# --- manifests -------------------------------------------------------------------------------------------------------


@cache
def _folder() -> Path:
    """A folder with what manifests name, which becomes the current one."""
    made = tempfile.TemporaryDirectory(prefix="batchflux-fuzz-")
    _folder_kept.append(made)
    folder = Path(made.name)
    (folder / "photos").mkdir()
    (folder / "photos/mug.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(64))
    (folder / "products.csv").write_text("sku,title,photo\nM-1,Mug,photos/mug.jpg\nC-1,Cup,https://x.example/c.png\n")
    (folder / "lines.txt").write_text("one\ntwo\n")
    os.chdir(folder)
    return folder


_folder_kept: list[tempfile.TemporaryDirectory[str]] = []


def manifest(data: bytes) -> str:
    """A manifest is jobs or faults, each of which says where and what."""
    path = _folder() / "m.yaml"
    path.write_bytes(data)
    faults: list[Fault] = []
    try:
        made = load_manifest(path, environ={"A": "x"}, offers=capabilities())
        jobs = list(zip(range(MOST_JOBS), expand(made, capabilities(), faults.append), strict=False))
    except ManifestError as error:
        faults, jobs = list(error.faults), []
        if not faults:
            raise AssertionError("refused without a fault") from error
    for fault in faults:
        text = str(fault)
        assert "\n" not in text, text
        assert len(text) < LONGEST_MESSAGE, text
        assert fault.message
    _check_jobs([job for _, job in jobs])
    return "faults" if faults else "jobs"


def _check_jobs(jobs: list[Job]) -> None:
    assert len({job.id for job in jobs}) == len(jobs)
    assert len({job.key for job in jobs}) == len(jobs)
    assert len({job.file_name.casefold() for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.file_name.startswith("images/")
        assert not _FORBIDDEN.search(job.file_name), job.file_name
        assert job.prompt.strip()


def _manifests() -> list[bytes]:
    table = (
        'version: 1\njobs:\n  - prompt: "{{ title }} on {{ surface }}"\n    from: products.csv\n'
        '    images: ["{{ photo }}"]\n    matrix:\n      surface: [marble, oak]\n      seed: {range: [1, 3]}\n'
        "      aspect_ratio: [1:1, 9:16]\n    exclude:\n      - {surface: oak, aspect_ratio: 9:16}\n"
        '    tags: {sku: "{{ sku }}"}\n'
    )
    photos = (
        "version: 1\nprovider: {name: tuzi, keys: [A], price: 0.14, currency: CNY, params: drop, style: chat}\n"
        "limits: {concurrency: 4, rate: 300/min, budget: 25.00, deadline: '06:00', timeout: 6m}\n"
        'output: {dir: out/x, file_name: "{{ image.stem }}-{{ line }}.{{ ext }}", verify: structure}\n'
        "defaults: &d {seed: 42, output_format: png}\njobs:\n  - <<: *d\n    prompt: Remove the background\n"
        "    matrix: {image: {glob: photos/*.jpg}, line: {lines: lines.txt}}\n"
    )
    return [starter().encode(), table.encode(), photos.encode()]


# --- answers ---------------------------------------------------------------------------------------------------------


@cache
def job() -> Job:
    """A job with a URL and a file as references, and a secret."""
    local = Reference(source="m.jpg", path="/m.jpg", sha256=hashlib.sha256(PHOTO).hexdigest(), media_type="image/jpeg")
    return Job(
        id="mug-red",
        key="0" * 64,
        prompt="Make the mug red",
        style="chat",
        model="flux-kontext-pro",
        provider="tuzi",
        file_name="images/mug-red.jpg",
        position=0,
        images=(Reference(source=REFERENCE, url=REFERENCE), local),
        webhook_secret=SECRET,
    )


def answer(packets: list[bytes], *, complete: bool, status: int = 200) -> Asset | JobError:
    """What the program makes of an answer that comes in these packets."""
    taking = AnswerReader(job(), status, {})
    for packet in packets:
        if taking.feed(packet):
            break
    try:
        reply = taking.finish(complete=complete)
    except JobError as error:
        return error
    assert isinstance(reply, Finished)
    return reply.asset


def check_answer(got: Asset | JobError) -> str:
    """Check what holds for any answer; return what it was."""
    if isinstance(got, Link):
        assert canonical(got.url) != canonical(REFERENCE), "the reference is no result"
        assert got.url.lower().startswith(("http://", "https://"))
        return "link"
    if isinstance(got, Inline):
        assert got.data not in {b"", PHOTO}, "the upload is no result"
        return "inline"
    assert got.code in Code
    assert 0 < len(got.message) <= LONGEST_MESSAGE
    assert got.message.isprintable(), got.message
    assert SECRET not in got.message
    return got.code.value


def stream(data: bytes) -> str:
    """An answer is a picture or an error, the same however it is cut into packets."""
    at, status = (
        (data[-1] * len(data) // 256, (200, 200, 200, 400, 429, 503)[data[-2] % 6]) if len(data) > 1 else (0, 200)
    )
    complete = len(data) % 4 != 0
    whole = answer([data], complete=complete, status=status)
    parts = answer([data[:at], data[at:]], complete=complete, status=status)
    bytewise = answer([data[i : i + 1] for i in range(len(data))], complete=complete, status=status)
    shown = [one.code if isinstance(one, JobError) else one for one in (whole, parts, bytewise)]
    assert shown[0] == shown[1] == shown[2], shown
    return check_answer(whole)


def frames(*contents: str, done: bool = True) -> bytes:
    """A chat stream of these contents."""
    made = b"".join(
        b"data: "
        + json.dumps({"choices": [{"index": 0, "delta": {"content": content}}]}, ensure_ascii=False).encode()
        + b"\n\n"
        for content in contents
    )
    return made + (b"data: [DONE]\n\n" if done else b"")


def _answers() -> list[bytes]:
    out = "https://cdn.example/o.png"
    echo = "```json\n" + json.dumps({"prompt": f"{REFERENCE} Make the mug red", "model": "flux"}) + "\n```\n"
    return [
        frames(echo, "> 进度 **2%**\n", f"![image]({out})", "[点击下载](https://cdn.example/d)"),
        frames(f"![image]({REFERENCE})", "生成失败 ❌ input_moderation"),
        frames("![image]()", f"[x]({REFERENCE})", done=False)
        + b'event: error\r\ndata: {"error":{"message":"x"}}\r\n\r\n',
        frames("data:image/png;base64,", "iVBORw0KGgo=", "\n", "done"),
        json.dumps({"data": [{"url": out}, {"b64_json": "iVBORw0KGgo="}], "created": 1}).encode(),
        json.dumps({"choices": [{"message": {"content": f"![image]({out})"}}]}).encode(),
        json.dumps({"error": {"message": '{"error": {"code": 429}}', "code": None}}).encode(),
        b"<html><title>502</title></html>",
    ]


# --- the failure table -----------------------------------------------------------------------------------------------


def failure(data: bytes) -> str:
    """Whatever a failed answer says, it is one error of the contract, in one line without secrets."""
    status = (300, 302, 400, 401, 402, 403, 404, 408, 418, 422, 429, 500, 502, 503, 524)[len(data) % 15]
    text = data.decode("utf-8", "replace")
    got = failures.from_answer(status, {"location": text[:300]}, text, hide=SECRET)
    check_answer(got)
    if status in {401, 402, 403}:
        assert got.code in {Code.AUTH, Code.QUOTA, Code.MODERATED, Code.RATE_LIMITED, Code.INVALID_REQUEST, Code.SERVER}
    prose = failures.from_prose(text, hide=SECRET)
    if prose is not None:
        check_answer(prose)
    return got.code.value


def _failures() -> list[bytes]:
    codes = "sensitive_words_detected insufficient_user_quota rate_limit_exceeded invalid_api_key get_channel_failed"
    made = [
        json.dumps({"error": {"message": f"no {SECRET} https://a/b?sig=x", "type": "api_error", "code": code}}).encode()
        for code in codes.split()
    ]
    nested = {"error": {"message": json.dumps({"error": {"code": "429", "message": "too many requests"}})}}
    return [*made, json.dumps(nested).encode(), b"<html><title>502 Bad Gateway</title></html>", "余额不足".encode()]


# --- pictures --------------------------------------------------------------------------------------------------------


def picture(data: bytes) -> str:
    """What is taken for a picture is one, still and whole, with nothing behind it, for another reader too."""
    kinds: dict[str, Any] = {}
    for how in get_args(Verify):
        try:
            shape, digest, differs = check(data, Expected(), how)
        except JobError as error:
            if check_answer(error) != Code.BAD_IMAGE:
                raise
            continue
        assert digest == hashlib.sha256(data).hexdigest()
        if differs.keys() & {"trailing", "animated"} or shape.kind not in get_args(Format):
            return "differs"
        kinds[how] = shape
    if "decode" not in kinds:
        return "bad_image"
    assert kinds["decode"] == kinds["structure"]
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert image.size == (kinds["decode"].width, kinds["decode"].height)
        assert (image.format or "").lower() == kinds["decode"].kind
        assert getattr(image, "n_frames", 1) == 1
    ends = {"png": b"IEND\xaeB`\x82", "jpeg": b"\xff\xd9"}
    assert data.rstrip(_PADDING).endswith(ends.get(kinds["decode"].kind, b"")), "something lies behind the picture"
    return str(kinds["decode"].kind)


def _pictures() -> list[bytes]:
    image = Image.new("RGB", (24, 16), (200, 20, 30))
    image.putdata([(x * 7 % 256, x * 13 % 256, x % 256) for x in range(24 * 16)])
    made = []
    for kind, how in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **how)
        made.append(file.getvalue())
    moving = io.BytesIO()
    image.save(moving, "PNG", save_all=True, append_images=[image.rotate(90)])
    return [*made, moving.getvalue(), b"GIF89a", b"<svg/>"]


def _words(text: str) -> tuple[bytes, ...]:
    return tuple(word.encode("utf-8", "surrogatepass") for word in text.split("|"))


TARGETS = {
    "yaml": Target(
        check=manifest,
        seeds=_manifests,
        words=_words(
            "{|}|[|]|: |, |- |? |&a |*a|<<: |!!str |!|>|\n|\t|'|\"|%|#|---\n|...\n|\ufeff|\x85|\u2028|0x10|1e999|1:1|"
            "{{|}}|{{ title }}|{% for x in y %}|{% endfor %}|${A}|range: [1, 9]|glob: '**'|lines: x|from: products.csv|"
            "matrix: |exclude: |../|/etc/passwd|a\0b|\U0001f600|null|~|yes|2026-01-01|.inf"
        ),
    ),
    "sse": Target(
        check=stream,
        seeds=_answers,
        words=_words(
            'data: |event: error\n|id: 1\n|: x\n|\n\n|\r\n|\r|[DONE]|{|}|[|]|"|\\|\\u0|(|)|![image](|](|```|'
            f"https://|data:image/png;base64,|{REFERENCE}|"
            '"choices": []|"delta"|"content"|null|生成失败|\ufeff|&amp;|%2F'
        ),
    ),
    "failures": Target(
        check=failure,
        seeds=_failures,
        words=_words(
            '{"error": |{"message": |{"code": |"type": |null|429|[|]|{|}|"|\\|insufficient|quota|rate limit|<html|'
            f"<title>|敏感|余额|{SECRET}|Bearer x.y-z|https://a/?|sk-abcdefgh|data: |\n|\u202e|\0"
        ),
    ),
    "image": Target(
        check=picture,
        seeds=_pictures,
        words=(
            *(
                b"\xff\xd8",
                b"\xff\xd9",
                b"\xff\xda",
                b"\xff\xc0",
                b"\xff\x00",
                b"\0\0\0\0",
                b"\xff\xff\xff\xff",
                b"\0\0\0\x01",
            ),
            *(
                b"IHDR",
                b"IDAT",
                b"IEND",
                b"acTL",
                b"PLTE",
                b"\x89PNG\r\n\x1a\n",
                b"RIFF",
                b"WEBP",
                b"VP8X",
                b"ANMF",
                b"VP8L",
            ),
        ),
    ),
}
assert providers()

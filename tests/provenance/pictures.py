"""Pictures of the three containers, and what others put into them, made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from batchflux.provenance import About

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about="uuid:&amp;1" '
    'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Studio 猫">'
    '<dc:title><r:Alt><r:li xml:lang="x-default">A &lt;mug&gt;</r:li></r:Alt></dc:title></r:Description>{more}'
    "</r:RDF></x:xmpmeta>\n" + " " * 200 + '<?xpacket end="w"?>'
)
"""A packet as another program writes it: other prefixes, attributes, an about of its own, padding."""
KINDS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpeg": {"format": "JPEG"},
    "lossy": {"format": "WEBP"},
    "lossless": {"format": "WEBP", "lossless": True},
    "alpha": {"format": "WEBP", "lossless": True},
    "progressive": {"format": "JPEG", "progressive": True},
}


def about(**more: Any) -> About:
    said = {"prompt": "a mug", "model": "gpt-image-1", "producer": "openai", "number": "ab" * 32}
    return About(**(said | {"seed": 7, "width": 64, "height": 48} | more))


def picture(kind: str, **more: Any) -> bytes:
    """A picture in which no two pixels are alike."""
    drawn = Image.linear_gradient("L").resize((64, 48))
    mode = "RGBA" if kind == "alpha" else "RGB"
    drawn = Image.merge(mode, [drawn.rotate(angle) for angle in (0, 90, 180, 45)[: len(mode)]])
    stream = io.BytesIO()
    drawn.save(stream, **(KINDS[kind] | more))
    return stream.getvalue()


def with_xmp(kind: str, packet: str) -> bytes:
    """A picture with an XMP packet of others, put in by Pillow."""
    data = packet.encode()
    return (
        with_chunk(picture(kind), b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data, last=True)
        if kind == "png"
        else picture(kind, xmp=data)
    )


def with_chunk(png: bytes, name: bytes, body: bytes, *, last: bool = False) -> bytes:
    """A PNG with another chunk behind its first, or before its last."""
    at = len(png) - 12 if last else 33
    checksum = struct.pack(">I", zlib.crc32(name + body))
    return png[:at] + struct.pack(">I", len(body)) + name + body + checksum + png[at:]


def with_segment(jpeg: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with another segment behind its APP0."""
    at = 20
    return jpeg[:at] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + jpeg[at:]


def with_riff(webp: bytes, name: bytes, body: bytes) -> bytes:
    """A WebP with another chunk at its end."""
    whole = webp[12:] + name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(whole) + 4) + b"WEBP" + whole


def signed(kind: str) -> bytes:
    """A picture with what a C2PA manifest lies in; only its shell."""
    manifest = struct.pack(">I4sI4s", 40, b"jumb", 32, b"jumd") + b"c2pa\0\x11\0\x10\x80\0\0\xaa\08\x9bq\x03c2pa\0"
    if kind == "png":
        return with_chunk(picture(kind), b"caBX", manifest)
    if kind == "jpeg":
        return with_segment(picture(kind), 0xEB, b"JP\0\x01\0\0\0\x01" + manifest)
    return with_riff(picture(kind), b"C2PA", manifest)


def pixels(data: bytes) -> tuple[str, bytes]:
    with Image.open(io.BytesIO(data)) as opened:
        return opened.mode, opened.tobytes()

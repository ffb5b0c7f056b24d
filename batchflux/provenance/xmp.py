"""XMP packets: made, read and added to.

A packet of others is a stranger's XML. It is read by expat, which is given no document type, so that no entity can grow
or be fetched, and is never written anew: properties are put in as a block of their own before the end of its RDF.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from batchflux.provenance.about import EDITED, MADE, MOST, About, aigc, readable, shortened
from batchflux.provenance.parts import SIGNED, LeftError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
TC260 = "http://www.tc260.org.cn/ns/AIGC/1.0/"
SOURCE, SYSTEM, PROMPT = (f"{IPTC} {name}" for name in ("DigitalSourceType", "AISystemUsed", "AIPromptInformation"))
AIGC = f"{TC260} AIGC"
ORIGIN = (SOURCE, SYSTEM, f"{IPTC} AISystemVersionUsed", PROMPT, f"{IPTC} AIPromptWriterName", AIGC)
"""What a packet may say of a picture's origin."""
REMOTE = "http://purl.org/dc/terms/ provenance"
"""A link to a C2PA manifest that lies elsewhere, and holds the digest of the whole file."""
LARGEST = 1 << 20  # bytes of a packet that is read
_PREFIXES = {IPTC: "Iptc4xmpExt", TC260: "TC260"}
_RDF, _DESCRIPTION = f"{RDF} RDF", f"{RDF} Description"
_DEPTH = 2  # of rdf:RDF, at most: it is outermost, or in x:xmpmeta
_BEGIN = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">\n'
)
_END = '\n</rdf:RDF></x:xmpmeta>\n<?xpacket end="w"?>'


class Packet(NamedTuple):
    """What a packet has: its properties, what it is about, and where its RDF ends.

    Properties are by name (`NAMESPACE NAME`), each with its text, '' where it is more than that.
    """

    properties: Mapping[str, str]
    about: str
    end: int


def properties(about: About, marks: Collection[str]) -> dict[str, str]:
    """Return what these marks say of a picture as properties: `NAMESPACE NAME` and text."""
    said: dict[str, str] = {}
    if "iptc" in marks:
        said |= {SOURCE: EDITED if about.edit else MADE, SYSTEM: about.model}
        said |= {PROMPT: about.prompt} if "parameters" in marks else {}
    return said | ({AIGC: aigc(about)} if "tc260" in marks else {})


def read(packet: bytes) -> Packet:
    """Read a packet; LeftError: it is none that could be added to."""
    if len(packet) > LARGEST:
        raise LeftError("its XMP is larger than 1 MB")
    reader = _Reader()
    try:
        reader.parser.Parse(packet.rstrip(b"\0"), True)
    except (expat.ExpatError, ValueError):
        raise LeftError("its XMP cannot be read") from None
    if reader.end is None or not packet.startswith(b"</", reader.end):  # <rdf:RDF/> has no room in it
        raise LeftError("its XMP cannot be read")
    return Packet(reader.properties, reader.about, reader.end)


class _Reader:
    """Collects the properties of all descriptions that lie in rdf:RDF: attributes, elements, and texts of these."""

    def __init__(self) -> None:
        self.parser = parser = expat.ParserCreate("utf-8", " ")
        parser.StartElementHandler, parser.EndElementHandler = self._begin, self._finish
        parser.StartDoctypeDeclHandler, parser.CharacterDataHandler = self._refuse, self._read
        parser.buffer_text = True
        self._path: list[str] = []
        self._text: list[str] = []
        self.properties: dict[str, str] = {}
        self.about = ""
        self.end: int | None = None

    def _refuse(self, *_: object) -> None:
        raise LeftError("its XMP has a document type")

    def _begin(self, name: str, attributes: Mapping[str, str]) -> None:
        if self._path[-1:] == [_RDF] and name == _DESCRIPTION:
            self.about = attributes.get(f"{RDF} about", attributes.get("about", self.about))
            self.properties.update(attributes)
        elif self._path[-2:] == [_RDF, _DESCRIPTION]:
            self._text = [attributes.get(f"{RDF} resource", "")]
        self._path.append(name)

    def _read(self, text: str) -> None:
        if self._path[-3:-1] == [_RDF, _DESCRIPTION]:
            self._text.append(text)

    def _finish(self, name: str) -> None:
        self._path.pop()
        if self._path[-2:] == [_RDF, _DESCRIPTION]:
            self.properties[name] = "".join(self._text).strip()
        if name == _RDF and len(self._path) < _DEPTH:
            self.end = self.parser.CurrentByteIndex


def add(packet: bytes | None, wanted: Mapping[str, str], room: int) -> bytes:
    """Return a packet of at most `room` bytes with the properties that it has not yet, the prompt cut to fit.

    Raises LeftError: it cannot be read, or has no room for them.
    """
    there = Packet({}, "", 0) if packet is None else read(packet)
    if REMOTE in there.properties:
        raise LeftError(SIGNED)
    new = {name: readable(text) for name, text in wanted.items() if name not in there.properties and text}
    if not new:
        return packet or b""
    head, tail = (_BEGIN.encode(), _END.encode()) if packet is None else (packet[: there.end], packet[there.end :])
    spare = min(room - len(head) - len(tail), MOST)
    prompt = new.pop(PROMPT, "")
    short = shortened(prompt, lambda text: len(_block(there.about, new | {PROMPT: text})) <= spare) if prompt else ""
    block = _block(there.about, new | ({PROMPT: short} if short else {}))
    if len(block) > spare:
        raise LeftError("its XMP has no room for more")
    return head + block + tail


def _block(about: str, properties: Mapping[str, str]) -> bytes:
    used = dict.fromkeys(name.partition(" ")[0] for name in properties)
    spaces = "".join(f" xmlns:{_PREFIXES[one]}={quoteattr(one)}" for one in used)
    lines = []
    for name, text in properties.items():
        space, _, local = name.partition(" ")
        tag = f"{_PREFIXES[space]}:{local}"
        lines.append(f"<{tag}>{escape(text, {chr(13): '&#13;'})}</{tag}>")
    begin = f'<rdf:Description xmlns:rdf="{RDF}" rdf:about={quoteattr(about)}{spaces}>'
    return "\n".join([begin, *lines, "</rdf:Description>"]).encode()

"""Marks: read by exiftool as they are meant, no pixel touched, and nothing of what was there lost."""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD

from batchflux.provenance import MARKS, Marked, carries, kept, marked
from tests.provenance.pictures import KINDS, XMP, about, picture, pixels, signed, with_chunk, with_segment, with_xmp

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
CAMERA = Image.Exif()
CAMERA[0x010F], CAMERA[0x0112] = "Maker", 6
CAMERA.get_ifd(IFD.Exif)[0x829A] = 0.5  # exposure time
WILD = [
    "a mug, 猫 and 🐈, on oak",
    "<b>&amp;</b> ]]> \"quoted\", 'single' <?xpacket end='w'?> </rdf:RDF>",
    "one\ntwo\r\nthree\ttabbed\r",
    "bell \x07, null \0, escape \x1b, half a pair \ud83d, no character \uffff",
    "\u202eturned\u2028round \x85 é ÿ",
    "",
]
PLACES = ("PNG:Parameters", "ExifIFD:UserComment")


@pytest.fixture
def exiftool(need: Callable[[str, bool], None], tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Returns what exiftool reads of pictures, which must please it."""
    found = shutil.which("exiftool")
    need("exiftool (apt-get install libimage-exiftool-perl)", found is not None)

    def read(*pictures: bytes) -> list[dict[str, Any]]:
        for number, data in enumerate(pictures):
            (tmp_path / f"{number:03}").write_bytes(data)
        names = [f"{number:03}" for number in range(len(pictures))]
        line = [str(found), "-j", "-G1", "-struct", "-validate", "-warning", "-error", "-a", "-all", *names]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, check=True)
        said: list[dict[str, Any]] = json.loads(done.stdout)
        for one in said:
            assert "ExifTool:Error" not in one, one
        return said

    return read


def told(said: dict[str, Any]) -> str:
    return str(next(said[place] for place in PLACES if place in said))


def seen(text: str) -> str:
    """A text as exiftool prints it: lines end alike, and what no file can hold is a mark."""
    return re.sub("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "\ufffd", text)


@pytest.mark.parametrize("kind", KINDS)
def test_exiftool_reads_all_marks(kind: str, exiftool: Callable[..., list[dict[str, Any]]]) -> None:
    data = picture(kind)
    done = marked(data, tuple(MARKS), about())
    (said,) = exiftool(done.data)
    assert done.why is None
    assert pixels(done.data) == pixels(data)
    assert carries(done.data) == set(MARKS)
    assert said["XMP-iptcExt:DigitalSourceType"] == MADE
    assert said["XMP-iptcExt:AISystemUsed"] == "gpt-image-1"
    assert said["XMP-iptcExt:AIPromptInformation"] == "a mug"
    label = json.loads(said["XMP-TC260:Aigc"])
    assert list(label) == [
        "Label",
        "ContentProducer",
        "ProduceID",
        "ReservedCode1",
        "ContentPropagator",
        "PropagateID",
        "ReservedCode2",
    ]
    assert (label["Label"], label["ContentProducer"], label["ProduceID"]) == ("1", "openai", "ab" * 32)
    assert told(said) == "a mug\nSeed: 7, Size: 64x48, Model: gpt-image-1, Version: batchflux"
    assert "Missing required" in said.get("ExifTool:Warning", "Missing required")  # what cameras have to say
    assert len(done.data) - len(data) < 1400


def test_each_mark_alone(exiftool: Callable[..., list[dict[str, Any]]]) -> None:
    for kind in ("png", "jpeg", "lossy"):
        made = [marked(picture(kind), (mark,), about(edit=True)).data for mark in MARKS]
        assert [carries(data) for data in made] == [{mark} for mark in MARKS]
        source = [one.get("XMP-iptcExt:DigitalSourceType", "") for one in exiftool(*made)]
        assert [one.rpartition("/")[2] for one in source] == ["compositeWithTrainedAlgorithmicMedia", "", ""]
        assert b"AIPromptInformation" not in b"".join(made)
        assert marked(picture(kind), (), about()) == Marked(picture(kind))


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy"])
def test_any_prompt_is_read_as_it_is(kind: str, exiftool: Callable[..., list[dict[str, Any]]]) -> None:
    made = [marked(picture(kind), tuple(MARKS), about(prompt=text, model=text, producer=text)).data for text in WILD]
    for text, said in zip(WILD, exiftool(*made), strict=True):
        assert said.get("XMP-iptcExt:AIPromptInformation", "") == seen(text)
        assert json.loads(said["XMP-TC260:Aigc"])["ContentProducer"] == seen(text)
        assert told(said).startswith(seen(text) + "\nSeed: 7, Size: 64x48, ")


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy"])
def test_long_prompts_are_whole_where_they_fit_and_cut_where_not(
    kind: str, exiftool: Callable[..., list[dict[str, Any]]]
) -> None:
    prompts = ["猫&" * 5_000, "猫<" * 40_000, "x" * 300_000]
    made = [marked(picture(kind), tuple(MARKS), about(prompt=text)).data for text in prompts]
    for text, data, said in zip(prompts, made, exiftool(*made), strict=True):
        assert pixels(data) == pixels(picture(kind))
        there = said["XMP-iptcExt:AIPromptInformation"], told(said).rpartition("\nSeed: 7, Size")[0]
        for one in there:
            assert one == text or (one.endswith("… [cut]") and text.startswith(one.removesuffix("… [cut]")))
        assert (len(text) != 10_000) or there == (text, text)
        assert min(map(len, there)) >= min(len(text), 5_000)


def test_settings_are_those_that_are_known() -> None:
    data = marked(
        picture("png"), ("parameters",), about(seed=None, steps=28, negative_prompt="blur", model='x/y:z, "1"')
    ).data
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.info["parameters"] == (
            'a mug\nNegative prompt: blur\nSteps: 28, Size: 64x48, Model: "x/y:z, \\"1\\"", Version: batchflux'
        )


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy", "lossless"])
def test_signed_pictures_stay_as_they_are(kind: str) -> None:
    data = signed(kind)
    assert pixels(data) == pixels(picture(kind))
    assert marked(data, tuple(MARKS), about()) == Marked(data, "already signed by the provider (C2PA)")
    assert carries(data) == {"c2pa"}
    remote = '<r:Description xmlns:d="http://purl.org/dc/terms/" d:provenance="https://x.example/1.c2pa"/>'
    data = with_xmp(kind, XMP.format(more=remote))
    assert marked(data, tuple(MARKS), about()) == Marked(data, "already signed by the provider (C2PA)")
    assert carries(data) == {"c2pa"}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_marked_already_stays_as_it_is(kind: str) -> None:
    for marks in (("iptc",), ("iptc", "parameters"), tuple(MARKS)):
        once = marked(picture(kind), marks, about()).data
        assert marked(once, marks, about(prompt="another", model="m", seed=8)).data == once


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy", "lossless"])
def test_a_packet_of_others_is_added_to(kind: str, exiftool: Callable[..., list[dict[str, Any]]]) -> None:
    theirs = '<r:Description r:about="uuid:&amp;1" xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {}'
    said_before = [
        "",
        theirs.format('I:DigitalSourceType="http://theirs.example/x"/>'),
        theirs.format("><I:DigitalSourceType>http://theirs.example/x</I:DigitalSourceType></r:Description>"),
    ]
    before = [with_xmp(kind, XMP.format(more=more)) for more in said_before]
    after = [marked(data, tuple(MARKS), about()) for data in before]
    assert [one.why for one in after] == [None] * 3
    kept = [{name: value for name, value in one.items() if "XMP" in name} for one in exiftool(*before)]
    found = exiftool(*(one.data for one in after))
    for was, one, more in zip(kept, found, said_before, strict=True):
        assert was["XMP-dc:Title"] == "A <mug>"
        assert was.items() - {("XMP-x:XMPToolkit", "")} <= one.items()
        assert one["XMP-iptcExt:DigitalSourceType"] == ("http://theirs.example/x" if more else MADE)
        assert one["XMP-iptcExt:AISystemUsed"] == "gpt-image-1"
        assert one["XMP-TC260:Aigc"].startswith('{"Label":"1"')
        assert one["XMP-rdf:About"] == "uuid:&1"
    for data, done in zip(before, after, strict=True):
        assert pixels(done.data) == pixels(data)


HOSTILE = {
    "its XMP has a document type": '<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;&a;">]><x>&c;</x>',
    "its XMP cannot be read": "<x:xmpmeta xmlns:x='adobe:ns:meta/'><unclosed>",
    "its XMP cannot be read ": '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/>',
    "its XMP cannot be read  ": "<a/>",
}


@pytest.mark.parametrize("kind", ["png", "jpeg", "lossy"])
def test_a_packet_that_cannot_be_added_to_leaves_the_picture_as_it_is(kind: str) -> None:
    for why, packet in HOSTILE.items():
        data = with_xmp(kind, packet)
        assert marked(data, tuple(MARKS), about()) == Marked(data, why.strip())
        assert carries(data) == set()


def test_packets_without_bounds_are_not_read() -> None:
    blank = XMP.format(more="") + " " * (1 << 20)
    data = with_xmp("png", blank)
    assert marked(data, ("iptc",), about()) == Marked(data, "its XMP is larger than 1 MB")
    packed = zlib.compress(bytes(4 << 20), 9)
    data = with_chunk(picture("png"), b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed)
    assert marked(data, ("iptc",), about()).why == "its XMP is larger than 1 MB, or is not whole"
    whole = zlib.compress(XMP.format(more="").encode())
    data = with_chunk(picture("png"), b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + whole)
    assert carries(marked(data, ("iptc",), about()).data) == {"iptc"}
    full = with_xmp("jpeg", XMP.format(more=" " * 64_500))
    assert marked(full, tuple(MARKS), about()) == Marked(full, "its XMP has no room for more")


@pytest.mark.parametrize("kind", ["jpeg", "lossy", "lossless"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_camera_said_stays(kind: str, order: str, exiftool: Callable[..., list[dict[str, Any]]]) -> None:
    """Also a maker's note, which points to places in the file, and a thumbnail."""
    exif = Image.Exif()
    exif.endian = order
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(IFD.Exif)[0x829A] = 0.5
    exif.get_ifd(IFD.Exif)[0x927C] = b"maker's own note, of some length"
    exif.get_ifd(IFD.GPSInfo)[1] = "N"
    data = picture(kind, exif=exif)
    done = marked(data, tuple(MARKS), about(prompt="猫"))
    assert done.why is None
    before, after = exiftool(data, done.data)
    kept = {name: value for name, value in before.items() if name.startswith(("IFD0", "ExifIFD", "GPS", "IFD1"))}
    assert len(kept) >= 3
    assert kept.items() <= after.items()
    assert told(after) == "猫\nSeed: 7, Size: 64x48, Model: gpt-image-1, Version: batchflux"
    assert pixels(done.data) == pixels(data)


def test_a_comment_of_its_own_stays() -> None:
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[0x9286] = b"ASCII\0\0\0taken in Rome"
    data = picture("jpeg", exif=exif)
    done = marked(data, tuple(MARKS), about())
    assert done.why == "its EXIF data have a comment already"
    assert carries(done.data) == {"iptc", "tc260"}
    assert b"taken in Rome" in done.data
    exif.get_ifd(IFD.Exif)[0x9286] = b"UNICODE\0" + bytes(40)  # room that a camera keeps for one
    assert carries(marked(picture("jpeg", exif=exif), ("parameters",), about()).data) == {"parameters"}


def test_a_picture_that_is_drawn_anew_keeps_what_its_xmp_says_of_its_origin() -> None:
    theirs = (
        '<r:Description xmlns:I="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:T="http://www.tc260.org.cn/ns/AIGC/1.0/"'
        ' I:AISystemUsed="A &amp; B"><I:DigitalSourceType r:resource="http://theirs.example/x"/>'
        '<T:AIGC>{"Label":"1",<!-- -->"ContentProducer":"猫"}</T:AIGC><I:AIPromptInformation><r:Alt/>'
        "</I:AIPromptInformation></r:Description>"
    )
    done = kept(picture("jpeg"), with_xmp("png", XMP.format(more=theirs)))
    assert pixels(done) == pixels(picture("jpeg"))
    for said in (
        "<Iptc4xmpExt:AISystemUsed>A &amp; B<",
        ">http://theirs.example/x<",
        '>{"Label":"1","ContentProducer":"猫"}<',
    ):
        assert said.encode() in done
    assert b"Studio" not in done
    assert b"AIPromptInformation" not in done
    nothing = [picture("png"), signed("png"), b"", *(with_xmp("png", packet) for packet in HOSTILE.values())]
    assert [kept(picture("jpeg"), received) for received in nothing] == [picture("jpeg")] * len(nothing)
    assert kept(b"no picture", with_xmp("png", XMP.format(more=theirs))) == b"no picture"


def test_pictures_that_cannot_be_marked_say_why() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (9, 9)).save(stream, "GIF")
    left = {
        stream.getvalue(): "neither PNG, JPEG nor WebP",
        b"": "neither PNG, JPEG nor WebP",
        picture("png")[:-5]: "its PNG is not whole",
        picture("jpeg")[:100]: "its JPEG is not whole",
        picture("lossy")[:-5]: "its WebP is not whole",
        with_segment(picture("jpeg"), 0xE2, b"MPF\0II*\0"): "its JPEG holds several pictures",
    }
    for data, why in left.items():
        done = marked(data, tuple(MARKS), about())
        assert done.data == data
        assert str(done.why).startswith(why)


def test_bytes_behind_the_end_stay() -> None:
    for kind in ("png", "jpeg", "lossy"):
        data = picture(kind) + b"what a camera wrote behind it"
        done = marked(data, tuple(MARKS), about())
        assert done.why is None
        assert done.data.endswith(b"what a camera wrote behind it")
        assert pixels(done.data) == pixels(data)


ALL = {kind: picture(kind) for kind in KINDS}
ALL |= {f"{kind} with XMP": with_xmp(kind, XMP.format(more="")) for kind in ("png", "jpeg", "lossless")}
ALL |= {f"{kind} with EXIF": picture(kind, exif=CAMERA) for kind in ("jpeg", "lossy")}
ALL |= {f"{kind} marked": marked(picture(kind), tuple(MARKS), about()).data for kind in ("png", "jpeg", "lossy")}


def as_far_as_it_goes(data: bytes) -> tuple[str, bytes] | None:
    """The pixels of a broken picture, if Pillow makes some of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data)) as opened:
                return (opened.mode, opened.tobytes()) if opened.width * opened.height < 1_000_000 else None
        except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError):
            return None


@given(
    name=st.sampled_from([*ALL]),
    cut=st.integers(0, 6000),
    changes=st.lists(st.tuples(st.integers(0, 1500), st.binary(max_size=6)), max_size=4),
)
def test_broken_files_are_marked_or_left_and_never_worse(name: str, cut: int, changes: list[tuple[int, bytes]]) -> None:
    data = ALL[name]
    for place, new in changes:
        data = data[:place] + new + data[place + len(new) :]
    data = data[:cut] if cut % 2 else data
    carries(data)
    kept(data, data)
    done = marked(data, tuple(MARKS), about())
    if done.data == data:
        return
    assert marked(done.data, tuple(MARKS), about()).data == done.data
    before = as_far_as_it_goes(data)
    assert before is None or before == as_far_as_it_goes(done.data)


@given(st.text(), st.text(), st.text(), st.sampled_from(["png", "jpeg", "lossy"]))
def test_no_word_breaks_a_file(prompt: str, model: str, producer: str, kind: str) -> None:
    done = marked(ALL[kind], tuple(MARKS), about(prompt=prompt, model=model, producer=producer, negative_prompt=model))
    assert done.why is None
    assert carries(done.data) == set(MARKS)
    assert pixels(done.data) == pixels(ALL[kind])

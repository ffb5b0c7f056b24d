"""Whether bytes are the picture that was promised. The rule: bytes prove themselves, nothing else is believed.

`structure` walks the container (structure.py and one module a kind). `decode` decodes every pixel besides, because
bytes inside a picture can be wrong where no checksum tells, and refuses a picture of one single colour. Pillow decodes;
of most PNGs the same is proven without it (see png.py), and what is not proven is left to Pillow.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from batchflux.errors import Code, JobError
from batchflux.output import jpeg, png, webp
from batchflux.output.verify import NAMES, Shape, bad, foreign

if TYPE_CHECKING:
    from batchflux.models import Format, Verify

RATIO_TOLERANCE = 0.08  # APIs round sides to multiples of 8 to 64: 1392x752 comes for 16:9
_LOOKS = 8  # pixels compared before all are
_FORMATS = ("PNG", "JPEG", "WEBP")

# Here and not around each decode: the filters are the process's own, and pictures are decoded in several threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a job's picture has to be.

    `kind` the format asked for (None: any), `ratio` as `W:H` (None: any), `references` the sha256 hex digests of the
    job's local references, which must not come back as the result.
    """

    kind: Format | None = None
    ratio: str | None = None
    references: frozenset[str] = frozenset()


def check(data: bytes, expect: Expected, how: Verify) -> tuple[Shape, str]:
    """Return what the picture is, and the sha256 hex digest of its bytes.

    Raises:
        JobError: `echoed_input` when it is one of the references, `bad_image` when it is not whole, not of the kind
            or the ratio asked for, or blank.
    """
    digest = hashlib.sha256(data).hexdigest()
    if digest in expect.references:
        message = "the answer is a reference image, unchanged; reword the prompt or take another model"
        raise JobError(Code.ECHOED_INPUT, message)
    shape = inspect(data)
    if expect.kind is not None and shape.kind != expect.kind:
        raise bad(f"a {NAMES[expect.kind]} was asked for and a {NAMES[shape.kind]} came")
    _check_ratio(shape, expect.ratio)
    if how == "decode":
        _decode(data, shape)
    return shape, digest


def inspect(data: bytes) -> Shape:
    """Return the shape of a whole PNG, JPEG or WEBP, judged by its structure.

    Raises:
        JobError: `bad_image`, saying what was found.
    """
    if data.startswith(png.SIGNATURE):
        return png.inspect(data)
    if data.startswith(jpeg.SIGNATURE):
        return jpeg.inspect(data)
    if webp.is_webp(data):
        return webp.inspect(data)
    if data and any(start.startswith(data) for start in (png.SIGNATURE, jpeg.SIGNATURE)):
        raise bad(f"the picture is cut off after {len(data)} bytes")
    raise bad(f"the answer is {foreign(data)}, not a PNG, JPEG or WEBP picture")


def _check_ratio(shape: Shape, ratio: str | None) -> None:
    width, _, height = (ratio or "").partition(":")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        return  # none was asked for
    if abs(shape.width * int(height) / (shape.height * int(width)) - 1) > RATIO_TOLERANCE:
        raise bad(f"the picture is {shape.width}x{shape.height}, which is not the {ratio} asked for")


def _decode(data: bytes, shape: Shape) -> None:
    name = NAMES[shape.kind]
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            blank = False
            if not (shape.kind == "png" and png.proven(data)):
                picture.load()
                blank = _blank(picture)
            size, frames = picture.size, getattr(picture, "n_frames", 1)
    except Exception as error:  # decoders raise a dozen kinds for broken bytes; all mean the same here
        raise bad(f"the {name} does not decode: {_one_line(error)}") from error
    if size != (shape.width, shape.height) or frames != 1:
        raise bad(f"the {name} is damaged: its header promises {shape.width}x{shape.height}, one frame")
    if blank:
        raise bad(f"blank picture: every pixel of the {name} has the same colour")


def _blank(picture: Image.Image) -> bool:
    """Whether all pixels have one colour. Two that differ settle it, so that few pictures are looked at whole."""
    width, height = picture.size
    middle = picture.getpixel((width // 2, height // 2))
    if any(picture.getpixel((width * at // _LOOKS, height * at // _LOOKS)) != middle for at in range(_LOOKS)):
        return False
    extrema = picture.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    return all(low == high for low, high in bands)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

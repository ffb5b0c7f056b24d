"""Writes the prompt on a translucent band at the foot of a picture, and SIMULATED in its upper corner."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

MARK = "SIMULATED"
_LINES = 3
_SMALLEST = 7
_TINY = 96
_WHITE = (250, 250, 248)
_DARK = (14, 14, 20)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=32)
def font(size: int) -> Font:
    """Return the font that comes with Pillow, `size` pixels high. Its text is drawn under the GIL, so it is shared."""
    return ImageFont.load_default(size)


def letter(picture: Image.Image, caption: str) -> None:
    """Write caption and mark into `picture`."""
    _mark(picture)
    _band(picture, caption)


def _mark(picture: Image.Image) -> None:
    size = max(_SMALLEST, round((picture.width * picture.height) ** 0.5 * 0.026))
    face = font(size)
    margin = max(2, size // 2)
    left, top, right, bottom = (round(edge) for edge in face.getbbox(MARK))
    box = (margin, margin, 3 * margin + right - left, 3 * margin + bottom - top)
    _shade(picture, box, 0.45)
    ImageDraw.Draw(picture).text((2 * margin - left, 2 * margin - top), MARK, font=face, fill=_WHITE)


def _band(picture: Image.Image, caption: str) -> None:
    width, height = picture.size
    size = max(_SMALLEST + 1, round((width * height) ** 0.5 * 0.034))
    face = font(size)
    margin = max(3, round(size * 0.9))
    lines = wrap(caption, face, width - 2 * margin, 1 if height <= _TINY else _LINES)
    step = round(size * 1.3)
    top = height - step * len(lines) - round(margin * 1.3)
    _shade(picture, (0, top, width, height), 0.55)
    pen = ImageDraw.Draw(picture)
    for index, line in enumerate(lines):
        pen.text((margin, top + margin * 0.6 + index * step), line, font=face, fill=_WHITE)


def _shade(picture: Image.Image, box: tuple[int, int, int, int], depth: float) -> None:
    part = picture.crop(box)
    picture.paste(Image.blend(part, Image.new("RGB", part.size, _DARK), depth), box)


def wrap(text: str, face: Font, width: int, most: int) -> list[str]:
    """Return `text` in at most `most` lines of `width` pixels, with an ellipsis where it had to end."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == most:
            lines[-1] = _clipped(f"{longer}...", face, width)
            break
        else:
            lines.append(_clipped(word, face, width))
    return [line for line in lines if line] or [_clipped(text, face, width)]


def _clipped(text: str, face: Font, width: int) -> str:
    kept = text.removesuffix("...")
    if face.getlength(text) <= width:
        return text
    while kept and face.getlength(f"{kept}...") > width:
        kept = kept[:-1]
    return f"{kept}..."

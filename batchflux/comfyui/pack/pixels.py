"""Pictures between ComfyUI and the gateway: tensors of floats from 0 to 1, and files."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WHITE = (255, 255, 255)
_WITH_ALPHA = ("RGBA", "LA", "PA")


def pictures(batch: Any, name: str) -> Iterator[Any]:
    """Yield each picture of the IMAGE `name` as an array [height, width, channels] of bytes; None: of nothing.

    ValueError: there is none in it, or it has pixels that are no numbers.
    """
    if batch is not None:
        yield from map(_bytes_of, _whole(batch, name))


def mask(given: Any) -> Any:
    """Return the one MASK as an array of RGBA: what is painted is white and transparent, the rest black and opaque.

    APIs read the one or the other as what may change. ValueError, as `pictures`, or there are several.
    """
    first, *others = _whole(given, "mask").reshape(-1, *given.shape[-2:])
    if any(not np.array_equal(first, other) for other in others):
        raise ValueError(f"mask holds {1 + len(others)} masks that differ, and one can be sent: give one of them.")
    painted = _bytes_of(first)
    return np.stack([painted, painted, painted, 255 - painted], axis=-1)


def _whole(given: Any, name: str) -> Any:
    """Return an input as an array with something in it: without, the call would be bought as if it were not there."""
    array = np.asarray(given.cpu().numpy() if hasattr(given, "cpu") else given, dtype=np.float32)
    if not array.size:
        raise ValueError(f"{name} holds no picture: look at the node before it, or take it off.")
    if np.isnan(array).any():
        raise ValueError(f"{name} has pixels that are no numbers (NaN): look at the node before it, often a VAE.")
    return array


def _bytes_of(values: Any) -> Any:
    return np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)


def fingerprint(picture: Any) -> str:
    """Return what is the same for the same pixels, whatever encodes them."""
    shape = "x".join(map(str, picture.shape))
    return hashlib.sha256(shape.encode() + b":" + picture.tobytes()).hexdigest()


def png(picture: Any) -> bytes:
    """Encode a picture without loss."""
    out = io.BytesIO()
    flat = picture[..., 0] if picture.shape[-1] == 1 else picture
    Image.fromarray(flat).save(out, "PNG", compress_level=4)
    return out.getvalue()


def opened(data: bytes) -> Image.Image:
    """Decode a picture as RGB; what is transparent is white. ValueError: it is none."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode not in _WITH_ALPHA and "transparency" not in image.info:
                return upright.convert("RGB")
            seen = upright.convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("is not a picture that can be read") from error
    ground = Image.new("RGB", seen.size, _WHITE)
    ground.paste(seen, mask=seen.getchannel("A"))
    return ground


def tensor(images: Sequence[Image.Image]) -> Any:
    """Return one IMAGE of pictures: smaller ones stand in the middle of black as large as the largest."""
    size: tuple[int, int] = (max(one.width for one in images), max(one.height for one in images))
    arrays = [np.asarray(_padded(one, size), dtype=np.float32) / 255.0 for one in images]
    return torch.from_numpy(np.stack(arrays))


def _padded(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    ground = Image.new("RGB", size)
    ground.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return ground

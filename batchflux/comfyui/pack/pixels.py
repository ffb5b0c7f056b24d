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


def pictures(batch: Any) -> Iterator[Any]:
    """Yield each picture of an IMAGE as an array [height, width, channels] of bytes; None: of nothing."""
    if batch is None:
        return
    for one in batch.cpu().numpy() if hasattr(batch, "cpu") else batch:
        yield np.clip(np.rint(np.asarray(one, dtype=np.float32) * 255.0), 0, 255).astype(np.uint8)


def mask(given: Any) -> Any:
    """Return the first MASK as an array of RGBA: what is painted is white and transparent, the rest black and opaque.

    APIs read the one or the other as what may change.
    """
    first = (given.cpu().numpy() if hasattr(given, "cpu") else np.asarray(given)).reshape(-1, *given.shape[-2:])[0]
    painted = np.clip(np.rint(first * 255.0), 0, 255).astype(np.uint8)
    return np.stack([painted, painted, painted, 255 - painted], axis=-1)


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

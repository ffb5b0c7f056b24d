"""HEIC, the format of iPhone photos: read by pillow-heif, which is the extra `heic`."""

from __future__ import annotations

import threading

MISSING = (
    "is a HEIC picture, which needs the extra heic: pip install 'batchflux[heic]', or save the photo as a JPEG and "
    "name that"
)
_learning = threading.Lock()


def can_read() -> bool:
    """Whether HEIC pictures can be opened: Pillow learns it here, where pillow-heif is installed. Safe in threads."""
    with _learning:
        try:
            import pillow_heif  # noqa: PLC0415  an extra
        except ImportError:
            return False
        pillow_heif.register_heif_opener()
        return True

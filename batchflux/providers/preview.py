"""A request as it may be shown: pictures by their name, secrets masked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from batchflux.models import LocalImage

if TYPE_CHECKING:
    from batchflux.models import Request

_SECRET_FIELDS = frozenset({"webhook_secret"})


def request_preview(request: Request) -> dict[str, Any]:
    """Return the JSON body with a short stand-in for each local picture and `***` for each secret."""
    return {key: "***" if key in _SECRET_FIELDS else _shown(value) for key, value in request.body.items()}


def _shown(value: Any) -> Any:
    if isinstance(value, LocalImage):
        return f"data:{value.media_type};base64,<{PurePath(value.path).name}, sha256 {value.sha256[:8]}…>"
    if isinstance(value, Mapping):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return value

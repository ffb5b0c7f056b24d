"""The manifest that `batchflux init` writes."""

from __future__ import annotations

from importlib.resources import files


def starter() -> str:
    """A commented manifest that runs as it is, on the simulator."""
    return (files("batchflux.manifest") / "starter.yaml").read_text(encoding="utf-8")

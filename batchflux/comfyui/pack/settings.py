"""Which gateways this machine trusts, and their keys: from its environment or a file, never from a workflow.

A workflow comes along with the pictures that people share, so what stands in one may be a stranger's: it can name a key
that is kept here, but neither hold one nor have one sent to an address that this machine does not list.
"""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

TRUSTED = "BATCHFLUX_GATEWAYS"  # addresses of gateways that are not on this machine, parted by spaces
FILE = "BATCHFLUX_COMFYUI_ENV"  # names the file, where it is not at its usual place
_KEY_NAME = re.compile(r"BATCHFLUX_[A-Z0-9_]{1,80}")


class SettingsError(Exception):
    """A gateway or a key that cannot be used, in a sentence for the person at the screen."""


def address(text: str) -> str:
    """Return a gateway's address without a slash at its end; SettingsError where nothing is to be sent to it."""
    given = text.strip().rstrip("/")
    given = given.removesuffix("/v1")
    try:
        parts = urlsplit(given)
        host, odd = parts.hostname, parts.scheme not in {"http", "https"} or "@" in parts.netloc or bool(parts.query)
        parts.port  # noqa: B018  raises where it is none
    except ValueError:
        host, odd = None, True
    if not host or odd:
        raise SettingsError("The gateway's address must look like http://127.0.0.1:8790.")
    if not _is_here(host) and given not in {one.rstrip("/") for one in (setting(TRUSTED) or "").split()}:
        raise SettingsError(
            f"{given} is not a gateway that this ComfyUI trusts, so nothing was sent to it. "
            f"If it is yours, put its address into {TRUSTED}, in the environment or in {_file()}."
        )
    return given


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key(name: str, gateway: str) -> str | None:
    """Return the key of this name; None where there is none, and a gateway on this machine may need none."""
    name = name.strip()
    if not name:
        return None
    if _KEY_NAME.fullmatch(name) is None:
        raise SettingsError(
            "The key's name must begin with BATCHFLUX_, in capitals. It is the name of an environment variable, "
            "never the key itself: a workflow is saved into the pictures that it makes."
        )
    found = (setting(name) or "").strip()
    if found and not (found.isascii() and found.isprintable()):
        raise SettingsError(f"{name} holds something else than a key: allowed are letters, digits and signs of ASCII.")
    if not found and not _is_here(urlsplit(gateway).hostname or ""):
        raise SettingsError(f"{name} is not set: put the gateway's key into the environment, or into {_file()}.")
    return found or None


def setting(name: str) -> str | None:
    """Return the value of a variable: the environment's, or the file's."""
    return os.environ.get(name) or _from_file().get(name)


def _file() -> Path:
    named = os.environ.get(FILE)
    if named:
        return Path(named)
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "batchflux" / "comfyui.env"


def _from_file() -> dict[str, str]:
    try:
        text = _file().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        raise SettingsError(f"{_file()} cannot be read as text.") from None
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}

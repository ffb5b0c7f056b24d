"""Where a bucket of S3 or its kin is, and by which keys: what `stores` says, else what the usual variables hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from batchflux.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.output.stores.base import Address, StoreSettings

    LookUp = Callable[[str], str | None]

_ALIYUN = re.compile(r"(?:^|\.)(?:s3\.)?(?:oss-)?([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$")
_R2 = re.compile(r"\.r2\.cloudflarestorage\.com$")
_KNOWS_CONDITIONS = re.compile(r"\.(?:amazonaws\.com(?:\.cn)?|r2\.cloudflarestorage\.com)$")
FOUND_BY_ITSELF = (  # variables by which obstore finds credentials in containers, or needs none
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


class Keys(NamedTuple):
    """An access key, its secret, and a session's token."""

    access_key: str
    secret_key: str
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a bucket is: `endpoint` is where requests go, None for AWS; `before`: the bucket is part of its host.

    `aliyun`: it is OSS. `conditions`: it is known to obey If-None-Match. `keys` is None where obstore is to find them.
    """

    endpoint: str | None
    region: str
    before: bool
    aliyun: bool
    conditions: bool
    keys: Keys | None = field(repr=False)


def place_of(address: Address, settings: StoreSettings, look_up: LookUp) -> Place:
    """Return where a bucket of S3 or its kin is; UsageError where what is said of it cannot be."""
    endpoint = settings.endpoint or _endpoint(address, look_up)
    host = _host(address.root, endpoint) if endpoint else ""
    aliyun = address.scheme == "oss" or host.endswith(".aliyuncs.com")
    region = settings.region or _region(address, host, look_up)
    if endpoint is None and aliyun:
        endpoint = f"https://s3.oss-{region.removeprefix('oss-')}.aliyuncs.com"
        host = urlsplit(endpoint).hostname or ""
    default = "path" if not aliyun else "virtual" if host.endswith(".aliyuncs.com") else "domain"
    style = settings.style or default
    if endpoint is not None and style == "virtual" and not host.startswith(f"{address.bucket}."):
        endpoint = endpoint.replace("://", f"://{address.bucket}.", 1)
    return Place(
        endpoint=endpoint,
        region=region,
        before=style != "path",
        aliyun=aliyun,
        conditions=endpoint is None or _KNOWS_CONDITIONS.search(host) is not None,
        keys=_keys(address, settings, look_up, aliyun=aliyun, own=endpoint is None),
    )


def value_of(root: str, look_up: LookUp, named: str | None, *usual: str) -> str | None:
    """Return what is looked up: by the name that `stores` gives, else by the first of the usual ones that is set.

    UsageError: nothing has the name that is given.
    """
    if named is not None:
        if value := look_up(named):
            return value.strip()
        raise UsageError(unset(root, named))
    return next((value.strip() for name in usual if (value := look_up(name))), None)


def unset(root: str, name: str) -> str:
    """Return what to say where a variable is missing."""
    return f"{root}: the variable {name} is not set; export {name}=..., or put it into .env"


def _endpoint(address: Address, look_up: LookUp) -> str | None:
    if address.scheme == "oss":
        said = look_up("OSS_ENDPOINT")
        return said if said is None or "://" in said else f"https://{said}"
    return look_up("AWS_ENDPOINT_URL_S3") or look_up("AWS_ENDPOINT_URL")


def _host(root: str, endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or " " in endpoint:
        raise UsageError(f"{root}: the endpoint must be https://host, or http://host where that is meant; correct it")
    return parts.hostname


def _region(address: Address, host: str, look_up: LookUp) -> str:
    if found := _ALIYUN.search(host):
        return found[1]
    if address.scheme == "oss":
        if said := look_up("OSS_REGION"):
            return said.removeprefix("oss-")
        if not host:
            raise UsageError(f"{address.root}: name its region in `stores`, as region: cn-hangzhou, or set OSS_REGION")
    usual = look_up("AWS_REGION") or look_up("AWS_DEFAULT_REGION")
    return usual or ("auto" if _R2.search(host) else "us-east-1")


def _keys(address: Address, settings: StoreSettings, look_up: LookUp, *, aliyun: bool, own: bool) -> Keys | None:
    kinds = [("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN")] if aliyun else []
    kinds.append(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"))
    names = next((kind for kind in kinds if look_up(kind[0])), kinds[0])
    access = value_of(address.root, look_up, settings.access_key, names[0])
    secret = value_of(address.root, look_up, settings.secret_key, names[1])
    if access and secret:
        given = settings.access_key is not None  # to a key of one's own no token of another belongs
        token = value_of(address.root, look_up, settings.token, *(() if given else names[2:]))
        return Keys(access, secret, token)
    if access or secret or not (own or any(look_up(name) for name in FOUND_BY_ITSELF)):
        missing = names[0] if not access else names[1]
        raise UsageError(f"{unset(address.root, missing)}, or name others in `stores`, as access_key and secret_key")
    return None

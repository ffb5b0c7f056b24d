"""Buckets of S3 and its kin, Aliyun OSS, Google Cloud and Azure: the one module that imports obstore."""

from __future__ import annotations

import hashlib
import mimetypes
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, S3Store
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_random_exponential

from batchflux.errors import StorageError, UsageError
from batchflux.output.stores.access import place_of, unset, value_of
from batchflux.output.stores.base import (
    LONGEST_SIGNED,
    Found,
    PassingError,
    PlaceError,
    body_of,
    checked,
    parted,
    sound,
)
from batchflux.output.stores.faults import NO_BUCKET, NO_CONDITIONS, code_of, speechless, trouble_of
from batchflux.redaction import tidy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from typing import BinaryIO, TypeVar

    from batchflux.output.stores.access import Keys, LookUp
    from batchflux.output.stores.base import Address, StoreSettings

    T = TypeVar("T")

TRIES, PATIENCE, PAUSE = 7, 30.0, 0.5  # so many tries, none after so many seconds; the first pause at most, in seconds
PART, PARTS_AT_ONCE, MOST_PARTS = 8 << 20, 4, 9_000  # bytes of a part of a large object, of which so many are in memory
CHUNK = 1 << 20  # bytes that are had at a time: by itself obstore gathers ten times as many, several times over
PAGE = 1_000  # objects: as many as an answer to a listing has
_CLIENT = {"connect_timeout": "10s", "read_timeout": "120s", "timeout": "1h"}  # 120 s: for a part to arrive, or silence
_KEYS_HOLD = timedelta(minutes=10)  # obstore asks again five minutes before
_PART_TAKES = timedelta(minutes=5)  # with all its tries, on a slow line
_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _ending in (
    ("image/webp", ".webp"),
    ("image/avif", ".avif"),
    ("application/jsonl", ".jsonl"),
    ("application/vnd.apache.parquet", ".parquet"),
    ("application/yaml", ".yaml"),
    ("text/markdown", ".md"),
):
    _TYPES.add_type(_type, _ending)


class Bucket:
    """An ObjectStore over one of obstore's stores; `name` is what messages call it.

    `conditions` tells whether the store obeys "create it only if it is not there". None: not known yet; the first
    object is then created twice, and a store that takes it again knows no conditions. Such a one is asked before each
    create. `creating` is a store whose plain puts are creates, for those that have a header of their own for them.
    `patient` is one that tries each request again by itself: a large object goes by it, so that only a part that is
    refused is sent again.
    """

    def __init__(
        self, store: Any, name: str, *, creating: Any = None, patient: Any = None, conditions: bool | None = True
    ) -> None:
        self._store, self._name, self._patient = store, name, patient or store
        self._creating, self._mode = (store, "create") if creating is None else (creating, "overwrite")
        self._conditions = conditions
        self._trying = Retrying(
            stop=stop_after_attempt(TRIES) | stop_after_delay(PATIENCE),
            wait=wait_random_exponential(multiplier=PAUSE, max=PATIENCE / 2),
            retry=retry_if_exception_type(PassingError),
            reraise=True,
        )

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        """Store an object whole; False when one with the same bytes is there already."""
        sound(self._name, key)
        body = body_of(data, PART)
        checked(f"{self._name}/{key}", body, sha256)
        certain = self._conditions is True and isinstance(body, bytes)  # obstore creates no object in parts
        if not over and not certain and self._tried(key, lambda: self._same(key, sha256)):
            return False
        if over or not isinstance(body, bytes) or self._conditions is False:
            store = self._store if isinstance(body, bytes) else self._patient
            self._tried(key, lambda: self._write(store, key, body, sha256, "overwrite"))
            return True
        made = self._tried(key, lambda: self._created(key, body, sha256))
        if made and self._conditions is None:
            self._conditions = not self._tried(key, lambda: self._created(key, body, sha256))
        return made

    def fetch(self, key: str, target: BinaryIO) -> bool:
        """Write an object's bytes to an open file; False when there is none."""
        sound(self._name, key)
        done, version = 0, None

        def pull() -> bool:
            nonlocal done, version
            rest: Any = {"range": {"offset": done}, "if_match": version} if done else None
            try:
                got = obstore.get(self._store, key, options=rest)
            except FileNotFoundError as error:
                if done:
                    raise StorageError(f"{self._name}/{key} was removed while it was read; run again") from None
                if code_of(error) in NO_BUCKET:
                    raise
                return False
            version = got.meta["e_tag"]
            for chunk in got.stream(min_chunk_size=CHUNK):
                target.write(chunk)
                done += len(chunk)
            return True

        return self._tried(key, pull)

    def find(self, prefix: str) -> Iterator[Found]:
        """Yield the objects whose keys begin so."""
        folder, begun = parted(self._name, prefix)
        # obstore lists folders, not beginnings: what stands before the beginning need not be asked for
        last = prefix[:-1] if begun[:-1].strip(".") else None
        pages: Any = None

        def page() -> list[Any]:
            nonlocal pages
            asked = pages or obstore.list(self._store, folder or None, offset=last, chunk_size=PAGE)
            pages = None  # what has failed is asked for anew, after the last that came
            found = list(next(asked, ()))
            pages = asked
            return found

        while found := self._tried(prefix, page):
            for one in found:
                last = one["path"]
                if last.startswith(prefix):
                    yield Found(last, one["size"])
                elif last > prefix:
                    return

    def sign(self, key: str, seconds: int) -> str:
        """Return a URL by which anyone reads the object for so long."""
        if not 0 < seconds <= LONGEST_SIGNED:
            raise StorageError(f"{self._name} signs links for 1 s to 7 days, not for {seconds} s; change `sign`")
        if not isinstance(self._store, S3Store | GCSStore | AzureStore):
            raise StorageError(f"{self._name} signs no links; use a bucket in a cloud, or `url`")
        sound(self._name, key)
        return self._tried(key, lambda: obstore.sign(self._store, "GET", key, timedelta(seconds=seconds)))

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the bucket, over what is there; its sha256 goes with it."""
        sound(self._name, key)
        sound(self._name, to)

        def copied() -> None:
            try:
                obstore.copy(self._store, key, to)
            except FileNotFoundError as error:
                if code_of(error) in NO_BUCKET:
                    raise
                raise StorageError(f"{self._name}/{key} is not there, and so cannot be copied; run again") from None

        self._tried(key, copied)

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        sound(self._name, key)

        def remove() -> None:
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError as error:
                if code_of(error) in NO_BUCKET:
                    raise

        self._tried(key, remove)

    def __repr__(self) -> str:
        return f"Bucket({self._name!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._name} holds secrets; send its address, and open it again there")

    def _created(self, key: str, body: bytes, sha256: str) -> bool:
        """Create an object; False: one with the same bytes is there, perhaps by a try whose answer was lost."""
        try:
            self._write(self._creating, key, body, sha256, self._mode)
        except AlreadyExistsError:
            if not self._same(key, sha256):
                raise PassingError(f"{self._name}/{key} is written by others just now; run again") from None
            return False
        except BaseError as error:
            if code_of(error) not in NO_CONDITIONS:
                raise
            self._conditions = False  # and so it was looked for before
            self._write(self._store, key, body, sha256, "overwrite")
        return True

    def _write(self, store: Any, key: str, body: bytes | Path, sha256: str, mode: Any) -> None:
        whole = isinstance(body, bytes)
        obstore.put(
            store,
            key,
            body,
            mode=mode,
            attributes={"sha256": sha256, "Content-Type": _type_of(key)},
            use_multipart=not whole,
            chunk_size=PART if isinstance(body, bytes) else max(PART, body.stat().st_size // MOST_PARTS),
            max_concurrency=PARTS_AT_ONCE,
        )

    def _same(self, key: str, sha256: str) -> bool:
        """Whether an object of these bytes is there; StorageError where it is one of others."""
        try:
            found = self._head(key)
        except FileNotFoundError as error:
            if code_of(error) in NO_BUCKET:
                raise
            return False
        there = found.attributes.get("sha256") or self._sha256(key)
        if there != sha256:
            raise StorageError(f"{self._name}/{key} is there already, with other bytes; move it away, then run again")
        return True

    def _head(self, key: str) -> Any:
        try:
            return obstore.get(self._store, key, options={"head": True})
        except FileNotFoundError:
            raise
        except BaseError as error:
            if speechless(error) and not trouble_of(error).passes:
                # A refusal of HEAD has no body; the same of GET says why, or that nothing is there.
                obstore.get(self._store, key, options={"range": (0, 1)})
            raise

    def _sha256(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in obstore.get(self._store, key).stream(min_chunk_size=CHUNK):
            digest.update(chunk)
        return digest.hexdigest()

    def _tried(self, key: str, act: Callable[[], T]) -> T:
        """Return what `act` does, which is tried again where what stops it may pass."""

        def once() -> T:
            try:
                return act()
            except (BaseError, FileNotFoundError, NotImplementedError) as error:
                trouble = trouble_of(error)
                kind = PassingError if trouble.passes else PlaceError if trouble.here else StorageError
                raise kind(f"{self._name}/{key}: {trouble.cause}; {trouble.remedy}") from None  # it may show a secret

        return self._trying(once)


def open_bucket(address: Address, settings: StoreSettings, look_up: LookUp) -> Bucket:
    """Return a bucket in a cloud; UsageError where what is said of it cannot be."""
    try:
        if address.scheme == "gs":
            return _bucket(address, partial(_google, address, settings, look_up))
        if address.scheme == "az":
            return _bucket(address, partial(_azure, address, settings, look_up))
        return _s3(address, settings, look_up)
    except BaseError as error:
        words = tidy(str(error).partition("Debug source")[0], limit=160)
        raise UsageError(f"{address.root} cannot be opened: {words}; correct `stores` or the variables") from None


def _bucket(address: Address, opened: Callable[[int], Any]) -> Bucket:
    return Bucket(opened(0), address.root, patient=opened(TRIES))


def _s3(address: Address, settings: StoreSettings, look_up: LookUp) -> Bucket:
    place = place_of(address, settings, look_up)
    config: dict[str, Any] = {
        "region": place.region,
        "virtual_hosted_style_request": place.before,
        "checksum_algorithm": "SHA256",
        "disable_bulk_delete": True,  # objects go one by one, and OSS has no other way
    }
    if place.endpoint is not None:
        config["endpoint"] = place.endpoint
    provider = _provider(lambda: place_of(address, settings, look_up).keys)

    def opened(retries: int = 0, headers: Mapping[str, str] = MappingProxyType({})) -> S3Store:
        client: Any = {**_client(place.endpoint), "default_headers": dict(headers)}
        options: Any = {"config": config, "client_options": client, "retry_config": _retrying(retries)}
        return S3Store(address.bucket, credential_provider=provider, **options)

    creating = opened(headers={"x-oss-forbid-overwrite": "true"}) if place.aliyun else None
    conditions = place.conditions or None
    return Bucket(opened(), address.root, creating=creating, patient=opened(TRIES), conditions=conditions)


def _provider(keys: Callable[[], Keys | None]) -> Any:
    """Return who gives obstore the keys: into a config it would mix a token that it finds in the environment.

    They are looked up anew every few minutes, for those of a session may have been renewed in their files.
    """

    def given() -> dict[str, Any]:
        access_key, secret_key, token = keys() or (None, None, None)
        until = datetime.now(UTC) + _KEYS_HOLD
        return {"access_key_id": access_key, "secret_access_key": secret_key, "token": token, "expires_at": until}

    return None if keys() is None else given


def _google(address: Address, settings: StoreSettings, look_up: LookUp, retries: int) -> GCSStore:
    said = {
        "service_account_key": value_of(address.root, look_up, settings.secret_key, "GOOGLE_SERVICE_ACCOUNT_KEY"),
        "application_credentials": look_up("GOOGLE_APPLICATION_CREDENTIALS") if settings.secret_key is None else None,
        "bearer_token": value_of(address.root, look_up, settings.token, "GOOGLE_BEARER_TOKEN"),
        "base_url": settings.endpoint,
    }
    return GCSStore(address.bucket, **_options(said, settings.endpoint, retries))


def _azure(address: Address, settings: StoreSettings, look_up: LookUp, retries: int) -> AzureStore:
    said = {
        "account_name": value_of(address.root, look_up, settings.access_key, "AZURE_STORAGE_ACCOUNT_NAME"),
        "account_key": value_of(address.root, look_up, settings.secret_key, "AZURE_STORAGE_ACCOUNT_KEY"),
        "sas_key": value_of(address.root, look_up, settings.token, "AZURE_STORAGE_SAS_TOKEN"),
        "endpoint": settings.endpoint,
    }
    if said["account_name"] is None:
        raise UsageError(unset(address.root, "AZURE_STORAGE_ACCOUNT_NAME"))
    return AzureStore(address.bucket, **_options(said, settings.endpoint, retries))


def _options(said: dict[str, str | None], endpoint: str | None, retries: int) -> Any:
    config = {name: value for name, value in said.items() if value is not None}
    return {"config": config, "client_options": _client(endpoint), "retry_config": _retrying(retries)}


def _retrying(retries: int) -> Any:
    pauses = {"init_backoff": timedelta(seconds=PAUSE), "max_backoff": timedelta(seconds=PATIENCE / 2), "base": 2}
    return {"max_retries": retries, "backoff": pauses, "retry_timeout": _PART_TAKES}


def _client(endpoint: str | None) -> dict[str, Any]:
    return {**_CLIENT, "allow_http": endpoint is not None and endpoint.startswith("http://")}


def _type_of(key: str) -> str:
    return _TYPES.guess_type(PurePosixPath(key).name)[0] or "application/octet-stream"

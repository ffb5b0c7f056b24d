"""Buckets of S3 and its kin, Google Cloud and Azure, and folders as buckets: the one module that imports obstore."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from batchflux.errors import StorageError
from batchflux.output.stores.base import Found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

    from batchflux.output.stores.base import Address, StoreSettings


class Bucket:
    """An ObjectStore over one of obstore's stores; `name` is what messages call it."""

    def __init__(self, store: Any, name: str) -> None:
        self._store, self._name = store, name

    def put(self, key: str, data: bytes | Path, sha256: str, *, over: bool = False) -> bool:
        """Store an object whole; False when one with the same bytes is there already."""
        mode: Any = "overwrite" if over else "create"
        try:
            obstore.put(self._store, key, data, mode=mode, attributes={"sha256": sha256}, use_multipart=False)
        except AlreadyExistsError:
            if self._sha256(key) == sha256:
                return False
            raise StorageError(f"{self._name}/{key} is another object: move it away") from None
        except BaseError as error:
            raise self._fault(key, error) from error
        return True

    def fetch(self, key: str, target: BinaryIO) -> bool:
        """Write an object's bytes to an open file; False when there is none."""
        try:
            target.writelines(obstore.get(self._store, key))
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise self._fault(key, error) from error
        return True

    def find(self, prefix: str) -> Iterator[Found]:
        """Yield the objects whose keys begin so."""
        try:
            for found in obstore.list(self._store, prefix):
                for one in found:
                    yield Found(one["path"], one["size"])
        except BaseError as error:
            raise self._fault(prefix, error) from error

    def sign(self, key: str, seconds: int) -> str:
        """Return a URL by which anyone reads the object for so long."""
        return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def copy(self, key: str, to: str) -> None:
        """Copy an object within the bucket, over what is there."""
        try:
            obstore.copy(self._store, key, to, overwrite=True)
        except (FileNotFoundError, BaseError) as error:
            raise self._fault(key, error) from error

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            return
        except BaseError as error:
            raise self._fault(key, error) from error

    def _sha256(self, key: str) -> str:
        return hashlib.sha256(bytes(obstore.get(self._store, key).bytes())).hexdigest()

    def _fault(self, key: str, error: Exception) -> StorageError:
        return StorageError(f"{self._name}/{key}: {type(error).__name__}")


def open_bucket(place: Address, settings: StoreSettings, look_up: Callable[[str], str | None]) -> Bucket:
    """Return a bucket; UsageError where what is said of it cannot be."""
    if place.scheme == "file":
        return Bucket(LocalStore("/", mkdir=True), "file://")
    if place.scheme == "gs":
        return Bucket(GCSStore(place.bucket), place.root)
    if place.scheme == "az":
        return Bucket(AzureStore(place.bucket), place.root)
    endpoint = settings.endpoint or look_up("AWS_ENDPOINT_URL_S3") or look_up("AWS_ENDPOINT_URL")
    config = {
        "endpoint": endpoint,
        "region": settings.region or look_up("AWS_REGION") or look_up("AWS_DEFAULT_REGION") or "us-east-1",
        "access_key_id": look_up(settings.access_key or "AWS_ACCESS_KEY_ID"),
        "secret_access_key": look_up(settings.secret_key or "AWS_SECRET_ACCESS_KEY"),
        "session_token": look_up(settings.token or "AWS_SESSION_TOKEN"),
        "virtual_hosted_style_request": True if settings.style == "domain" else None,
    }
    given: Any = {name: value for name, value in config.items() if value is not None}
    store = S3Store(
        place.bucket,
        config=given,
        client_options={"allow_http": (endpoint or "").startswith("http://")},
        retry_config={"max_retries": 0},
    )
    return Bucket(store, place.root)

"""Where buckets are and by which keys, as `stores` and the usual variables say; and who opens them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from batchflux.errors import StorageError, UsageError
from batchflux.output.stores.access import Keys, place_of
from batchflux.output.stores.base import Address, StoreSettings, in_bucket
from batchflux.output.stores.faults import trouble_of
from batchflux.output.stores.opening import Stores
from batchflux.secrets import Secrets

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from batchflux.output.stores.access import Place
    from batchflux.output.stores.base import Style

KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "s3cret"}


def place(address: str, environ: Mapping[str, str], **said: str) -> Place:
    settings = StoreSettings(**said)  # type: ignore[arg-type]
    return place_of(Address.of(address), settings, environ.get)


@pytest.mark.parametrize(
    ("endpoint", "style", "address", "leads"),
    [
        (None, None, "s3://b", (None, "us-east-1", False)),
        (None, "virtual", "s3://b", (None, "us-east-1", True)),
        ("https://minio.example:9000", None, "s3://b", ("https://minio.example:9000", "us-east-1", False)),
        ("https://minio.example", "virtual", "s3://b", ("https://b.minio.example", "us-east-1", True)),
        ("https://b.minio.example", "virtual", "s3://b", ("https://b.minio.example", "us-east-1", True)),
        ("https://img.shop.cn", "domain", "s3://b", ("https://img.shop.cn", "us-east-1", True)),
        ("https://x.r2.cloudflarestorage.com", None, "s3://b", ("https://x.r2.cloudflarestorage.com", "auto", False)),
    ],
)
def test_where_a_bucket_is(
    endpoint: str | None, style: Style | None, address: str, leads: tuple[str | None, str, bool]
) -> None:
    said = {name: value for name, value in {"endpoint": endpoint, "style": style}.items() if value is not None}
    found = place(address, KEYS, **said)
    assert (found.endpoint, found.region, found.before) == leads
    assert not found.aliyun


@pytest.mark.parametrize(
    ("address", "said", "leads"),
    [
        ("oss://b", {"region": "cn-beijing"}, "https://b.s3.oss-cn-beijing.aliyuncs.com"),
        ("oss://b", {"region": "oss-cn-beijing"}, "https://b.s3.oss-cn-beijing.aliyuncs.com"),
        ("s3://b", {"endpoint": "https://oss-cn-beijing.aliyuncs.com"}, "https://b.oss-cn-beijing.aliyuncs.com"),
        (
            "oss://b",
            {"endpoint": "https://oss-cn-beijing-internal.aliyuncs.com"},
            "https://b.oss-cn-beijing-internal.aliyuncs.com",
        ),
        ("oss://b", {"endpoint": "https://img.shop.cn", "region": "cn-beijing"}, "https://img.shop.cn"),
    ],
)
def test_where_a_bucket_of_oss_is(address: str, said: dict[str, str], leads: str) -> None:
    found = place(address, KEYS, **said)
    assert (found.endpoint, found.region.removeprefix("oss-"), found.before) == (leads, "cn-beijing", True)
    assert found.aliyun


def test_variables_say_what_stores_does_not() -> None:
    environ = KEYS | {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3", "AWS_DEFAULT_REGION": "r"}
    assert place("s3://b", environ).endpoint == "http://s3"
    assert place("s3://b", environ).region == "r"
    assert place("s3://b", environ, endpoint="https://own", region="q").endpoint == "https://own"
    said = {"OSS_ENDPOINT": "oss-cn-hangzhou.aliyuncs.com", "OSS_ACCESS_KEY_ID": "a", "OSS_ACCESS_KEY_SECRET": "b"}
    assert place("oss://b", said | KEYS).endpoint == "https://b.oss-cn-hangzhou.aliyuncs.com"
    assert place("oss://b", said | KEYS).keys == Keys("a", "b", None)


def test_keys_come_by_name() -> None:
    environ = KEYS | {"AWS_SESSION_TOKEN": "t", "MY_ID": " mine\n", "MY_KEY": "secret", "MY_TOKEN": "token"}
    assert place("s3://b", environ).keys == Keys("AKID", "s3cret", "t")
    own = {"access_key": "MY_ID", "secret_key": "MY_KEY"}
    assert place("s3://b", environ, **own).keys == Keys("mine", "secret", None), "the token is of another key"
    assert place("s3://b", environ, **own, token="MY_TOKEN").keys == Keys("mine", "secret", "token")
    assert "secret" not in repr(place("s3://b", environ, **own))


@pytest.mark.parametrize(
    ("address", "environ", "said", "words"),
    [
        ("s3://b", {}, {"access_key": "MINE"}, "the variable MINE is not set; export MINE=..., or put it into .env"),
        ("s3://b", {"AWS_ACCESS_KEY_ID": "a"}, {}, "the variable AWS_SECRET_ACCESS_KEY is not set"),
        ("s3://b", {"AWS_SECRET_ACCESS_KEY": "a"}, {}, "the variable AWS_ACCESS_KEY_ID is not set"),
        ("s3://b", {}, {"endpoint": "https://minio"}, "the variable AWS_ACCESS_KEY_ID is not set"),
        ("oss://b", {}, {"region": "cn-beijing"}, "the variable OSS_ACCESS_KEY_ID is not set"),
        ("oss://b", KEYS, {}, "name its region in `stores`, as region: cn-hangzhou, or set OSS_REGION"),
        ("s3://b", KEYS | {"AWS_ENDPOINT_URL": "minio:9000"}, {}, "the endpoint must be https://host"),
        ("az://b", {}, {}, "the variable AZURE_STORAGE_ACCOUNT_NAME is not set"),
        ("az://b", {}, {"access_key": "MINE"}, "the variable MINE is not set"),
        ("az://b", {"AZURE_STORAGE_ACCOUNT_NAME": "a", "AZURE_STORAGE_ACCOUNT_KEY": "???"}, {}, "cannot be opened"),
        ("gs://b", {"GOOGLE_SERVICE_ACCOUNT_KEY": "{s3cret"}, {}, "cannot be opened"),
        ("gs://b", {}, {"secret_key": "MINE"}, "the variable MINE is not set"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    address: str, environ: dict[str, str], said: dict[str, str], words: str
) -> None:
    stores = Stores(look_up=environ.get, settings={address: StoreSettings(**said)})  # type: ignore[arg-type]
    with pytest.raises(UsageError) as caught:
        stores.at(address)
    assert str(caught.value).startswith(f"{address}")
    assert words in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_variable_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def look_up(name: str) -> str | None:
        raise ValueError(f"{name}_FILE names {tmp_path}, which cannot be read")

    with pytest.raises(UsageError, match="s3://b: AWS_ENDPOINT_URL_S3_FILE names"):
        Stores(look_up=look_up).at("s3://b")


def test_no_credentials_at_all_are_said_once_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1")
    store = Stores(look_up=lambda _: None).at("s3://b")
    with pytest.raises(StorageError, match=r"there are no credentials; set .*AWS_ACCESS_KEY_ID"):
        store.put("a", b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


@pytest.mark.parametrize("text", ["http://b/k", "https://b", "data:x", "b/k", "S3://b", "ftp://b", "s3:/b", "a s3://b"])
def test_what_is_no_bucket(text: str) -> None:
    assert not in_bucket(text)
    with pytest.raises(ValueError, match=r"allowed is a bucket, .*there are s3://, oss://, gs://, az://, file://"):
        Address.of(text)


@pytest.mark.parametrize(("text", "words"), [("s3://", "names no bucket"), ("file://a/b", "three strokes")])
def test_what_is_a_bucket_written_wrongly(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Address.of(text)


@pytest.mark.parametrize(
    ("text", "cause", "passes"),
    [
        ("status code: 503 Service Unavailable: <Error><Code>SlowDown</Code></Error>", "too busy (503 SlowDown)", True),
        ("status code: 429 Too Many Requests: ", "too busy (429)", True),
        ("status code: 502 Bad Gateway: <html>", "too busy (502)", True),
        ("status code: 409 Conflict: <Code>ConditionalRequestConflict</Code>", "too busy", True),
        ("status code: 400 Bad Request: <Code>RequestTimeout</Code>", "too busy", True),
        ("status code: 400 Bad Request: <Code>BadDigest</Code>", "arrived changed", True),
        ("status code: 401 Unauthorized: ", "access is denied (401)", False),
        ("status code: 403 Forbidden: <Code>RequestTimeTooSkewed</Code>", "clock is wrong", False),
        ("status code: 403 Forbidden: <Code>InvalidAccessKeyId</Code>", "key is not known", False),
        ("status code: 403 Forbidden: <Code>UserDisable</Code>", "account is disabled", False),
        ("status code: 400: <Code>AuthorizationHeaderMalformed</Code>expecting 'eu-x'", "another region, eu-x", False),
        ("Received redirect without LOCATION", "in another region", False),
        ("status code: 307: <Code>TemporaryRedirect</Code>", "another region (307 TemporaryRedirect", False),
        ("HTTP error: x Debug source: invalid peer certificate: UnknownIssuer", "certificate is not trusted", False),
        ("status code: 418 No: <Code>Teapot</Code><Message>Short, stout</Message>", "Teapot: Short, stout", False),
        ("Error performing GET https://h/b?sig=s3cret in 1ms - odd\nDebug source: s3cret", "odd", False),
        ('status code: 403: {"error": {"errors": [{"reason": "rateLimitExceeded"}]}}', "too busy", True),
    ],
)
def test_what_stores_say_is_told_apart(text: str, cause: str, passes: bool) -> None:  # noqa: FBT001  a row of the table
    trouble = trouble_of(RuntimeError(text))
    assert cause in trouble.cause
    assert trouble.passes is passes
    assert "s3cret" not in trouble.cause


def test_keys_are_looked_up_anew(tmp_path: Path) -> None:
    """A session's keys are renewed in their files while a run goes on."""
    environ = {f"AWS_{name}_FILE": str(tmp_path / name) for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")}
    look_up = Secrets(environ, tmp_path).get
    given = []
    for secret in ("first", "second"):
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            (tmp_path / name).write_text(f"{secret}\n", encoding="utf-8")
        given.append(place_of(Address.of("s3://b"), StoreSettings(), look_up).keys)
    assert given == [Keys("first", "first", None), Keys("second", "second", None)]


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delitem(sys.modules, "batchflux.output.stores.cloud", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)
    stores = Stores(look_up=KEYS.get)
    with pytest.raises(UsageError, match=r"s3://b need the extra cloud: pip install 'batchflux\[cloud\]'"):
        stores.at("s3://b/x")
    stores.at(f"file://{tmp_path}")

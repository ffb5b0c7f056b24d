"""Values as people write them: text in; a number, duration, rate, amount or URL out.

A reader takes text, returns the value (None: not given) and raises ValueError whose message says what was found and
what is allowed; the caller adds the place. `leaf` makes a reader the validator of one scalar of the tree.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from ipaddress import IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from PIL import ImageColor
from pydantic_core import PydanticCustomError

from batchflux.errors import quoted
from batchflux.manifest.reading.yaml_nodes import Scalar, found
from batchflux.output.folder import zone
from batchflux.output.stores.base import LONGEST_SIGNED

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

MAX_TEXT = 10_000
MAX_TEMPLATE = 65_536
MAX_URL = 8192
MAX_HOST = 260
MAX_TIMEOUT = 86_400
LONGEST_CALL = 360.0  # seconds
MAX_DEADLINE = 30 * 86_400
MAX_RATE = 1_000_000
MAX_PICTURE = 4 * 1000**3

_TEMPLATE = re.compile(r"\{\{|\{%|\{#")
_INTEGER = re.compile(r"[-+]?[0-9]+")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

_Collection = TypeVar("_Collection", dict[str, Any], list[Any])
_NUMBER = r"[0-9]{1,12}(?:\.[0-9]{1,9})?"
_UNIT = r"(s|sec|seconds?|m|min|minutes?|h|hours?)"
_RATE = re.compile(rf"({_NUMBER}) ?/ ?{_UNIT}", re.IGNORECASE)
_PART = re.compile(rf"({_NUMBER}) ?{_UNIT}(?![a-z]) ?", re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.IGNORECASE)
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_SIZE = re.compile(rf"({_NUMBER}) ?(B|KB|MB|GB)?")
_MONEY = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
_SECONDS = {"s": 1, "m": 60, "h": 3600}  # by a unit's first letter
_UNITS = {1.0: "s", 60.0: "min", 3600.0: "h"}
_BYTES = {None: 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3}

_MEANS_URL = re.compile(r"[a-z][a-z0-9+.-]*://|(?:https?|file|data|javascript|ftp|blob):", re.IGNORECASE | re.ASCII)
_ENDPOINT = re.compile(
    r"/(?:images/(?:generations|edits)|chat/completions|completions|responses|models|get_result)$"
    r"|(?<=/v1)/(?:images|chat|flux-[\w.-]+)$"
)
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?:/[!-~]*)?")  # nearly all are so, and sound
_BAD_IN_URL = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Text with `{{ }}` or `{% %}` in it, to be rendered for each job."""

    text: str


def problem(message: str) -> PydanticCustomError:
    """Return a validation error with a message of our own."""
    return PydanticCustomError("manifest", "{message}", {"message": message})


def is_template(text: str) -> bool:
    """Whether the text has to be rendered."""
    return _TEMPLATE.search(text) is not None


def template(text: str) -> Template:
    """Return a template of a bounded length."""
    if len(text) > MAX_TEMPLATE:
        raise problem(f"found a template of {len(text)} characters; allowed are at most {MAX_TEMPLATE}")
    return Template(text=text)


def scalar(value: object, allowed: str = "a single value") -> Scalar:
    """Return the value, which must be a scalar."""
    if not isinstance(value, Scalar):
        raise problem(f"found {found(value)}; allowed is {allowed}")
    return value


def is_nothing(value: object) -> bool:
    """Whether a node of the tree says null."""
    return isinstance(value, Scalar) and value.is_null


def leaf(read: Callable[[str], Any], *, templated: bool = False) -> Callable[[object], Any]:
    """Return a validator of one scalar: None for null, a Template where it may be one, else what `read` returns."""

    def check(value: object) -> Any:
        node = scalar(value)
        if node.is_null:
            return None
        if templated and is_template(node.text):
            return template(node.text)
        try:
            return read(node.text)
        except ValueError as error:
            message = str(error)
            if node.shown is not None:  # the value of an environment variable may be a secret: show the variable only
                message = f"found {quoted(node.shown)}, and what that variable holds is not allowed here"
            raise problem(message) from None

    return check


def _collection(kind: type[_Collection], name: str) -> Callable[[object], _Collection]:
    """Return what takes one kind of collection only; null is an empty one."""

    def check(value: object) -> _Collection:
        if is_nothing(value):
            return kind()
        if not isinstance(value, kind):
            raise problem(f"found {found(value)}; allowed is a {name}")
        return value

    return check


mapping: Callable[[object], dict[str, Any]] = _collection(dict, "mapping")
sequence: Callable[[object], list[Any]] = _collection(list, "list")


def whole(text: str, lowest: int, highest: int) -> int:
    """Read a whole number within bounds, both included."""
    if not _INTEGER.fullmatch(text) or len(text) > len(str(-(2**64))) or not lowest <= int(text) <= highest:
        raise ValueError(f"found {quoted(text)}; allowed is a whole number from {lowest} to {highest}")
    return int(text)


def one_of(text: str, allowed: tuple[str, ...]) -> str:
    """Read one of a few words."""
    if text not in allowed:
        raise ValueError(f"found {quoted(text)}; allowed is {either(allowed)}")
    return text


def either(words: tuple[str, ...]) -> str:
    """Return the words as a message lists them: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def bounded(text: str, most: int, bad: re.Pattern[str], advice: str) -> str:
    """Read text of bounded length without certain characters."""
    if len(text) > most:
        raise ValueError(f"found {len(text)} characters; allowed are at most {most}")
    if (match := bad.search(text)) is not None:
        raise ValueError(f"found the character U+{ord(match.group()):04X}{advice}")
    return text


def line_of_text(text: str) -> str | None:
    """Read text on one line; empty is not given."""
    return bounded(text, MAX_TEXT, CONTROL, "; allowed is text on one line").strip() or None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`count` requests in `seconds`, as written: `300/min` is 300 in 60."""

    count: float
    seconds: float

    def __str__(self) -> str:
        return f"{Decimal(str(self.count)).normalize():f}/{_UNITS[self.seconds]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoTimeout:
    """A time that a call may take which is found from what calls take, and is never under `floor` seconds."""

    floor: float = 60.0

    @property
    def longest(self) -> float:
        """How many seconds it is while too few calls have told."""
        return max(LONGEST_CALL, self.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """When to stop: at `clock`, an (hour, minute) of local time, or `seconds` after the start. One of them is set."""

    clock: tuple[int, int] | None = None
    seconds: float | None = None

    def seconds_from(self, now: datetime) -> float:
        """Return how many seconds remain at `now`, local time with its zone; a clock time is the next such time."""
        if self.clock is None:
            return self.seconds or 0.0
        day = now.replace(hour=self.clock[0], minute=self.clock[1], second=0, microsecond=0, tzinfo=None)
        # Made local anew for each day, for the clocks may be changed in between.
        if day.astimezone() <= now:
            day += timedelta(days=1)
        return (day.astimezone() - now).total_seconds()

    def said(self, now: datetime) -> str:
        """Return it as a person reads it; a clock time with its zone, in which `now` is: `06:00 CST (UTC+08:00)`."""
        if self.clock is None:
            return str(self)
        return f"{self} {zone((now + timedelta(seconds=self.seconds_from(now))).astimezone())}"

    def __str__(self) -> str:
        if self.clock is not None:
            return f"{self.clock[0]:02d}:{self.clock[1]:02d}"
        seconds = self.seconds or 0.0
        unit, size = next(((name, n) for name, n in (("h", 3600), ("min", 60)) if seconds % n == 0), ("s", 1))
        return f"{seconds / size:g}{unit}"


def rate(text: str) -> Rate:
    """Read `N/s`, `N/min` or `N/h`; N may be decimal."""
    match = _RATE.fullmatch(text)
    if match is None or not 0 < float(match[1]) <= MAX_RATE:
        raise ValueError(f"found {quoted(text)}; allowed is N/s, N/min or N/h with N above 0, as 300/min")
    return Rate(count=float(match[1]), seconds=float(_SECONDS[match[2][0].lower()]))


def _duration(text: str) -> float:
    """Return the seconds of `1h30m`; 0 when the text says no duration."""
    parts = _PART.findall(text) if _DURATION.fullmatch(text) else ()
    return sum(float(amount) * _SECONDS[unit[0].lower()] for amount, unit in parts)


def duration(text: str) -> float:
    """Return the seconds of `1h30m`, or of a bare number; 0 when the text says no duration."""
    return float(text) if re.fullmatch(_NUMBER, text) else _duration(text)


def timeout(text: str) -> float:
    """Read `360s`, `6m`, `1h` or a bare number as seconds, at most a day."""
    seconds = duration(text)
    if not 0 < seconds <= MAX_TIMEOUT:
        raise ValueError(f"found {quoted(text)}; allowed is a duration up to 24h, as 360s or 6m")
    return seconds


def link_life(text: str) -> int:
    """Read a duration as `timeout` does, in whole seconds, at most a week: no longer may a signed link be good."""
    seconds = int(_duration(text))
    if not 0 < seconds <= LONGEST_SIGNED:
        raise ValueError(f"found {quoted(text)}; allowed is a duration up to 168h, as 2h")
    return seconds


def call_timeout(text: str) -> float | AutoTimeout:
    """Read `auto`, or a duration as `timeout` does."""
    return AutoTimeout() if text == "auto" else timeout(text)


def deadline(text: str) -> Deadline:
    """Read a clock time, `06:00`, or a duration, `5h`."""
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        return Deadline(clock=(int(clock[1]), int(clock[2])))
    seconds = _duration(text)
    if not 0 < seconds <= MAX_DEADLINE:
        raise ValueError(f'found {quoted(text)}; allowed is a clock time, as "06:00", or a duration, as 5h')
    return Deadline(seconds=seconds)


def size(text: str) -> int:
    """Read `50MB`, `500KB`, `1GB` (powers of 1000) or a bare number as bytes."""
    match = _SIZE.fullmatch(text)
    amount = None if match is None else int(Decimal(match[1]) * _BYTES[match[2]])
    if amount is None or not 0 < amount <= MAX_PICTURE:
        raise ValueError(f"found {quoted(text)}; allowed is a size up to 4GB, as 50MB or 500KB")
    return amount


def colour(text: str) -> str | None:
    """Read a colour by its name or as CSS writes it: `#rrggbb`; empty is not given."""
    if not text:
        return None
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise ValueError(f"found {quoted(text)}; allowed is a colour, as white or #f0f0f0") from None
    return f"#{red:02x}{green:02x}{blue:02x}"


def money(text: str) -> Decimal:
    """Read an exact amount, 0 or more."""
    if not _MONEY.fullmatch(text):
        raise ValueError(f"found {quoted(text)}; allowed is an amount of 0 or more, as 0.14")
    return Decimal(text)


def share(text: str) -> Decimal | None:
    """Read a share of a price, above 0 and at most 1; empty is not given."""
    if text and not (_MONEY.fullmatch(text) and 0 < Decimal(text) <= 1):
        raise ValueError(f"found {quoted(text)}; allowed is a share above 0, at most 1, as 0.5")
    return Decimal(text) if text else None


def is_url(text: str) -> bool:
    """Whether a reference means a URL (of whatever scheme) and not a local file."""
    return _MEANS_URL.match(text) is not None


def shown(text: str) -> str:
    """Return the URL as a message may show it: cut before what may be signed, and without user and password."""
    if text[:5].lower() in {"data:", "file:"}:
        return quoted(f"{text[:5].lower()}...")
    bare = re.split(r"[?#]", text, maxsplit=1)[0]
    return quoted(re.sub(r"(://)[^/]*@", r"\1", bare))


def url(text: str) -> str:
    """Read an http(s) URL with a host, without user and password, spaces or control characters."""
    if not text.lower().startswith(("http:", "https:")):
        raise ValueError(f"found {shown(text)}; allowed is an http:// or https:// URL")
    if len(text) > MAX_URL:
        raise ValueError(f"found a URL of {len(text)} characters; allowed are at most {MAX_URL}")
    if _PLAIN_URL.fullmatch(text):
        return text
    if _BAD_IN_URL.search(text):
        raise ValueError(f"found {shown(text)}, with a space or control character; write it as %20 or remove it")
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"found {shown(text)}, which is not a well-formed URL") from None
    if not host:
        raise ValueError(f"found {shown(text)}, which has no host")
    if "@" in parts.netloc:
        raise ValueError(f"found {shown(text)} with a user or password in it; remove them")
    return text


EMBEDDED = "simulator"  # in place of an address: the API that is simulated in this process


def base_url(text: str) -> str | None:
    """Read the address of an API: no query or fragment; a call's own path is cut, and `/v1`, with which paths begin.

    The embedded simulator is `simulator`.
    """
    if text in {"", EMBEDDED}:
        return text or None
    if "?" in url(text) or "#" in text:
        raise ValueError(f"found {shown(text)} with a query or fragment; remove it")
    return _ENDPOINT.sub("", text.rstrip("/")).removesuffix("/v1").rstrip("/")


_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):([0-9]{1,5})")


def listen(text: str) -> tuple[str, int]:
    """Read `host:port` of this machine to listen at; IPv6 in brackets."""
    match = _LISTEN.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 1 << 16:
        raise ValueError(f"found {quoted(text)}; allowed is host:port, as 0.0.0.0:8788, or 127.0.0.1:8788 for a tunnel")
    return match[1].strip("[]"), int(match[2])


def public_url(text: str) -> str:
    """Read the address by which others reach us: https, or http on this machine or a private network, for a trial.

    What is put behind it is a secret, so that it must not travel in the open.
    """
    if "?" in url(text) or "#" in text:
        raise ValueError(f"found {shown(text)} with a query or fragment; remove it")
    if text.lower().startswith("http:") and not _is_near(urlsplit(text).hostname or ""):
        raise ValueError(f"found {shown(text)}; allowed is https://, for what stands behind it is a secret")
    return text.rstrip("/")


def _is_near(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_private  # loopback is
    return host == "localhost" or host.endswith(".localhost")


_PROXY = re.compile(
    r"(?i:(?:https?|socks4a?|socks5h?)://)?(?:[^\s/]*@)?(?:\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(?::\d{1,5})?/?"
)


def proxy(text: str) -> str | None:
    """Read the address of a proxy, or `direct`. A message never shows it: it may hold a password."""
    if not text:
        return None
    if not _PROXY.fullmatch(text):
        allowed = "http, https, socks5 or socks4://host:port, with ${NAME} for a password, or direct for none"
        raise ValueError(f"this is no address of a proxy; allowed is {allowed}")
    return text


_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_PORT = re.compile(rf"({_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?")
_HOST_ALLOWED = "allowed is a host, host:port or a network, as 127.0.0.1:8000 or 10.0.0.0/24"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_OURS = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "te", "upgrade", "expect", "trailer"}
    | {"range", "if-range", "accept-encoding"}
)


def allowed_host(text: str) -> str:
    """Read a host, `host:port` (IPv6 in brackets) or network, in lower case."""
    if "://" in text:
        raise ValueError(f"found {shown(text)}; {_HOST_ALLOWED}, without http://")
    with suppress(ValueError):
        network = ip_network(text, strict=False)  # 10.0.0.7/24 means the network that it is in
        return str(network) if "/" in text else str(network.network_address)
    match = _HOST_PORT.fullmatch(text)
    sound = match is not None and len(text) <= MAX_HOST and 0 < int(match[2] or 1) < 1 << 16
    if match is not None and match[1].startswith("["):
        try:
            IPv6Address(match[1][1:-1])
        except ValueError:
            sound = False
    if not sound:
        raise ValueError(f"found {quoted(text)}; {_HOST_ALLOWED}")
    return text.lower()


def header_name(text: str) -> str:
    """Read the name of a header that a request may be given."""
    if not _HEADER_NAME.fullmatch(text):
        raise ValueError(f"found the header {quoted(text)}; a name is made of letters, digits and -, as User-Agent")
    if text.lower() in _OURS:
        raise ValueError(f"found the header {quoted(text)}, which is set for each request by itself; remove it")
    return text


def header_value(text: str) -> str:
    """Read what a header says. A message does not show it, for it may be a secret."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("found a line end or another character that a header cannot hold; allowed is ASCII text")
    return text.strip()

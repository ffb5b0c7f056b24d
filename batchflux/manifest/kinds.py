"""What a value of a manifest may be: how a node is checked, and its JSON Schema; types for the fields of its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetPydanticSchema
from pydantic_core import PydanticUseDefault, core_schema

from batchflux.errors import quoted
from batchflux.manifest.matrix import AXIS_SCHEMA, axis_spec
from batchflux.manifest.reading import values
from batchflux.manifest.reading.values import AutoTimeout, is_nothing, leaf, line_of_text, problem, scalar
from batchflux.manifest.reading.yaml_nodes import Scalar, found, plain_data
from batchflux.models import DIFFERENCES
from batchflux.tables.delimited import delimiter_of
from batchflux.tables.encodings import named as encoding_named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_ID = re.compile(r"(?:AKIA|ASIA|LTAI)[A-Za-z0-9]{12}")  # the ids of access keys at AWS and Aliyun
_LONGEST_NAME, _SHORTEST_KEY = 64, 20  # characters of a variable's name, and of a key that is mistaken for one
_SECRET_HEADER = re.compile(r"authorization|cookie|token|secret|api-?key|signature", re.IGNORECASE)
TOKENS = ("text_in", "image_in", "text_out", "image_out", "in", "out")  # kinds of tokens that have prices of their own
MILLION = 1_000_000
PIXELS = ("megapixel", "further")  # of a model that is paid by them: the first one, and each one after it
MEGAPIXEL = 1 << 20  # pixels
LARGEST = 4  # megapixels of one picture, where a job does not tell its size
_MADE = (Scalar, list, dict)  # what a node is; anything else was made in code and is taken as it is


def of_node(check: Callable[[object], Any], schema: dict[str, Any]) -> GetPydanticSchema:
    """Return how a node is checked, and its JSON Schema; what `check` returns None for has the default."""

    def go(value: object) -> Any:
        if not isinstance(value, _MADE):
            return value
        if (made := check(value)) is None:
            raise PydanticUseDefault
        return made

    return GetPydanticSchema(
        lambda kind, handler: core_schema.no_info_before_validator_function(go, handler(kind)),
        lambda _core, _handler: schema.copy(),
    )


def of_text(read: Callable[[str], Any], *types: str, **more: Any) -> GetPydanticSchema:
    """How a text is read by `read`, which raises ValueError, and its JSON Schema by types."""
    return of_node(leaf(read), types_of(*types, **more))


def word(*words: str) -> GetPydanticSchema:
    """One of these words."""
    return of_text(lambda text: values.one_of(text, words), "string", enum=list(words))


def whole(highest: int, **more: int) -> GetPydanticSchema:
    """A whole number from 1 to `highest`."""
    return of_text(lambda text: values.whole(text, 1, highest), "integer", minimum=1, **more)


def types_of(*types: str, **more: Any) -> dict[str, Any]:
    """Return a JSON Schema that allows these types."""
    return {"type": list(types) if len(types) > 1 else types[0], **more}


def addresses(value: object) -> tuple[str, ...]:
    """Check the address of an API, or the list of a fleet's."""
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not value:
        raise problem("the list is empty; allowed is an address, as https://api.tu-zi.com, or several")
    made = [leaf(values.base_url)(item) for item in items]
    if isinstance(value, list) and (None in made or len({*made}) < len(made)):
        raise problem("found an address that is empty, or stands there twice; remove it")
    if len(made) > 1 and values.EMBEDDED in made:
        raise problem("the embedded simulator is one address; write base_url: simulator")
    return tuple(one for one in made if one is not None)


def _given_text(value: object) -> str:
    node = scalar(value, "text")
    if node.is_null and node.shown is not None:  # a variable that is not set, which is noted already
        return node.shown
    text = None if node.is_null else line_of_text(node.text)
    if text is None:
        raise problem("found nothing; allowed is text")
    return text


def keys(value: object) -> tuple[str, ...]:
    """Check names of environment variables; one may stand without a list. A value is never shown: it may be the key."""
    items = value if isinstance(value, list) else [value]
    if len(items) == 1 and is_nothing(items[0]):
        return ()
    names = tuple(named(scalar(item, "the name of an environment variable").text) for item in items)
    if len(set(names)) != len(names):
        raise problem("a name stands here twice; name each environment variable once")
    return names


def named(name: str, example: str = "TUZI_API_KEY") -> str:
    """Check the name of an environment variable. It is never shown: it may be the key itself."""
    if not VARIABLE.fullmatch(name) or _looks_like_key(name):
        message = "this is no name of an environment variable; put the key into a variable and name it here"
        raise problem(f"{message}, as {example}")
    return name


def variable(example: str) -> GetPydanticSchema:
    """The name of an environment variable that holds a secret."""
    return of_text(partial(named, example=example), "string", "null")


def _looks_like_key(name: str) -> bool:
    mixed = any(c.islower() for c in name) and any(c.isupper() for c in name) and any(c.isdigit() for c in name)
    long = len(name) > _LONGEST_NAME or (mixed and len(name) >= _SHORTEST_KEY and "_" not in name)
    return long or _KEY_ID.match(name) is not None


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """The price of a model that is paid by tokens: the `most` that one image may cost, and the `rates` of a million."""

    most: Decimal
    rates: dict[str, Decimal]

    def of(self, tokens: Mapping[str, int]) -> Decimal:
        """Return what so many tokens of each kind cost; one without a rate counts at the highest it may have."""
        return sum((self._rate(kind) * count for kind, count in tokens.items()), Decimal(0)) / MILLION

    def _rate(self, kind: str) -> Decimal:
        whole = kind.rpartition("_")[2]  # `in` of text_in
        parts = [self.rates[name] for name in (f"text_{whole}", f"image_{whole}") if name in self.rates]
        sure = kind == whole and len(parts) == len(("text", "image"))
        highest = max(parts if sure else self.rates.values())
        return self.rates.get(kind, self.rates.get(whole, highest))


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelPrice:
    """The price of a model that is paid by megapixels, those of references too: of the `first`, and each `further` one.

    `most` is the most that one image may cost, where the user knows it.
    """

    first: Decimal
    further: Decimal
    most: Decimal | None = None

    def of(self, megapixels: int) -> Decimal:
        """Return what so many megapixels cost."""
        return self.first + self.further * max(0, megapixels - 1)

    def at_most(self, megapixels: int) -> Decimal:
        """Return the most that a request of so many megapixels at most may cost."""
        return self.of(megapixels) if self.most is None else min(self.most, self.of(megapixels))


Priced = Decimal | TokenPrice | PixelPrice


def _price(value: object) -> Priced | dict[str, Priced] | None:
    if not isinstance(value, dict):
        return leaf(values.money)(value)  # type: ignore[no-any-return]  # a Decimal or None, as money reads
    if not {"most", *PIXELS, *TOKENS}.isdisjoint(value):  # of whatever model, or "most" would be taken for one
        return _table(value)
    prices: dict[str, Priced] = {}
    for model, item in value.items():
        try:
            prices[model] = _table(item) if isinstance(item, dict) else _amount(item)
        except ValueError as error:
            raise problem(f"of {quoted(model)}: {error}") from None
    return prices or None


def _amount(value: object) -> Decimal:
    if is_nothing(value):
        raise problem("found nothing; allowed is an amount of 0 or more, as 0.14")
    return leaf(values.money)(value)  # type: ignore[no-any-return]  # a Decimal, as money reads


def _table(written: dict[str, object]) -> TokenPrice | PixelPrice:
    """Return the price of a model that is paid by megapixels, where one is written, or by tokens."""
    by_pixels = not {*PIXELS}.isdisjoint(written)
    names, amounts = ("most", *(PIXELS if by_pixels else TOKENS)), {}
    for name, item in written.items():
        if name not in names:
            raise problem(f"found {quoted(name)}; allowed is {', '.join(names[:-1])} or {names[-1]}")
        try:
            amounts[name] = _amount(item)
        except ValueError as error:
            raise problem(f"{name}: {error}") from None
    return _pixel_price(amounts) if by_pixels else _token_price(amounts)


def _pixel_price(amounts: dict[str, Decimal]) -> PixelPrice:
    if "megapixel" not in amounts:
        raise problem("a price by megapixels needs megapixel, that of the first: {megapixel: 0.03, further: 0.015}")
    first = amounts["megapixel"]
    return PixelPrice(first=first, further=amounts.get("further", first), most=amounts.get("most"))


def _token_price(amounts: dict[str, Decimal]) -> TokenPrice:
    if "most" not in amounts or len(amounts) == 1:
        example = "{most: 0.25, text_in: 5, image_in: 8, image_out: 30}"
        raise problem(f"prices of a million tokens need most, the most that one image may cost, beside them: {example}")
    return TokenPrice(amounts.pop("most"), amounts)


def _condition(value: object) -> str | None:
    node = scalar(value, "a template")
    if not node.is_null and not values.is_template(node.text):
        allowed = 'allowed is a template that says whether a row is kept, as "{{ stock | int > 0 }}"'
        raise problem(f"found {quoted(node.text)}; {allowed}")
    return None if node.is_null else values.template(node.text).text


def _truth(text: str) -> bool:
    return values.one_of(text.lower(), ("true", "false")) == "true"


def _excluded(value: object) -> str:
    return "" if is_nothing(value) else scalar(value).text


def texts(value: object) -> tuple[str, ...]:
    """Check a text, or a list of texts."""
    if is_nothing(value):
        return ()
    items = value if isinstance(value, list) else [value]
    return tuple(_given_text(item) for item in items)


def accepted(value: object) -> tuple[str, ...]:
    """Check what pictures may differ in."""
    return tuple(values.one_of(text, (*DIFFERENCES, "any")) for text in texts(value))


def fallback_on(value: object) -> tuple[str, ...]:
    """Check the error codes for which another provider takes over."""
    return tuple(values.one_of(text, ("moderated",)) for text in texts(value))


def hosts(value: object) -> tuple[str, ...]:
    """Check hosts, host:port and networks."""
    return tuple(map(values.allowed_host, texts(value)))


def headers(value: object) -> dict[str, str]:
    """Check HTTP headers; a secret comes from ${NAME}, and none stands twice."""
    made: dict[str, str] = {}
    for name, item in values.mapping(value).items():
        if values.header_name(name).lower() in map(str.lower, made):
            raise problem(f"the header {quoted(name)} stands here twice; keep one of them")
        node = scalar(item, "text")
        if node.shown is None and _SECRET_HEADER.search(name) and not node.is_null:
            message = "holds a secret, which does not belong in a manifest; put it into an environment variable"
            raise problem(f"the header {quoted(name)} {message} and write ${{NAME}} here")
        try:
            made[name] = "" if node.is_null else values.header_value(node.text)
        except ValueError as error:
            raise problem(f"of {quoted(name)}: {error}") from None
    return made


def options(value: object) -> Any:
    """Return a mapping as plain data; the API checks it."""
    return plain_data(values.mapping(value))


def timeout(value: object) -> float | AutoTimeout | None:
    """Check a time, `auto`, or `{auto: FLOOR}`."""
    if not isinstance(value, dict):
        return leaf(values.call_timeout)(value)  # type: ignore[no-any-return]  # as call_timeout reads
    if list(value) != ["auto"] or is_nothing(value["auto"]):
        raise problem(f"found {found(value)}; allowed is a duration, as 360s, auto, or {{auto: 2m}}")
    return AutoTimeout(floor=leaf(values.timeout)(value["auto"]))


LIST = types_of("array", "string", items={"type": "string"})
ADDRESSES = types_of("array", "string", "null", items={"type": "string"})
ACCEPT = types_of("array", "string", items={"enum": [*DIFFERENCES, "any"]})
HEADERS = types_of("object", "null", additionalProperties={"type": "string"})
_TIME = types_of("string", "number")
TIMEOUT = {"anyOf": [_TIME, {"type": "object", "properties": {"auto": _TIME}, "required": ["auto"]}]}
AMOUNT = types_of("number", "string", minimum=0)
SHARE = {"exclusiveMinimum": 0, "maximum": 1}
_RATES = {"type": "object", "properties": dict.fromkeys(("most", *TOKENS), AMOUNT)}
_TOKEN_PRICE = {**_RATES, "required": ["most"], "minProperties": 2, "additionalProperties": False}
_OF_PIXELS = {"type": "object", "properties": dict.fromkeys(("most", *PIXELS), AMOUNT)}
_PIXEL_PRICE = {**_OF_PIXELS, "required": ["megapixel"], "additionalProperties": False}
_OF_MODEL = {"anyOf": [AMOUNT, _TOKEN_PRICE, _PIXEL_PRICE]}
_PRICE = {"anyOf": [AMOUNT, _TOKEN_PRICE, _PIXEL_PRICE, {"type": "object", "additionalProperties": _OF_MODEL}]}
Text = Annotated[str, of_node(_given_text, types_of("string", "number", "boolean"))]
Price = Annotated[Priced | dict[str, Priced] | None, of_node(_price, _PRICE)]
Amount = Annotated[Decimal | None, of_node(leaf(values.money), AMOUNT)]
MaybeText = Annotated[str | None, of_text(line_of_text, "string", "number", "null")]
Encoding = Annotated[str | None, of_text(encoding_named, "string", "null")]
Delimiter = Annotated[str | None, of_text(delimiter_of, "string", "null")]
Where = Annotated[str | None, of_node(_condition, types_of("string", "null"))]
Truth = Annotated[bool, of_text(_truth, "boolean", "null")]
AxisSpec = Annotated[Any, of_node(axis_spec, AXIS_SCHEMA)]
_Excluded = Annotated[str, of_node(_excluded, types_of("string", "number", "boolean", "null"))]
Exclusion = Annotated[dict[str, _Excluded], BeforeValidator(values.mapping)]


class Part(BaseModel):
    """What all parts of a manifest have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

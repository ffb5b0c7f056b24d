"""What a manifest says of a provider: which API, where and how it is called, what it costs, and in which mode."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field

from batchflux.manifest import job_fields, kinds
from batchflux.manifest.kinds import Part, Price, Text
from batchflux.manifest.reading import values

if TYPE_CHECKING:
    from batchflux.models import Cost

Mode = Literal["live", "batch", "batch_then_live"]
NO_KEY = "(no key)"
_NANO = Decimal("1e-9")  # of a currency: the smallest amount that is counted
_PRICED = (
    "price of one image in `currency`, or of one by each model: {MODEL: PRICE}; of models that are paid by megapixels, "
    "those of references too, {megapixel: PRICE, further: PRICE}: the first and each after it; of one paid by tokens "
    "{most: PRICE, text_in: ..., image_in: ..., text_out: ..., image_out: ...}: the most of one image, and the "
    "price of a million tokens of each kind; of all models, or of MODEL alone"
)


class ProviderConfig(Part):
    """Which API to call, and how.

    `keys` are names of environment variables; there are no `addresses` for the embedded simulator.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: Text = Field(
        "simulator",
        description="simulator (embedded, free), tuzi, an API's own (bfl, fal, openai, ...), or any with a base_url",
    )
    api: Text = Field(
        "flux-relay",
        description="the wire format, as flux-relay, bfl or openai; left out: by the name, else flux-relay",
    )
    style: Annotated[str, kinds.word(*job_fields.STYLES)] = Field(
        job_fields.AUTO, description="auto: standard where it carries the whole job, chat where a local file travels"
    )
    model: Text = Field("flux-kontext-pro", description="the model's name at the provider")
    addresses: Annotated[tuple[str, ...], kinds.of_node(kinds.addresses, kinds.ADDRESSES)] = Field(
        (),
        alias="base_url",
        description="where the API is, as https://api.tu-zi.com; a list is a fleet; simulator is the embedded one",
    )
    keys: Annotated[tuple[str, ...], kinds.of_node(kinds.keys, kinds.LIST)] = Field(
        (), description="NAMES of environment variables that hold API keys; several are a pool"
    )
    price: Price = Field(None, description=_PRICED)
    currency: Text = Field("USD", description="the currency of price and budget")
    params: Annotated[Literal["strict", "drop"], kinds.word("strict", "drop")] = Field(
        "strict", description="what to do with a field that the API cannot carry: refuse the job, or drop it"
    )
    options: Annotated[dict[str, Any], kinds.of_node(kinds.options, kinds.types_of("object", "null"))] = Field(
        default_factory=dict,
        repr=False,  # it may hold what ${NAME} stands for
        description="what only this API knows; the simulator's latency, limits and faults",
    )

    mode: Annotated[Mode, kinds.word(*get_args(Mode))] = Field(
        "live", description="batch: many jobs in one file, cheaper and within a day, where the API sells batches"
    )
    live_from: Annotated[values.Deadline | None, kinds.of_text(values.deadline, "string", "null")] = Field(
        None,
        description='of mode batch_then_live: when what is not back is sent live, "04:00", or after 5h',
    )
    batch_share: Annotated[Decimal | None, kinds.of_text(values.share, "number", "string", "null", **kinds.SHARE)] = (
        Field(None, description="what a job in a batch costs, as a share of `price`; left out: as the API publishes")
    )
    allow_hosts: Annotated[tuple[str, ...], kinds.of_node(kinds.hosts, kinds.LIST)] = Field(
        (), description="hosts, host:port or networks that links to pictures may lead to although they are private"
    )
    proxy: Annotated[str | None, kinds.of_text(values.proxy, "string", "null")] = Field(
        None,
        repr=False,
        description="the proxy for calls and downloads, or direct; left out: HTTP(S)_PROXY, ALL_PROXY and NO_PROXY",
    )
    download_headers: Annotated[dict[str, str], kinds.of_node(kinds.headers, kinds.HEADERS)] = Field(
        default_factory=dict, repr=False, description="headers that hosts of pictures want, as User-Agent or Referer"
    )

    @property
    def simulated(self) -> bool:
        """Whether the embedded simulator answers, which costs nothing."""
        return not self.addresses

    @property
    def base_url(self) -> str | None:
        """Its first address; None for the embedded simulator."""
        return next(iter(self.addresses), None)

    @property
    def key_names(self) -> tuple[str, ...]:
        """The names of its keys; of one that stands for none, where its API wants none."""
        return self.keys or (NO_KEY,)

    def price_of(self, model: str) -> Decimal | None:
        """Return the price of one image by a model, the most where it is paid by more; None when none is known."""
        price = self.priced(model)
        if isinstance(price, kinds.PixelPrice):
            return price.at_most(kinds.LARGEST)
        return price.most if isinstance(price, kinds.TokenPrice) else price

    def priced(self, model: str) -> kinds.Priced | None:
        """Return the price of a model as it is written."""
        return self.price.get(model) if isinstance(self.price, dict) else self.price

    @property
    def batched(self) -> bool:
        """Whether its jobs are sent in batches."""
        return self.mode != "live"

    def in_batch(self, price: Decimal) -> Decimal:
        """Return what costs `price` live as it is in a batch, rounded up to what is counted."""
        share = Decimal(1) if self.batch_share is None else self.batch_share
        return (price * share).quantize(_NANO, ROUND_CEILING).normalize()

    def cost_of(self, model: str, told: Cost | None, *, batched: bool = False) -> Decimal | None:
        """Return what an answer says that it cost, in `currency`; None when it does not, or in another currency.

        `batched`: a batch gave it, so that what it counts has the price of a batch.
        """
        if told is None:
            return None
        if told.amount is not None and told.currency == self.currency:
            return told.amount
        price = self._counted(model, told)
        return None if price is None else self.in_batch(price) if batched else price

    def _counted(self, model: str, told: Cost) -> Decimal | None:
        """Return the price, live, of what an answer counts."""
        match price := self.priced(model):
            case kinds.TokenPrice():
                return price.of(told.tokens) if told.tokens else None
            case kinds.PixelPrice() if told.megapixels is not None:
                return price.of(told.megapixels)
            case kinds.PixelPrice():  # units are of no known size: each counts as the first megapixel, the dearest
                return None if told.units is None else price.first * told.units
        return None if price is None or told.units is None else price * told.units


class ProviderLimits(Part):
    """What of the limits a provider may have of its own; what is left out is as `limits` says."""

    concurrency: Annotated[int | None, kinds.whole(10_000, maximum=10_000)] = Field(
        None, description="its requests in flight"
    )
    rate: Annotated[values.Rate | None, kinds.of_text(values.rate, "string", "null")] = Field(
        None, description="its requests started in a time, by each of its keys"
    )
    attempts: Annotated[int | None, kinds.whole(100, maximum=100)] = Field(None, description="attempts for each job")
    timeout: Annotated[float | values.AutoTimeout | None, kinds.of_node(kinds.timeout, kinds.TIMEOUT)] = Field(
        None, description="bound of one of its calls, as limits.timeout"
    )


class NamedProvider(ProviderConfig):
    """One of several providers, by a name of the user's own, with limits of its own."""

    limits: ProviderLimits | None = Field(None, description="what of the limits is its own")

"""Who may call: clients by their keys, of which a file has the hashes; and what bounds each, its money and its rate.

    - name: studio
      sha256: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
      budget: 20.00
      rate: 30/min

Keys are made by us (`new_keys`) of 256 random bits. Nobody finds such a key by trying, however fast a hash is, so a
plain SHA-256 keeps it as well as a slow hash would, and costs nothing with each request. For a password of a person's
this would not do; the file takes none.
"""

from __future__ import annotations

import codecs
import hashlib
import hmac
import re
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from batchflux.engine.budget import UNBOUND, Ceiling, Purse
from batchflux.errors import Fault, ManifestError, quoted
from batchflux.ledger.tables import nanos
from batchflux.manifest import kinds
from batchflux.manifest.kinds import Amount, Part, Truth
from batchflux.manifest.reading import values
from batchflux.manifest.reading.diagnostics import Faults, check_sound
from batchflux.manifest.reading.yaml_nodes import Items, Node, found, line_at, read_tree
from batchflux.redaction import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from decimal import Decimal
    from pathlib import Path

PREFIX = "sk-batchflux-"  # of a key: by `sk-` shells take it for a key of OpenAI's kind, and redaction hides it
MOST_BYTES = 1 << 20  # of a file of keys
MOST_IN_WINDOW = 10_000  # calls that are remembered of a client
MAKE_ONE = "make one with: batchflux gateway-key NAME --client-keys FILE"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)
_MAY_BE_KEY = re.compile(r"[A-Za-z0-9_+/=-]{20,}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client of the gateway; its name is what ledger, log and metrics call it.

    `budget` is in the manifest's currency, over all runs of the folder; `rate` bounds its calls; None: no bound of its
    own. `metrics` lets it read the folder's numbers.
    """

    name: str
    budget: Decimal | None = None
    rate: values.Rate | None = None
    metrics: bool = False


LOCAL = Client(name="local", metrics=True)
"""Whoever calls a gateway on loopback that has no file of keys."""


def client_name(text: str) -> str:
    """Read a client's name. A message does not show it where it may be a key."""
    if not _NAME.fullmatch(text) or text.startswith(PREFIX) or text == LOCAL.name:
        allowed = f"up to 40 letters, digits and . _ @ -, beginning with a letter or digit, and not {LOCAL.name}"
        raise ValueError(f"found {_without_keys(quoted(text))}; allowed is a name of {allowed}")
    return text


def _digest(text: str) -> str:
    if not _DIGEST.fullmatch(text):
        what = "this is no SHA-256 of a key, which has 64 hex digits"
        raise ValueError(f"{what}; a key itself must not stand here: take it out, hold it for known, and {MAKE_ONE}")
    return text.lower()


class _Entry(Part):
    """What the file says of one client; `name` and `sha256` must be there."""

    name: Annotated[str, kinds.of_text(client_name, "string")] = ""
    sha256: Annotated[str, kinds.of_text(_digest, "string")] = ""
    budget: Amount = None
    rate: Annotated[values.Rate | None, kinds.of_text(values.rate, "string", "null")] = None
    metrics: Truth = Field(default=False)


def read_clients(data: bytes, display: str) -> dict[bytes, Client]:
    """Return the clients of a file of keys, by the digests of these.

    Raises ManifestError: with every fault. None of them shows what may be a key.
    """
    faults = Faults(display)
    clients: dict[bytes, Client] = {}
    try:
        clients = dict(_clients(_items(data, faults), faults))
    except ManifestError as error:
        faults.found = [*faults.found, *error.faults]
    if faults.found:
        raise ManifestError([_kept_secret(fault) for fault in faults.in_order()]) from None
    return clients


def _items(data: bytes, faults: Faults) -> list[Node]:
    if is_blank(data):
        faults.add(None, (), f"the file has no clients; {MAKE_ONE}")
        return []
    if len(data) > MOST_BYTES:
        faults.add(None, (), f"the file has more than {MOST_BYTES} bytes; a file of client keys has a few lines each")
        return []
    root = read_tree(data, faults.file, faults.note)
    if isinstance(root, Items):
        return root.items
    faults.add(root.line, (), f"found {found(root)}; allowed is a list of clients, each with - name: and sha256:")
    return []


def is_blank(data: bytes) -> bool:
    """Whether a file has nothing but comments."""
    lines = data.removeprefix(codecs.BOM_UTF8).splitlines()
    return not any(line.strip() and not line.lstrip().startswith(b"#") for line in lines)


def _clients(nodes: list[Node], faults: Faults) -> Iterator[tuple[bytes, Client]]:
    """Yield the sound ones; none twice."""
    first: dict[str, int] = {}  # where a name or a digest stands first
    for index, node in enumerate(nodes):
        entry, bad = check_sound(_Entry, node, (index,), faults)
        for key in ("name", "sha256"):
            text = getattr(entry, key)
            if not text and not {key, ""} & bad:
                faults.add(node.line, (index, key), f"is missing; each client needs a name and a sha256, or {MAKE_ONE}")
            elif text and first.setdefault(text, index) != index:
                what = f"the name {quoted(text)}" if key == "name" else "the sha256 of the same key"
                other = line_at(nodes[first[text]], (key,))
                faults.add(line_at(node, (key,)), (index, key), f"{what} stands on line {other}, too; keep one of them")
        if entry.name and entry.sha256:
            made = Client(name=entry.name, budget=entry.budget, rate=entry.rate, metrics=entry.metrics)
            yield bytes.fromhex(entry.sha256), made


def _without_keys(text: str) -> str:
    return _MAY_BE_KEY.sub(HIDDEN, text)


def _kept_secret(fault: Fault) -> Fault:
    """Return a fault without what may be a key: it may stand where a name belongs, or in a line that is no YAML."""
    return replace(fault, where=_without_keys(fault.where), message=_without_keys(fault.message))


def digest_of(key: str) -> bytes:
    """Return what the file has of a key; a header may hold any bytes."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


class ClientKeys:
    """The clients of a file of keys, as it was when it was last read without a fault.

    Raises ManifestError: the file cannot be read, or has faults.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unpriced: str | None = None
        self._known = self._read()

    @property
    def clients(self) -> tuple[Client, ...]:
        """All of them, as they stand in the file."""
        return tuple(self._known.values())

    def refuse_budgets(self, unpriced: str) -> None:
        """Take no budgets from here on, for nobody knows what this model costs. ManifestError: there are some."""
        self._unpriced = unpriced
        self._known = self._read()

    def find(self, key: str) -> Client | None:
        """Return whose key it is. Each digest is compared, whole, so that the time tells nothing."""
        given, whose = digest_of(key), None
        for digest, client in self._known.items():
            if hmac.compare_digest(given, digest):
                whose = client
        return whose

    def reload(self) -> str:
        """Read the file again, and return what to tell of it; where it has faults, what was read before holds."""
        try:
            self._known = self._read()
        except ManifestError as error:
            return f"{error}\nThe client keys that were read before stay in force."
        count = len(self._known)
        return f"Client keys are read again: {count} {'client' if count == 1 else 'clients'} in {self.path}."

    def _read(self) -> dict[bytes, Client]:
        try:
            with self.path.open("rb") as stream:
                data = stream.read(MOST_BYTES + 1)
        except FileNotFoundError:
            message = f"the file of client keys does not exist; {MAKE_ONE}"
        except OSError as error:
            message = f"the file of client keys cannot be read: {error.strerror}"
        else:
            return self._priced(read_clients(data, str(self.path)))
        raise ManifestError([Fault(file=str(self.path), line=None, where="", message=message)])

    def _priced(self, known: dict[bytes, Client]) -> dict[bytes, Client]:
        bound = [client.name for client in known.values() if client.budget is not None]
        if self._unpriced is None or not bound:
            return known
        message = f"a budget needs the price of {self._unpriced}; add it to the manifest (0 is one)"
        raise ManifestError([Fault(file=str(self.path), line=None, where=name, message=message) for name in bound])


class Pace:
    """A client's rate: no window holds more calls than it says, and so many may come at once.

    The engine's schedule (`engine/limits/gcra`) lets requests wait for their time, so it spaces them. Here a call that
    is too early is refused: spaced evenly, the second of two pictures that a shell asks for at once would be an error.
    """

    def __init__(self, rate: values.Rate | None = None) -> None:
        self._admitted: deque[float] = deque(maxlen=0)
        self.retune(rate)

    def retune(self, rate: values.Rate | None) -> None:
        """Let another rate hold from now on."""
        self.rate = rate
        most = 0 if rate is None else min(max(1, int(rate.count)), MOST_IN_WINDOW)
        self.window = 0.0 if rate is None else rate.seconds * most / rate.count
        self._admitted = deque(self._admitted, maxlen=most)

    def begun(self, at: Iterable[float]) -> None:
        """Count calls that were admitted before, by a steady clock, in order."""
        self._admitted.extend(at)

    def admit(self, now: float) -> float:
        """Count a call and return 0.0, or in how many seconds one is admitted; `now` is of a steady clock."""
        calls = self._admitted
        wait = calls[0] + self.window - now if calls and len(calls) == calls.maxlen else 0.0
        if wait <= 0:
            calls.append(now)
        return max(wait, 0.0)


class Accounts:
    """Each client's purse and pace, by its name, so that a new key for it changes neither.

    `spent` is what the folder's ledger has of each name, in nanounits; `begun` are the times of its last calls, of a
    steady clock, in order.
    """

    def __init__(self, spent: Mapping[str, int], currency: str, begun: Mapping[str, Sequence[float]]) -> None:
        self._spent, self._currency, self._begun = spent, currency, begun
        self._purses: dict[str, Purse] = {}
        self._paces: dict[str, Pace] = {}

    def purse(self, client: Client) -> Purse:
        """Return a client's purse, with the budget that it has by now."""
        made = self._purses.setdefault(client.name, Purse(spent=self._spent.get(client.name, 0)))
        budget = client.budget
        made.retune(UNBOUND if budget is None else Ceiling(nanos(budget), f"{budget} {self._currency}"))
        return made

    def spent(self) -> dict[str, int]:
        """Return what was spent by each client's name, in nanounits."""
        return {**self._spent, **{name: purse.spent for name, purse in self._purses.items()}}

    def pace(self, client: Client) -> Pace:
        """Return a client's pace, with the rate that it has by now."""
        made = self._paces.get(client.name)
        if made is None:
            made = self._paces[client.name] = Pace(client.rate)
            made.begun(self._begun.get(client.name, ()))
        elif made.rate != client.rate:
            made.retune(client.rate)
        return made

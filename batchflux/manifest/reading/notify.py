"""Who is told how a run goes: `notify` of a manifest, and `--notify`. An address is a secret, and is never shown."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from batchflux.errors import ManifestError, UsageError, quoted
from batchflux.manifest.reading.diagnostics import Faults, nearest
from batchflux.manifest.reading.environment import expand_environment
from batchflux.manifest.reading.targets import EVENTS, KINDS, LEFT_OUT, NoticeTarget
from batchflux.manifest.reading.values import is_nothing
from batchflux.manifest.reading.yaml_nodes import OVERRIDE, Items, Node, Scalar, Table, found, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from batchflux.manifest.reading.targets import Event, Kind
    from batchflux.secrets import Lookup

NOTIFY = "notify"
MOST = 20  # addresses of one run
_PINGED = frozenset({"hc-ping.com"})  # hosts that take nothing but pings
_GIVEN = re.compile(rf"(?:({'|'.join(KINDS)})=)?(.*)", re.DOTALL)
_ALLOWED = "allowed is an address, as ${HOOK_URL}, or one of webhook, ping and apprise with it, as ping: ${PING_URL}"


def read_notify(root: Table, faults: Faults) -> tuple[NoticeTarget, ...]:
    """Return whom the tree's `notify` names, its variables expanded; note what is wrong there."""
    node = root.pairs.get(NOTIFY)
    if node is None or is_nothing(node):
        return ()
    items = node.items if isinstance(node, Items) else [node]
    made: list[NoticeTarget] = []
    for index, item in enumerate(items[:MOST]):
        path = (NOTIFY, index) if isinstance(node, Items) else (NOTIFY,)
        try:
            made += _targets(item)
        except ValueError as error:
            faults.add(item.line, path, str(error))
    if len(items) > MOST:
        faults.add(node.line, (NOTIFY,), f"found {len(items)} addresses; allowed are at most {MOST}")
    return tuple(dict.fromkeys(made))


def targets_of(texts: Sequence[str], secrets: Lookup) -> tuple[NoticeTarget, ...]:
    """Return whom `--notify` names: `URL`, or `KIND=URL`, each with `${NAME}`. UsageError says what is wrong."""
    items: list[Node] = []
    for text in texts:
        kind, url = _split(text)
        bare = Scalar(url, plain=False, line=OVERRIDE)
        items.append(bare if kind is None else Table(OVERRIDE, {kind: bare}, {kind: OVERRIDE}))
    faults = Faults("--notify")
    root = Table(OVERRIDE, {NOTIFY: Items(OVERRIDE, items)}, {NOTIFY: OVERRIDE})
    made = read_notify(expand_environment(root, secrets, faults), faults)
    if faults.found:
        raise UsageError("\n".join(f"--notify: {fault.message}" for fault in faults.found))
    return made


def targets_in(path: Path, secrets: Lookup) -> tuple[NoticeTarget, ...]:
    """Return whom a manifest names that may have faults elsewhere, and cannot be run; nobody where that cannot be read.

    A night whose manifest broke must be heard of.
    """
    with suppress(OSError, ManifestError):
        root = read_tree(path.read_bytes(), str(path), lambda _: None)
        if isinstance(root, Table) and NOTIFY in root.pairs:
            faults = Faults(str(path))
            alone = Table(root.line, {NOTIFY: root.pairs[NOTIFY]}, {NOTIFY: root.lines[NOTIFY]})
            return read_notify(expand_environment(alone, secrets, faults), faults)
    return ()


def without_addresses(text: str, targets: Iterable[NoticeTarget]) -> str:
    """Return a manifest's text without the addresses that it writes out, as it is kept in the folder."""
    for target in targets:
        text = text.replace(target.url, target.shown)
    return text


def _split(text: str) -> tuple[str | None, str]:
    match = _GIVEN.fullmatch(text.strip())
    return (None, text) if match is None else (match[1], match[2])


def _targets(node: Node) -> Iterator[NoticeTarget]:
    """Yield whom one element names; none where its variable is not set, which is noted already."""
    if not isinstance(node, Table):
        if not _missing(node):
            yield _target(None, _url(node), frozenset(EVENTS))
        return
    for key in node.pairs:
        if key not in (*KINDS, "on"):
            raise ValueError(f"unknown key {quoted(key)}; {nearest(key, [*KINDS, 'on'])}")
    named = [kind for kind in KINDS if kind in node.pairs]
    if len(named) != 1:
        raise ValueError(f"found {len(named)} of webhook, ping and apprise; {_ALLOWED}")
    address = node.pairs[named[0]]
    if not _missing(address):
        yield _target(named[0], _url(address), _events(node.pairs.get("on")))


def _missing(node: Node) -> bool:
    return isinstance(node, Scalar) and not node.text and node.shown is not None


def _url(node: Node) -> str:
    text = node.text.strip() if isinstance(node, Scalar) else ""
    if not text:
        raise ValueError(f"found {'an empty address' if isinstance(node, Scalar) else found(node)}; {_ALLOWED}")
    if text.endswith(LEFT_OUT):
        raise ValueError("the address was left out of this copy, for it is a secret; write it anew, as ${HOOK_URL}")
    return text


def _events(node: Node | None) -> frozenset[Event]:
    if node is None or is_nothing(node):
        return frozenset(EVENTS)
    chosen: set[Event] = set()
    for item in node.items if isinstance(node, Items) else [node]:
        text = item.text if isinstance(item, Scalar) else None
        event = next((event for event in EVENTS if event == text), None)
        if event is None:
            raise ValueError(f"on: found {found(item)}; allowed is {', '.join(EVENTS[:-1])} or {EVENTS[-1]}")
        chosen.add(event)
    return frozenset(chosen)


def _target(kind: Kind | None, url: str, on: frozenset[Event]) -> NoticeTarget:
    """Make it; ValueError without the address, which is a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), None
    web = parts.scheme in {"http", "https"}
    chosen = kind or ("apprise" if not web else "ping" if host in _PINGED else "webhook")
    if chosen != "apprise" and not (web and host):
        raise ValueError(f"what stands here is no address that can be called by HTTP; {_ALLOWED}")
    if not parts.scheme or "://" not in url or not url.isprintable() or any(map(str.isspace, url)):
        raise ValueError(f"what stands here is no address; {_ALLOWED}")
    return NoticeTarget(kind=chosen, url=url, on=on)

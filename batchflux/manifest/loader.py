"""The file on disk → a Manifest, or all that is wrong with it in one go.

Reading stops at what cannot be read; then the command line's overrides and the environment's values go into the tree,
so that the same rules hold for them. From there on every part is checked, whatever the others are like. When there are
faults, rows and jobs are looked at too, as far as they can be.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from batchflux.errors import Fault, ManifestError, quoted
from batchflux.manifest.entries import read_entries
from batchflux.manifest.job_fields import job_id
from batchflux.manifest.parts import ReferencesConfig, StoreConfig, WebhooksConfig
from batchflux.manifest.providers.config import SIMULATOR
from batchflux.manifest.providers.several import providers_of
from batchflux.manifest.reading.diagnostics import (
    OVERRIDE_FILE,
    Faults,
    check_sound,
    key_names,
    unknown_key,
)
from batchflux.manifest.reading.environment import expand_environment
from batchflux.manifest.reading.fetched import Fetched
from batchflux.manifest.reading.notify import read_notify, without_addresses
from batchflux.manifest.reading.published import link_fault
from batchflux.manifest.reading.values import AutoTimeout, is_nothing
from batchflux.manifest.reading.yaml_nodes import (
    MAX_BYTES,
    OVERRIDE,
    Items,
    Node,
    Scalar,
    Table,
    found,
    is_written,
    line_at,
    read_tree,
)
from batchflux.manifest.salvage import compile_all, note_expansion
from batchflux.manifest.schema import (
    Defaults,
    Document,
    LimitsConfig,
    Manifest,
    OutputConfig,
    stores_of,
)
from batchflux.manifest.templates import compile_template
from batchflux.output.stores.base import root_of
from batchflux.redaction import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchflux.capabilities import Capabilities
    from batchflux.manifest.providers.settings import ProviderConfig
    from batchflux.manifest.providers.several import Providers
    from batchflux.secrets import Lookup

Model = TypeVar("Model", bound=BaseModel)
_TABLES = frozenset({".csv", ".tsv", ".jsonl", ".xlsx", ".parquet"})
FREE = "x-"  # how keys at the top begin that are for anchors, and mean nothing
PIPED, STDIN = "-", "<stdin>"
MAX_PARTS = 16  # of a path on the command line
MAX_NAME = 100  # characters of a manifest's name
_POSITION = re.compile(r"[0-9]{1,9}", re.ASCII)
_INDEX = re.compile(r"\[([0-9]{1,9})\](?=\.|$)", re.ASCII)  # a position as faults name it, `jobs[0]`


_OF_LISTED = (("defaults",), ("limits", "deadline"), ("output", "file_name"))  # keys that hold for listed jobs alone


def load_manifest(  # noqa: PLR0913  all by name
    path: str | os.PathLike[str] | Manifest,
    *,
    sets: Sequence[str] = (),
    provider: str | None = None,
    out: str | None = None,
    environ: Lookup | None = None,
    offers: Sequence[Capabilities] | None = None,
    served: bool = False,
) -> Manifest:
    """Read a manifest, from stdin when the path is `-`, and check all that needs no row of a table.

    `sets` and `provider` change it as `apply_overrides` says, `out` replaces output.dir; `${NAME}` is looked up in
    `environ`, the process's when None. `offers` is what APIs can carry, one for each call style of each: given, the
    provider's API, style and options are checked, and a manifest with faults is expanded too as far as it is sound.
    `served`: its jobs come from elsewhere; those that it lists, if any, are not looked at.
    The path may be a manifest that is to be read anew; what it had out of buckets stays as it was read.

    Raises ManifestError: with every fault.
    """
    named, before = (path.display, path.fetched) if isinstance(path, Manifest) else (os.fspath(path), None)
    piped = named == PIPED
    display = STDIN if piped else named
    faults = Faults(display)
    data = sys.stdin.buffer.read(MAX_BYTES + 1) if piped else _read(Path(display), display)
    root = _root(data, faults)
    apply_overrides(root, sets, provider, faults)
    secrets: Lookup = os.environ if environ is None else environ
    root = expand_environment(root, secrets, faults)
    stores = store_configs(root, faults)
    buckets = stores, before or Fetched(stores_of(stores, secrets))
    given = data.decode("utf-8-sig"), out, provider, served
    manifest = _manifest(Path("stdin" if piped else display), root, faults, offers, given, buckets)
    _check_published(manifest, root, faults)
    compile_all(manifest, faults)
    if faults.found:
        if offers is not None:
            note_expansion(manifest, offers, faults)
        raise ManifestError(faults.in_order())
    return manifest


def _root(data: bytes, faults: Faults) -> Table:
    try:
        root = read_tree(data, faults.file, faults.note)
    except ManifestError as error:  # with what was noted before it ended
        raise ManifestError([*dict.fromkeys([*faults.found, *error.faults])]) from None
    if not isinstance(root, Table):
        faults.add(root.line, (), f'found {found(root)}; a manifest starts with "version: 1"')
        raise ManifestError(faults.found)
    return root


def _read(path: Path, display: str) -> bytes:
    if path.suffix.lower() in _TABLES:
        message = f"this is a table; write a manifest for it with: batchflux init --from {display}"
        raise ManifestError([Fault(file=display, line=None, where="", message=message)])
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        message = "the manifest does not exist; correct the path, or write one with: batchflux init"
    except IsADirectoryError:
        message = "this is a folder; name the manifest, a YAML file"
    except OSError as error:
        message = f"the manifest cannot be read: {error.strerror}"
    except ValueError:
        display, message = quoted(display), "this is not a path"
    raise ManifestError([Fault(file=display, line=None, where="", message=message)])


def _manifest(
    path: Path,
    root: Table,
    faults: Faults,
    offers: Sequence[Capabilities] | None,
    given: tuple[str, str | None, str | None, bool],
    buckets: tuple[dict[str, StoreConfig], Fetched],
) -> Manifest:
    _top(root, faults)
    name = _name(path.stem, root, faults)
    made = providers_of(root, offers, faults, given[2])
    told = read_notify(root, faults)
    return Manifest(
        path=path.absolute(),
        base=path.absolute().parent,
        display=faults.file,
        name=name,
        provider=made.default,
        providers=made.named,
        several=made.several,
        chosen=made.chosen,
        fallback=made.fallback,
        fallback_on=made.fallback_on,
        limits=_limits(root, made, faults),
        output=_output(root, name, given[1], faults),
        references=_part(root, "references", ReferencesConfig, faults),
        webhooks=_webhooks(root, faults),
        stores=buckets[0],
        fetched=buckets[1],
        text=without_addresses(_without_passwords(given[0], made.named.values()), told),
        notify=told,
        served=given[3],
        unheeded=tuple(".".join(key) for key in _OF_LISTED if given[3] and is_written(root, *key)),
        entries=() if given[3] else read_entries(root, _part(root, "defaults", Defaults, faults), faults),
        file_name_line=line_at(root, ("output", "file_name")),
        provider_lines=_provider_lines(root, made),
        out_given=bool(given[1]),
        dir_given=bool(given[1]) or _names_folder(root),
    )


def _provider_lines(root: Table, made: Providers) -> dict[tuple[str, str], int]:
    """Return where keys and options of each provider stand."""
    places = {name: ("providers", name) if made.several else ("provider",) for name in made.named}
    return {(name, key): line_at(root, (*place, key)) for name, place in places.items() for key in ("keys", "options")}


def _without_passwords(text: str, providers: Iterable[ProviderConfig]) -> str:
    """Return the manifest's text without what proxies say of user and password, as it is kept in the folder."""
    for provider in providers:
        known = (provider.proxy or "").rpartition("@")[0].rpartition("//")[2]
        text = text.replace(f"{known}@", f"{HIDDEN}@") if known else text
    return text


def _top(root: Table, faults: Faults) -> None:
    known = key_names(Document)
    for key in root.pairs:
        if key not in known and not key.startswith(FREE):
            faults.add(root.lines[key], (key,), unknown_key(key, (), Document))
    node = root.pairs.get("version")
    if node is None or is_nothing(node):
        faults.add(root.line, ("version",), 'is missing; add "version: 1"')
    elif not isinstance(node, Scalar) or node.text != "1":
        faults.add(node.line, ("version",), f"found {found(node)}; allowed is 1")


def _name(stem: str, root: Table, faults: Faults) -> str:
    node = root.pairs.get("name")
    written = node is not None and not is_nothing(node)
    text = stem if node is None or not written else node.text if isinstance(node, Scalar) else ""
    with suppress(ValueError):
        name = job_id(text)
        if name is not None and len(name) <= MAX_NAME and not name.startswith("."):
            return name
    if node is not None and written:
        allowed = "allowed is text that can name a folder, of at most 100 characters, without a slash"
        faults.add(node.line, ("name",), f"found {found(node)}; {allowed}")
    return "manifest"


def _part(root: Table, key: str, model: type[Model], faults: Faults) -> Model:
    node = root.pairs.get(key)
    return model() if node is None else check_sound(model, node, (key,), faults)[0]


def _limits(root: Table, made: Providers, faults: Faults) -> LimitsConfig:
    limits = _part(root, "limits", LimitsConfig, faults)
    priced = made.several or made.default.price is not None or made.default.simulated  # of several, by each job
    unsure = {"", "name", "api", "base_url", "price"} & faults.below("provider").keys()
    for key in limits.budgets if not priced and not unsure else ():
        message = "a budget needs the price of one image; add provider.price"
        faults.add(line_at(root, ("limits", key)), ("limits", key), message)
    for name in made.fallback if limits.budgets else ():
        config, path = made.named[name], ("providers", name, "price")
        if not config.simulated and config.price_of(config.model) is None and name not in faults.below("providers"):
            message = f"a budget needs the price of the model {quoted(config.model)}, by which {name} takes jobs over"
            faults.add(line_at(root, path), path, f"{message}; add it (0 is one)")
    return limits


def _webhooks(root: Table, faults: Faults) -> WebhooksConfig:
    made = _part(root, "webhooks", WebhooksConfig, faults)
    missing = [key for key in ("listen", "public_url") if not is_written(root, "webhooks", key)]
    examples = {"listen": "0.0.0.0:8788", "public_url": "https://hooks.example.com"}
    for key in missing if len(missing) == 1 else ():
        message = f"{key} is missing; add it, as {key}: {examples[key]}"
        faults.add(line_at(root, ("webhooks",)), ("webhooks",), message)
    return made


def _check_published(manifest: Manifest, root: Table, faults: Faults) -> None:
    publish, path = manifest.references.publish, ("references", "publish")
    if publish is not None and not faults.below("references"):
        timeouts = (manifest.limits_of(name).timeout for name in manifest.providers)
        longest = max(one.longest if isinstance(one, AutoTimeout) else one for one in timeouts)
        if (fault := link_fault(publish.to, publish.url, publish.sign, longest)) is not None:
            faults.add(line_at(root, path), path, fault)


def store_configs(root: Table, faults: Faults) -> dict[str, StoreConfig]:
    """Return what `stores` says of buckets, by their addresses; note what is wrong there."""
    node = root.pairs.get("stores")
    if node is None or is_nothing(node):
        return {}
    if not isinstance(node, Table):
        faults.add(node.line, ("stores",), f"found {found(node)}; allowed is a mapping of buckets, as s3://bucket")
        return {}
    made = {}
    for key, said in node.pairs.items():
        bucket = root_of(key)
        if bucket is None:
            faults.add(node.lines[key], ("stores", key), "is no bucket; name one by its address, as s3://bucket")
        made[bucket or key] = check_sound(StoreConfig, said, ("stores", key), faults)[0]
    return made


def _names_folder(root: Table) -> bool:
    output = root.pairs.get("output")
    folder = output.pairs.get("dir") if isinstance(output, Table) else None
    return isinstance(folder, Scalar) and Path(folder.text).is_absolute()


def _output(root: Table, name: str, out: str | None, faults: Faults) -> OutputConfig:
    output = _part(root, "output", OutputConfig, faults)
    named = "dir" in output.model_fields_set and is_written(root, "output", "dir")
    folder = Path(out) if out else output.dir if named else output.dir / name
    update: dict[str, object] = {"dir": folder.absolute()}
    try:
        compile_template(output.file_name, file_name=True)
    except ValueError as error:
        faults.add(line_at(root, ("output", "file_name")), ("output", "file_name"), str(error))
        update["file_name"] = OutputConfig().file_name
    if not output.keep_local and output.mirror is None and "mirror" not in faults.below("output"):
        path = ("output", "keep_local")
        message = "false needs a bucket that has the pictures then; add output.mirror, as s3://bucket/folder"
        faults.add(line_at(root, path), path, message)
    return output.model_copy(update=update)


def apply_overrides(root: Table, sets: Sequence[str], provider: str | None, faults: Faults) -> None:
    """Change the tree as the command line says, `--set PATH=VALUE` and `--provider NAME`; note what cannot be.

    A path names keys and list positions with dots, or positions as `jobs[0]`; mappings on its way are made when
    missing. Another provider takes nothing of the manifest's that would lead to the wrong place; the simulator speaks
    the API that is written, and in place of several that of each.
    """
    if is_written(root, "providers"):
        if provider is not None and (provider != SIMULATOR or is_written(root, "providers", provider)):
            root.pairs["provider"] = Scalar(provider, plain=False, line=OVERRIDE)
            root.lines["provider"] = OVERRIDE
        _set_all(root, sets, faults)
        return
    section = _provider_section(root)
    if provider is not None:
        name = section.pairs.get("name")
        current = name.text if isinstance(name, Scalar) and not name.is_null else SIMULATOR
        if provider != current:
            for key in ("base_url", "keys", "options", "price" if provider == SIMULATOR else "api"):
                section.pairs.pop(key, None)
                section.lines.pop(key, None)
        section.pairs["name"] = Scalar(provider, plain=False, line=OVERRIDE)
        root.pairs["provider"] = section
        section.lines["name"] = root.lines["provider"] = OVERRIDE
    _set_all(root, sets, faults)
    _provider_section(root)  # --set provider=NAME may have put a bare name there


def _set_all(root: Table, sets: Sequence[str], faults: Faults) -> None:
    for text in sets:
        path, equals, value = text.partition("=")
        if not equals or not path:
            faults.add(OVERRIDE, (), f"found --set {quoted(path)}; allowed is PATH=VALUE, as limits.rate=10/s")
        elif (node := _value(value, faults)) is not None:
            _walk(root, path, node, faults)


def _provider_section(root: Table) -> Table:
    """The provider as a mapping; a bare name becomes one. What is neither stays for the check to refuse."""
    node = root.pairs.get("provider")
    if isinstance(node, Table):
        return node
    section = Table(OVERRIDE if node is None else node.line)
    if isinstance(node, Scalar):
        if not node.is_null:
            section.pairs["name"] = node
            section.lines["name"] = node.line
        root.pairs["provider"] = section
        root.lines.setdefault("provider", section.line)
    return section


def _value(text: str, faults: Faults) -> Node | None:
    stripped = text.strip()
    if not stripped.startswith(("[", "{", '"', "'")):
        return Scalar(stripped, plain=True, line=OVERRIDE)
    try:
        node = read_tree(stripped.encode("utf-8", "surrogateescape"), OVERRIDE_FILE, faults.note)
    except ManifestError as error:
        for fault in error.faults:
            faults.add(OVERRIDE, (), fault.message)
        return None
    return _relabelled(node)


def _relabelled(node: Node) -> Node:
    if isinstance(node, Table):
        pairs = {key: _relabelled(child) for key, child in node.pairs.items()}
        return Table(OVERRIDE, pairs, dict.fromkeys(pairs, OVERRIDE))
    return Items(OVERRIDE, [*map(_relabelled, node.items)]) if isinstance(node, Items) else replace(node, line=OVERRIDE)


def _walk(root: Table, path: str, node: Node, faults: Faults) -> None:
    """Put a node at a path; each mapping and list on the way is copied, for an alias may stand in other places too."""
    at: Node = root
    parts = _INDEX.sub(r".\1", path).split(".")
    if len(parts) > MAX_PARTS:
        faults.add(OVERRIDE, (), f"found a path of {len(parts)} parts; allowed are at most {MAX_PARTS}")
        return
    for left, part in zip(reversed(range(len(parts))), parts, strict=True):
        if isinstance(at, Table) and part:
            child = at.pairs.get(part)
            if not left or child is None or is_nothing(child):
                at.lines[part] = OVERRIDE
                child = Table(OVERRIDE)
            at.pairs[part] = child = _own(child) if left else node
        elif isinstance(at, Items) and _POSITION.fullmatch(part) is not None and int(part) < len(at.items):
            at.items[int(part)] = child = _own(at.items[int(part)]) if left else node
        else:
            reason = "there is nothing below it, for a single value stands there"
            if isinstance(at, Items):
                reason = f"allowed in place of {quoted(part)} is a position from 0 to {len(at.items) - 1}"
            elif isinstance(at, Table):
                reason = "allowed is a path of names and positions, as jobs.0.seed"
            faults.add(OVERRIDE, (), f"found the path {quoted(path)}; {reason}")
            return
        at = child


def _own(node: Node) -> Node:
    if isinstance(node, Table):
        return Table(node.line, dict(node.pairs), dict(node.lines))
    return Items(node.line, list(node.items)) if isinstance(node, Items) else node

"""Write the manual's pages that follow from the program's own tables: python .readme/make_pages.py [--check].

So are the tables of APIs in README.md and its translation, between their marks. With --check nothing is written; the
exit code is 1 when a page is not what it would be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchflux.cli import COMMANDS, cli
from batchflux.errors import CAUSES, EXIT_CODES, RULES, Code
from batchflux.exports.base import COLUMNS
from batchflux.manifest import schema
from batchflux.manifest.job_fields import REQUEST_FIELDS
from batchflux.providers import providers
from batchflux.simulator.faults import FAULTS
from batchflux.simulator.options import SimulatorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "batchflux" / "docs"
READMES = {"README.md": "en", ".readme/README.zh.md": "zh"}
MADE = "<!-- written by .readme/make_pages.py; change the tables it reads -->\n"
SHOWN = [name for name in (*REQUEST_FIELDS, "mask") if not name.startswith("webhook")]
FOLLOWS = {
    "backoff": "sent again after a pause",
    "once": "asked again at most once",
    "resend": "as `--on-unknown` says",
    "limits": "sent again as soon as the limits, or another key, allow",
    "never": "not sent again",
}
BILLED = {"no": "no", "maybe": "possibly", "yes": "yes"}
BEGIN, END = "<!-- apis -->\n", "<!-- /apis -->"
HEADS = {
    "en": (
        "API",
        "key in",
        "carries",
        "references",
        "local photos travel as",
        "lost request can be found",
        "tells its cost",
    ),
    "zh": ("API", "密钥在", "能承载的字段", "参考图", "本地照片的传送方式", "丢失的请求能否找回", "是否告知费用"),
}
YES = {"en": ("yes", "no", "any number", "none", "none needed"), "zh": ("是", "否", "不限", "无", "不需要")}


def main() -> int:
    """Write, or check, every page that is made."""
    made: dict[str, Callable[[], Iterable[str]]] = {
        "manifest": manifest,
        "columns": columns,
        "errors": errors,
        "commands": commands,
    }
    stale = []
    whole = {PAGES / f"{topic}.md": MADE + "\n".join(lines()) + "\n" for topic, lines in made.items()}
    for page, text in (
        whole | {ROOT / name: with_apis(ROOT / name, language) for name, language in READMES.items()}
    ).items():
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.stderr.write(f"Not current: {', '.join(stale)}. Run python .readme/make_pages.py and commit them.\n")
        return 1
    return 0


def with_apis(page: Path, language: str) -> str:
    """Return a page with its table of APIs as the providers say it."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}" + "\n".join(["", *apis(language), "", f"{END}{after}"])


def apis(language: str) -> Iterable[str]:
    """Yield the table of what each API carries, one row a call style."""
    yes, no, any_number, none, free = YES[language]
    rows = []
    for provider in providers().values():
        able = provider.capabilities("")
        most = any_number if able.most_images is None else f"≤ {able.most_images}" if able.most_images else none
        rows.append(
            (
                f"`{able.api}`" + (f" {able.style}" if able.style != able.api else ""),
                ", ".join(f"`{name}`" for name in able.key_names) or ("" if able.base_url is None else free),
                ", ".join(f"`{name}`" for name in SHOWN if name in able.fields),
                most,
                able.files or no,
                yes if able.finds_lost else no,
                yes if able.tells_cost else no,
            )
        )
    yield from table(HEADS[language], rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """Yield a Markdown table."""
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in row) + " |"


def manifest() -> Iterable[str]:
    """Yield the reference of a manifest's keys, from its JSON Schema."""
    whole = schema()
    parts = whole["$defs"]
    yield "# The manifest, key by key"
    yield ""
    yield "`batchflux schema` prints the same as JSON Schema, for editors. What is left out has its default; a key"
    yield "that is not listed is a fault. Top-level keys that begin with `x-` are ignored: a place for YAML anchors."
    yield from section("The document", whole, skip=())
    named = {
        "provider": "ProviderConfig",
        "limits": "LimitsConfig",
        "output": "OutputConfig",
        "webhooks": "WebhooksConfig",
    }
    named |= {"references": "ReferencesConfig"} if "ReferencesConfig" in parts else {}
    for key, part in named.items():
        yield from section(f"`{key}`", parts[part], skip=())
    yield from section("`stores`, of each bucket", parts["StoreConfig"], skip=())
    yield from section("Fields of a job, also in `defaults`", parts["Defaults"], skip=())
    yield from section("Besides, on an element of `jobs`", parts["JobEntry"], skip=parts["Defaults"]["properties"])
    yield ""
    yield "## `options` of each API"
    yield ""
    for provider in providers().values():
        able = provider.capabilities("")
        if able.options is not None:
            yield f"**{able.api}**, style {able.style}:" if able.style else f"**{able.api}**:"
            yield ""
            known = able.options.model_json_schema()["properties"]
            yield from table(
                ("option", "what it may be"), [(f"`{name}`", kind(of, parts)) for name, of in known.items()]
            )
            yield ""
    yield "**simulator**: " + ", ".join(f"`{name}`" for name in SimulatorOptions.__dataclass_fields__ if name != "salt")
    yield "(what they mean: [providers](providers.md))."
    yield from ("", "## Faults of the simulator", "")
    yield from table(("fault", "what it is"), [(f"`{fault.name}`", fault.doc) for fault in FAULTS.values()])


def section(title: str, part: Mapping[str, Any], skip: Iterable[str]) -> Iterable[str]:
    """Yield one part of the manifest as a table."""
    yield ""
    yield f"## {title}"
    yield ""
    rows = [
        (f"`{name}`", kind(of, {}), default(of, required=name in part.get("required", ())), of.get("description", ""))
        for name, of in part["properties"].items()
        if name not in skip
    ]
    yield from table(("key", "what it may be", "left out", "meaning"), rows)


def kind(of: Mapping[str, Any], parts: Mapping[str, Any]) -> str:
    """Return what a value may be."""
    if "anyOf" in of:
        found = [kind(one, parts) for one in of["anyOf"]]
        return " or ".join(dict.fromkeys(one for one in found if one not in ("", "nothing")))
    if "$ref" in of:
        return "a mapping, see below"
    if "enum" in of or "const" in of:
        return ", ".join(f"`{word}`" for word in of.get("enum", [of.get("const")]) if word is not None)
    names = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
        "array": "a list",
        "object": "a mapping",
        "null": "nothing",
    }
    types = of.get("type", [])
    words = [names[one] for one in ([types] if isinstance(types, str) else types) if one != "null"]
    bounds = [f"{word} {of[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in of]
    return " ".join([" or ".join(words), *bounds])


def default(of: Mapping[str, Any], *, required: bool) -> str:
    """Return what a key is when it is left out."""
    if required:
        return "must be there"
    value = of.get("default")
    return "" if value in (None, [], {}) else f"`{json.dumps(value, ensure_ascii=False).strip(chr(34))}`"


def columns() -> Iterable[str]:
    """Yield the columns and the exit codes."""
    yield "# Columns and exit codes"
    yield ""
    yield "## Columns of results.csv"
    yield ""
    yield "UTF-8, one row for each job that ended, in this order; then one column for each tag, `tags.NAME`, and"
    yield "after a review `review` and `note`, and `reviewer` where one gave a name."
    yield "Times are UTC, ISO 8601. What a spreadsheet would run as a formula has"
    yield "a `'` in front: at a cell's start, and behind a `;`, where a spreadsheet of some countries begins a cell."
    yield ""
    yield from table(("column", "what stands in it"), [(f"`{name}`", says) for name, says in COLUMNS.items()])
    yield ""
    yield "## Exit codes"
    yield ""
    yield from table(("code", "meaning"), EXIT_CODES.items())


def errors() -> Iterable[str]:
    """Yield the error codes, from the rules that the engine follows."""
    yield "# Error codes"
    yield ""
    yield "`error_code` of results.csv. An attempt is a request that could cost money; of those a job has"
    yield "`limits.attempts`. `batchflux run --retry-failed` first does what is free, then buys again what cannot be"
    yield "had otherwise."
    yield ""
    rows = []
    for code in Code:
        rule = RULES[code]
        follows = FOLLOWS[rule.retry]
        if rule.fetch_again:
            follows = "its link is fetched again; never paid again while the link may live"
        if rule.free:
            follows += "; tried again by every later run, for free"
        if rule.fault == "key":
            follows = "the key leaves the pool; with none left the run stops"
        rows.append((f"`{code.value}`", CAUSES[code], follows, BILLED[rule.billed], "yes" if rule.attempt else "no"))
    yield from table(("code", "cause", "what follows in the run", "billed", "an attempt"), rows)


def commands() -> Iterable[str]:
    """Yield every command with its options, from the command line itself."""
    yield "# Commands"
    yield ""
    yield "Results go to stdout, everything else to stderr. Exit codes: `batchflux docs columns`."
    with click.Context(cli, info_name="batchflux") as top:
        for name in COMMANDS:
            command = cli.get_command(top, name)
            if command is None:
                raise LookupError(name)
            yield from described(name, command, top)


def described(name: str, command: click.Command, parent: click.Context) -> Iterable[str]:
    """Yield a command with its options, or each of a group."""
    with click.Context(command, info_name=name, parent=parent) as context:
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                yield from described(f"{name} {inner}", one, context)
            return
        usage = " ".join(command.collect_usage_pieces(context))
        yield from ("", f"## `batchflux {name} {usage}`", "", " ".join((command.help or "").split()), "")
        told = [found for one in command.params if (found := one.get_help_record(context)) is not None]
        yield from table(("option", "what it does"), [(f"`{shape}`", says) for shape, says in told])


if __name__ == "__main__":
    sys.exit(main())

"""The command that writes an output folder as a dataset: `batchflux export`."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import click
from tqdm import tqdm

from batchflux.cli.terminal import OutputFolder, Whole, count, place
from batchflux.exports.export import Wish
from batchflux.exports.export import export as write_export
from batchflux.exports.marks import marks_of
from batchflux.exports.places import destination
from batchflux.exports.selection import Split
from batchflux.exports.shop.names import NAME
from batchflux.exports.shop.options import MAX_BYTES, MAX_SIDE, OPTIONS, SHEETS
from batchflux.output.stores.base import in_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from batchflux.exports.export import Exported

Command = TypeVar("Command", bound=Any)
_HUB_FILES = 50_000  # pictures as files, beyond which the Hub wants files that hold many
_MB = 1_000_000
_SHOP = (
    click.option("--name", metavar="TEMPLATE", help=f"shop: what a picture is called, else '{NAME}'."),
    click.option("--product", metavar="TEMPLATE", help="shop: which product it shows, else the tag sku, or the id."),
    click.option(
        "--max-side",
        metavar="PIXELS",
        type=Whole(16, 10_000),
        help=f"shop: the longest side, else {MAX_SIDE} pixels.",
    ),
    click.option("--max-bytes", metavar="SIZE", help=f"shop: the largest file, else {MAX_BYTES}."),
    click.option("--square", type=click.Choice(["pad", "crop"]), help="shop: make it square; as --ratio 1:1 --fit."),
    click.option("--ratio", metavar="W:H", help="shop: bring it to this ratio, as 4:5."),
    click.option("--fit", type=click.Choice(["pad", "crop"]), help="shop: how it is brought to a ratio, else pad."),
    click.option("--pad", metavar="COLOUR", help="shop: what is put around it, else white."),
    click.option("--before", is_flag=True, help="shop: the photos that it was made from, too, as SKU_1_before.jpg."),
    click.option("--check-white", is_flag=True, help="shop: say whether its border is white."),
    click.option("--sheet", type=click.Choice(SHEETS), multiple=True, help="shop: which lists, else xlsx, or csv."),
    click.option("--thumbnails", is_flag=True, help="shop: small pictures in the workbook (xlsx)."),
    click.option("--url", metavar="URL", help="shop: where it can be seen, as https://img.example/{name}."),
)


def _all_of(options: Sequence[Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Return a decorator that gives a command several options, in their order."""

    def decorated(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


@click.command("export")
@click.argument("out", type=OutputFolder())
@click.argument("dest")
@click.option(
    "--format",
    "kind",
    metavar="FORMAT",
    required=True,
    help="imagefolder, webdataset, parquet, pairs[:LAYOUT] or shop.",
)
@click.option("--accepted", is_flag=True, help="Only pictures that a review accepted.")
@click.option(
    "--only", metavar="GLOB", multiple=True, help="Only jobs whose id matches, as 'mug-*'; also several times."
)
@click.option(
    "--where", metavar="EXPR", multiple=True, help="Only where this holds, such as 'width>=1024' or tags.sku=M-1."
)
@click.option("--split", metavar="SHARES", help="Into several splits, as train=0.9,test=0.1.")
@click.option(
    "--split-by", metavar="COLUMN", default="prompt", show_default=True, help="What is never parted by a split."
)
@click.option(
    "--caption", metavar="TEMPLATE", default="{{ prompt }}", show_default=True, help="What is said of a picture."
)
@click.option("--dedup", is_flag=True, help="Leave out pictures that look like an earlier one.")
@click.option(
    "--mark",
    "marks",
    metavar="MARKS",
    callback=lambda _context, _option, text: marks_of(text),
    help="Marks of provenance put into pictures: iptc, parameters, tc260, or none.",
)
@click.option("--producer", metavar="NAME", help="Who the mark tc260 says made them, else the provider's name.")
@click.option("--allow-host", "hosts", metavar="HOST", multiple=True, help="A private host to fetch references from.")
@click.option("--zip", is_flag=True, help="Put all of it into DEST.zip, too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_all_of(_SHOP)
def export(out: Path, dest: str, *, as_json: bool, split: str | None, split_by: str, hosts: Any, **wanted: Any) -> int:
    """Write the pictures of the output folder OUT as a dataset, or for a shop, to DEST, a folder or s3://BUCKET/PREFIX.

    OUT never changes. pairs has each picture with what it was made from, and the layouts instructpix2pix, musubi and
    ai-toolkit. shop has what a review accepted as JPEGs, with a spreadsheet. Failed jobs are left out. Run it again to
    continue, or to bring DEST up to what OUT has now: only what differs is written.
    """
    options = {name: given for name in OPTIONS if (given := wanted.pop(name)) not in (None, False, ())}
    wish = Wish(split=Split.of(split, split_by), allow_hosts=hosts, options=options, **wanted)
    with ExitStack() as stack:
        exported = write_export(out, destination(dest), wish, lambda what, number: _bar(stack, what, number))
    click.echo(_json(exported) if as_json else "\n".join(_lines(exported)))
    if not as_json:
        _say(exported)
    return 1 if exported.left_out else 0


def _bar(stack: ExitStack, what: str, number: int) -> Callable[[], object]:
    stack.close()  # the one before
    bar = stack.enter_context(tqdm(total=number, desc=what, unit="picture", leave=False, disable=None))
    return bar.update


def _json(exported: Exported) -> str:
    said = asdict(exported)
    for name in ("left_out", "copies"):
        said[name] = [{"id": job, "copy_of" if name == "copies" else "why": of} for job, of in said[name].items()]
    return json.dumps(said, ensure_ascii=False)


def _lines(exported: Exported) -> list[str]:
    """Return what a person reads on stdout: where it is, and what is not in it by itself."""
    copies = [f"{job} is a copy of {of}" for job, of in exported.copies.items()]
    shown = exported.folder if in_bucket(exported.folder) else place(exported.folder)
    places = [shown, *([place(exported.zip)] if exported.zip else [])]
    return [*places, *copies, *(f"{job}: {why}" for job, why in exported.left_out.items())]


def _say(exported: Exported) -> None:
    splits = ", ".join(f"{number:,} {name}" for name, number in exported.splits.items())
    made = f"{count(exported.pictures, 'picture')}, {exported.bytes / _MB:,.1f} MB, as {exported.kind}"
    click.echo(f"{made}{f' ({splits})' if len(exported.splits) > 1 else ''}.", err=True)
    for why, number in exported.unfit.items():
        click.echo(f"{count(number, 'picture')} {why}: not in it.", err=True)
    for what, number in exported.remarks.items():
        click.echo(f"{count(number, 'picture')} {what}.", err=True)
    if exported.copies:
        click.echo(f"{count(len(exported.copies), 'picture')} left out, as copies.", err=True)
    if exported.left_out:
        click.echo(f"{count(len(exported.left_out), 'picture')} left out that should be in it.", err=True)
    if exported.loading:
        click.echo(f"To read it: {exported.loading}", err=True)
    if exported.kind == "imagefolder" and exported.pictures > _HUB_FILES:
        click.echo("The Hub takes fewer files: for it, export as webdataset or parquet.", err=True)

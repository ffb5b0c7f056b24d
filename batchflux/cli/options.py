"""What `plan` and `run` have in common: the manifest, what of it to run, and how to load it."""

from __future__ import annotations

import gc
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, get_args

import click

from batchflux.ledger.reconcile import OnUnknown, Selection
from batchflux.planner import load_manifest

if TYPE_CHECKING:
    from collections.abc import Callable


def manifest_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add MANIFEST and its options; the command gets `load: Callable[[], Manifest]` and `selection: Selection`."""

    @click.argument("path", metavar="MANIFEST", type=click.Path())
    @click.option("--out", metavar="DIR", help="Write to DIR instead of the manifest's output.dir.")
    @click.option("--provider", metavar="NAME", help="Use this provider instead of the manifest's; simulator is free.")
    @click.option("--set", "sets", metavar="PATH=VALUE", multiple=True, help="Set a manifest value: limits.rate=10/s.")
    @click.option("--only", metavar="GLOB", help="Only jobs whose id matches, such as 'mug-*'.")
    @click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Work on at most N jobs.")
    @click.option("--redo", is_flag=True, help="Only the redos that were asked for in a review.")
    @click.option("--retry-failed", is_flag=True, help="Try failed jobs again.")
    @click.option(
        "--on-unknown",
        type=click.Choice(get_args(OnUnknown)),
        default="retry",
        show_default=True,
        help="What to do with a job whose request left and was never answered.",
    )
    @wraps(function)
    def wrapper(**given: Any) -> Any:
        # A run makes millions of small objects that live briefly and in no cycles: looking for cycles less often saves
        # a tenth of the time, and what start-up made need not be looked at again.
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        load = partial(
            load_manifest,
            given.pop("path"),
            sets=given.pop("sets"),
            provider=given.pop("provider"),
            out=given.pop("out"),
        )
        names = ("only", "limit", "redo", "retry_failed", "on_unknown")
        selection = Selection(**{name: given.pop(name) for name in names})
        return function(load=load, selection=selection, **given)

    return wrapper

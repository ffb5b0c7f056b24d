"""`batchflux review`."""

from __future__ import annotations

import asyncio
import signal
import webbrowser
from pathlib import Path

import click

from batchflux.ledger.summary import read_state
from batchflux.review.site import serve


@click.command("review")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; this machine only.")
@click.option("--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
def command(out: Path, host: str, port: int, *, opens: bool) -> None:
    """Look at the pictures of the output folder OUT and judge them: accept, reject, redo. Also while a run goes on.

    The page's address is printed to stdout; its token lets in who knows it. Ends with Ctrl-C, and exits with 0 then.
    What is to be done again is made by the next `batchflux run`, or by `batchflux run --redo` alone.
    """
    read_state(out)  # says at once when OUT is no output folder
    asyncio.run(_serve(out, host, port, opens=opens))


async def _serve(out: Path, host: str, port: int, *, opens: bool) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    site = await serve(out, host, port, _tell)
    try:
        click.echo(site.url)
        if site.opens is not None:
            _tell(site.opens)
        _tell(f"Review of {out}: open that address in a browser. Stop with Ctrl-C.")
        if opens and not await asyncio.to_thread(webbrowser.open, site.url):
            _tell("No browser could be opened.")
        await stopped.wait()
    finally:
        await site.stop()


def _tell(text: str) -> None:
    click.echo(text, err=True)

"""The commands that serve until Ctrl-C: `batchflux review` and `batchflux simulate`."""

from __future__ import annotations

import asyncio
import os
import signal
import webbrowser
from functools import partial
from pathlib import Path

import click

from batchflux.cli.terminal import HOST, OutputFolder, at_port
from batchflux.errors import UsageError
from batchflux.ledger.summary import read_state
from batchflux.review.listen import serve
from batchflux.secrets import Secrets
from batchflux.simulator import SERVED, Simulator, load_options, parse_options

SHORTEST_TOKEN = 16  # characters
_tell = partial(click.echo, err=True)


@click.command("review")
@click.argument("out", type=OutputFolder())
@HOST
@at_port(0)
@click.option(
    "--token",
    metavar="NAME",
    help="Let in who knows the token in the environment variable NAME, as for Prometheus; left out: a new one.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in the browser.")
def review(out: Path, host: str, port: int, *, token: str | None, opens: bool) -> None:
    """Look at the pictures of the output folder OUT and judge them: accept, reject, redo. Also while a run goes on.

    The page's address is printed to stdout; its token lets in who knows it. Ends with Ctrl-C, and exits with 0 then.
    The same server has numbers for Prometheus at /metrics.
    What is to be done again is made by the next `batchflux run`, or by `batchflux run --redo` alone.
    """
    read_state(out)  # says at once when OUT is no output folder
    asyncio.run(_serve_review(out, host, port, _given(token), opens=opens))


def _given(name: str | None) -> str | None:
    """Return the token that a variable holds, None without a name; UsageError: it is not set, or easily guessed."""
    if name is None:
        return None
    try:
        token = (Secrets(os.environ, Path.cwd()).get(name) or "").strip()
    except ValueError as error:
        raise UsageError(f"--token: {error}.") from None
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        what = f"--token: {name} must be set to at least {SHORTEST_TOKEN} characters of ASCII"
        raise UsageError(f"{what}; it is the name of an environment variable, not the token itself.")
    return token


async def _serve_review(out: Path, host: str, port: int, token: str | None, *, opens: bool) -> None:
    stopped = _stop_signal()
    served = await serve(out, host, port, _tell, token=token)
    try:
        click.echo(served.url)
        if served.opens is not None:
            _tell(served.opens)
        _tell(f"Review of {out}: open that address in a browser. Stop with Ctrl-C.")
        if opens and not await asyncio.to_thread(webbrowser.open, served.url):
            _tell("No browser could be opened.")
        await stopped.wait()
    finally:
        await served.stop()


@click.command("simulate")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@at_port(8765)
@click.option(
    "--faults",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML or JSON with latency, rate, faults, ...: the same keys as provider.options.",
)
@click.option("--api", type=click.Choice(SERVED), help="Serve this API alone; left out: all of them.")
def simulate(host: str, port: int, faults: Path | None, api: str | None) -> None:
    """Serve the simulated image APIs, all on one port, until Ctrl-C. Their base URL is printed to stdout.

    `batchflux docs providers` shows how a rehearsal goes, `batchflux docs manifest` all faults.
    """
    simulator = Simulator(parse_options({}) if faults is None else load_options(faults), api)
    asyncio.run(_serve_api(simulator, host, port))


async def _serve_api(simulator: Simulator, host: str, port: int) -> None:
    stopped = _stop_signal()
    url = await simulator.start(host, port)
    click.echo(url)
    if simulator.opens is not None:
        _tell(simulator.opens)
    _tell(f"Simulated image API at {url}: any key will do. Stop with Ctrl-C.")
    try:
        await stopped.wait()
    finally:
        await simulator.stop()


def _stop_signal() -> asyncio.Event:
    """Return what is set by Ctrl-C or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    return stopped

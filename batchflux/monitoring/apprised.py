"""Notices by apprise, which speaks to mail, chats and phones; the one file that knows it."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from typing import TYPE_CHECKING

from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

from batchflux.errors import UsageError
from batchflux.monitoring.base import SECONDS, NotToldError

if TYPE_CHECKING:
    from batchflux.manifest.reading.targets import NoticeTarget
    from batchflux.monitoring.base import Notice

MOST_TEXT = 3000  # characters; services cut, or split, what is longer


class Apprised:
    """Tells one address in apprise's form."""

    starts = False

    def __init__(self, target: NoticeTarget) -> None:
        self.place = target.place
        _hush()
        # A plugin that keeps things on disk would keep addresses there; one that follows redirects sends them on.
        asset = AppriseAsset(
            app_id="batchflux", app_desc="batchflux", app_url="", storage_mode="memory", http_redirects=False
        )
        self._service = Apprise(asset=asset)
        with warnings.catch_warnings():  # of what it imports itself, once a service is asked for
            warnings.simplefilter("ignore")
            known = self._service.add(target.url)
        if not known:
            what = f"notify: {target.place} is no address that apprise knows"
            raise UsageError(f"{what}; see https://appriseit.com for how services are written.")

    async def send(self, notice: Notice) -> None:
        """Try once; NotToldError: it did not arrive. The thread is left behind when it takes too long."""
        loop = asyncio.get_running_loop()
        told: asyncio.Future[bool] = loop.create_future()
        threading.Thread(target=self._send, args=(notice, loop, told), daemon=True, name="batchflux-notice").start()
        try:
            async with asyncio.timeout(SECONDS):
                arrived = await told
        except TimeoutError:
            raise NotToldError(f"no answer within {SECONDS:.0f} s", again=True) from None
        if not arrived:
            raise NotToldError("apprise could not deliver it", again=True)

    def _send(self, notice: Notice, loop: asyncio.AbstractEventLoop, told: asyncio.Future[bool]) -> None:
        try:
            kind = NotifyType.INFO
            if notice.exit_code is not None:
                kind = NotifyType.FAILURE if notice.exit_code else NotifyType.SUCCESS
            text = notice.text[:MOST_TEXT]
            arrived = bool(self._service.notify(text, notice.title, kind, body_format=NotifyFormat.TEXT))
        except Exception:  # noqa: BLE001  a plugin's; whatever it was, its message may hold the address
            arrived = False
        _settle(loop, told, arrived=arrived)


def _settle(loop: asyncio.AbstractEventLoop, told: asyncio.Future[bool], *, arrived: bool) -> None:
    """Give the result to who waits; nobody does when it took too long, or the loop is closed."""

    def give() -> None:
        if not told.done():
            told.set_result(arrived)

    try:
        loop.call_soon_threadsafe(give)
    except RuntimeError:
        return


def _hush() -> None:
    """Keep apprise from writing to stderr, where its lines would show addresses."""
    logger = logging.getLogger("apprise")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False

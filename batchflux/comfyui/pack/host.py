"""All that the nodes ask of the ComfyUI that runs them: to be told of an interrupt, and to show how it goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import comfy.model_management
import comfy.utils
import server

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from PIL import Image

Made = TypeVar("Made")
TICK = 0.1  # seconds between looks for an interrupt
PREVIEW = 512  # pixels of a preview's longer side


class Progress:
    """The bar on the node that runs, of so many steps."""

    def __init__(self, steps: int) -> None:
        self._bar = comfy.utils.ProgressBar(steps)
        self._steps, self._done = steps, 0

    def step(self, seen: Image.Image | None = None) -> None:
        """Tell that one step more is done, and show a picture."""
        self._done += 1
        preview = None if seen is None else ("JPEG", seen, PREVIEW)
        self._bar.update_absolute(self._done, self._steps, preview)


def show(text: str) -> None:
    """Show a text on the node that runs, where this ComfyUI can."""
    try:
        from comfy_execution.utils import get_executing_context  # noqa: PLC0415  old ones have none
    except ImportError:
        return
    context, shown = get_executing_context(), server.PromptServer.instance
    if context is not None and hasattr(shown, "send_progress_text"):
        shown.send_progress_text(text, context.node_id, shown.client_id)


async def until_done(
    works: Sequence[Coroutine[Any, Any, Made]], ended: Callable[[Made], None] = lambda _: None
) -> list[Made]:
    """Await all works at once and return what they made, in their order; `ended` is told of each as it ends.

    An interrupt ends the wait at once, as ComfyUI's own exception; so does a work that raises. The rest is cancelled.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, timeout=TICK, return_when=asyncio.FIRST_COMPLETED)
            comfy.model_management.throw_exception_if_processing_interrupted()
            for task in done:
                ended(task.result())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [task.result() for task in tasks]

"""The program called within this process: what it says and does, without the half second in which a new one starts."""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING
from unittest.mock import patch

from batchflux.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def inside(folder: Path, environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    """Call batchflux in a folder and an environment, without a terminal; return exit code, stdout and stderr."""
    out, err = io.BytesIO(), io.BytesIO()
    before = os.getcwd()  # noqa: PTH109  as the system has it
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, environ, clear=True))
        stack.enter_context(patch.object(sys, "argv", ["batchflux", *arguments]))
        stack.enter_context(patch.object(sys, "stdin", stack.enter_context(open(os.devnull, encoding="utf-8"))))  # noqa: PTH123
        stack.enter_context(redirect_stdout(io.TextIOWrapper(out, "utf-8", write_through=True)))
        stack.enter_context(redirect_stderr(io.TextIOWrapper(err, "utf-8", write_through=True)))
        os.chdir(folder)
        stack.callback(os.chdir, before)
        try:
            main()
        except SystemExit as end:
            code = end.code
        said = out.getvalue().decode(), err.getvalue().decode()  # before the streams close them
    assert isinstance(code, int), code
    return code, *said

"""A mock of the APIs that others wrote, @copilotkit/aimock: what it makes of our requests owes nothing to our reading.

`.ci/run` installs it from npm, into BATCHFLUX_NODE (by default the user's cache).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["program"]

CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
COMMAND = Path(os.environ.get("BATCHFLUX_NODE") or f"{CACHE}/batchflux-node") / "node_modules/.bin/llmock"
ENDPOINTS = {
    "openai": "image",
    "standard": "image",
    "gemini": "chat",
    "openrouter": "chat",
    "chat": "chat",
    "fal": "fal",
}
LISTENS = re.compile(r"http://[\d.]+:\d+")


@dataclass(frozen=True, slots=True)
class Mock:
    """The running mock: its address, the picture that it gives, and its own record of what it was asked."""

    url: str
    picture: bytes

    def asked(self, words: str) -> list[tuple[str, int]]:
        """Return path and status of each request whose prompt has these words."""
        with urllib.request.urlopen(f"{self.url}/__aimock/journal") as answer:  # noqa: S310  loopback
            entries: list[dict[str, Any]] = json.load(answer)
        return [(entry["path"], entry["response"]["status"]) for entry in entries if words in json.dumps(entry["body"])]


def fixtures(data: str) -> list[dict[str, Any]]:
    """Return what the mock answers: by the last words of a prompt its fault, the first of them once, else a picture."""
    limited = {"error": {"message": "Slow down.", "type": "requests", "code": "rate_limit_exceeded"}, "status": 429}
    says = "Your request was rejected by the safety system."
    refused = {"error": {"message": says, "type": "image_generation_user_error", "code": "moderation_blocked"}}
    faults: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for way, endpoint in ENDPOINTS.items():
        match = {"endpoint": endpoint}
        faults += [
            ({**match, "userMessage": f"{way} mug limited", "sequenceIndex": 0}, {**limited, "retryAfter": 1}),
            ({**match, "userMessage": f"{way} mug refused"}, {**refused, "status": 400}),
        ]
    # Its Gemini gives inline data as sound only: what it calls audio of type image/png is a picture on the wire.
    pictures: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"endpoint": "image"}, {"image": {"b64Json": data}}),
        ({"model": "gemini-2.5-flash-image"}, {"audio": {"b64Json": data, "contentType": "image/png"}}),
        ({"endpoint": "fal"}, {"json": {"images": [{"url": f"data:image/png;base64,{data}"}]}, "billableUnits": 1}),
        ({"endpoint": "chat"}, {"content": f"![image](data:image/png;base64,{data})", "usage": {"cost": 0.04}}),
    ]
    return [{"match": match, "response": response} for match, response in (*faults, *pictures)]


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mock]:
    """Start the mock on a free port, until the tests are over."""
    if not COMMAND.exists() or shutil.which("node") is None:
        folder = COMMAND.parents[2]
        sentence = f"There is no aimock: npm install --prefix {folder} @copilotkit/aimock brings it."
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    out = BytesIO()
    Image.effect_mandelbrot((256, 256), (-2.0, -1.5, 1.0, 1.5), 20).convert("RGB").save(out, "PNG")
    file = tmp_path_factory.mktemp("aimock") / "fixtures.json"
    file.write_text(json.dumps({"fixtures": fixtures(base64.b64encode(out.getvalue()).decode())}), encoding="utf-8")
    options = ("--port", "0", "--fixtures", str(file), "--strict", "--validate-on-load", "--chunk-size", "1000")
    with subprocess.Popen([COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        found = next((said for line in lines if (said := LISTENS.search(line))), None)
        assert found is not None, "the mock did not say where it listens"
        yield Mock(found[0], out.getvalue())
        process.terminate()
        process.communicate(timeout=20)

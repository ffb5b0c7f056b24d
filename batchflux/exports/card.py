"""A dataset card: README.md, whose head tells `datasets` and the Hub which files to read, and whose text tells people.

One that is not as it was written here is somebody's, and stays.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from batchflux.output.folder import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_MARK = "<!-- Written by batchflux, anew after each run until it is edited: {} -->\n"
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}
_SHOWN, _LONGEST = 3, 200  # prompts in the card, and their characters


class Card:
    """Counts what a card says of its rows."""

    def __init__(self) -> None:
        self.rows = self.edits = 0
        self.made_by: Counter[str] = Counter()
        self.prompts: dict[str, None] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row."""
        self.rows += 1
        self.edits += bool(row["images"])
        self.made_by[f"{row['model']} ({row['provider']})"] += 1
        if len(self.prompts) < _SHOWN:
            self.prompts[" ".join(row["prompt"].split())[:_LONGEST]] = None

    def text(self, name: str, config: Sequence[str], use: str) -> str:
        """Return the card: `config` are lines of YAML on how it is read, none where it cannot be, `use` says it."""
        task = "image-to-image" if self.edits else "text-to-image"
        size = next((size for most, size in _SIZES.items() if self.rows < most), "10M<n<100M")
        head = [
            f"pretty_name: {json.dumps(name)}",
            "# license:  # yours to say: what the provider's terms allow, and the photos' owners",
            f"task_categories: [{task}]",
            f"size_categories: [{size}]",
            *(["configs:", "  - config_name: default"] if config else []),
            *config,
        ]
        body = [
            f"# {name}",
            f"{self.rows:,} pictures, {self.edits:,} of them made from references, by a model:",
            "\n".join(f"- {who}: {number:,}" for who, number in self.made_by.most_common()),
            "Prompts such as:",
            "\n".join(["```text", *(f"- {prompt}" for prompt in self.prompts), "```"]),
            use,
        ]
        return "\n".join(["---", *head, "---", ""]) + "\n" + "\n\n".join(body) + "\n\n"


def loading(split: str = "train") -> str:
    """Return Markdown on how `datasets` reads a folder by its card."""
    return code(f'load_dataset("PATH OF THIS FOLDER", split="{split}")')


def code(call: str) -> str:
    """Return Markdown with a call of `datasets`."""
    return f"```python\nfrom datasets import load_dataset\n\nrows = {call}\n```"


def marked(text: str, there: bytes | None) -> bytes | None:
    """Return what a card's file is to hold; None: it holds that already, or what is there is somebody's."""
    if there is not None and not _is_own(there):
        return None
    whole = (text + _MARK.format(_digest(text))).encode()
    return None if whole == there else whole


def write_card(path: Path, text: str) -> None:
    """Write a card, unless there is one that is somebody's, or the same; StorageError."""
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        there = None
    except OSError:
        return
    data = marked(text, there)
    if data is not None:
        write_whole(path, data.decode())


def _is_own(data: bytes) -> bool:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    before, mark, _ = text.rpartition(_MARK.partition("{")[0])
    return bool(mark) and text == before + _MARK.format(_digest(before))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

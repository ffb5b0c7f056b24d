"""The marks that an export puts into its pictures: which, what they say of each, and how many there were.

What is written of a picture that gets marks has another size and digest than what was received, and nothing tells them
but its bytes; so each is read before its turn. A format that draws pictures anew marks what it drew instead.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchflux.errors import UsageError, quoted
from batchflux.exports.base import Noted
from batchflux.provenance import C2PA, MARKS, About, carries, kept, marked
from batchflux.redaction import without_signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchflux.exports.base import Sample
    from batchflux.ledger.tables import Known

NONE = "none"
_RULES = "marks 1"  # changes when the same picture is to come to other bytes
_STEPS = ("steps", "num_inference_steps")  # options of APIs that say how many
_SHIFTS = 1000  # milliseconds


def marks_of(text: str | None) -> tuple[str, ...] | None:
    """Read `iptc,parameters`, or `none`; None where nothing is said; UsageError."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if names == [NONE]:
        return ()
    strange = next((name for name in names if name not in MARKS), None)
    if strange is not None:
        raise UsageError(f"--mark: there is no mark {quoted(strange)}; there are {', '.join(MARKS)}, and {NONE}.")
    return tuple(name for name in MARKS if name in names)


def about_of(known: Known, producer: str | None = None) -> About:
    """Return what marks say of a job's picture; `producer` is the provider's name where it is not given."""
    spec = json.loads(known.spec)
    options = spec.get("options") or {}
    steps = next((options[name] for name in _STEPS if isinstance(options.get(name), int)), None)
    return About(
        prompt=without_signatures(spec["prompt"]),
        negative_prompt=without_signatures(spec.get("negative_prompt") or ""),
        model=spec["model"] or "",
        producer=producer or spec["provider"],
        number=known.key.hex(),
        edit=bool(spec["images"]),
        seed=spec.get("seed") if known.seed_used is None else known.seed_used,
        steps=steps,
        width=known.width,
        height=known.height,
    )


class Marking:
    """The marks of one export. `draws`: its format draws pictures anew, and marks them itself by `Sample.mark`.

    `remarks` counts the pictures that have them, and those that lack some or all, by why.
    """

    def __init__(self, marks: Sequence[str], producer: str | None = None, *, draws: bool = False) -> None:
        if producer is not None and "tc260" not in marks:
            raise UsageError("--producer is what the mark tc260 says: give --mark tc260 too.")
        self._marks, self._producer, self._draws = tuple(marks), producer, draws
        self._digest = hashlib.sha256(json.dumps([_RULES, self._marks, producer]).encode()).hexdigest()
        self.remarks: Counter[str] = Counter()

    def of(self, known: Known, sample: Sample, image: Callable[[], bytes]) -> tuple[Sample, Callable[[], bytes]]:
        """Return a picture's sample as it is written, and what reads its bytes as they are; StorageError.

        The time of a file stands for its bytes beside its size, so it is moved by less than a second, by its marks.
        """
        if not self._marks and not self._draws:
            return sample, image
        about = about_of(known, self._producer)
        moved = sample.made_at + (1 + int(self._digest[:8], 16) % (_SHIFTS - 1)) / 1000
        if self._draws:
            marks = f"{self._digest} {about}"
            return replace(sample, made_at=moved, mark=partial(self._drawn, about), marks=marks), image
        data, remark = self._mark(about, image())
        self.remarks[remark] += 1
        digest = hashlib.sha256(data).hexdigest()
        own = {"bytes": len(data), "sha256": digest}
        columns = {name: own.get(name, value) for name, value in sample.columns.items()}
        sample = replace(sample, made_at=moved, size=len(data), sha256=digest, columns=columns)
        return sample, lambda: self._mark(about, image()).data

    def _drawn(self, about: About, drawn: bytes, received: bytes) -> Noted:
        """Return what was drawn of a picture with the marks that this had, and with those that are wanted."""
        if drawn == received:
            return self._mark(about, drawn) if self._marks else Noted(drawn)
        data = kept(drawn, received)
        noted = self._mark(about, data) if self._marks else Noted(data)
        lost = ["drawn anew, without the signature (C2PA) that they had"] if C2PA in carries(received) else []
        return noted._replace(remark="; ".join(filter(None, [noted.remark, *lost])))

    def _mark(self, about: About, received: bytes) -> Noted:
        data, why = marked(received, self._marks, about)
        if why is None:
            return Noted(data, f"marked: {', '.join(self._marks)}")
        return Noted(data, f"{'left as they are' if data == received else 'marked in part'}: {why}")

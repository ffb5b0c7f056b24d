"""The program finds requests at the simulator that were accepted, and whose answer was lost."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.failpoints import VARIABLE
from batchflux.simulator import EmbeddedSimulator, parse_options
from batchflux.testing.bank import KEY, picture_of
from tests.program import program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchflux.simulator.journal import Journal
    from batchflux.testing.program import Program

__all__ = ["program"]

pytestmark = pytest.mark.slow

GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "cup"}},
    "10": {"class_type": "LoadImage", "inputs": {"image": ""}},
}
OPTIONS = {"workflow": GRAPH, "inputs": {"prompt": "6.text", "seed": "3.seed", "image": "10.image"}}
WAYS = {
    "fal": "model: fal-ai/flux-pro/kontext, keys: [TEST_KEY]",
    "replicate": "model: black-forest-labs/flux-kontext-pro, keys: [TEST_KEY]",
    "comfyui": f"options: {json.dumps(OPTIONS)}",
}
EDITS = "  - {id: small, prompt: Red, image: small.png}\n  - {id: large, prompt: Red, image: large.png}\n"


@contextmanager
def serving(program: Program, api: str, jobs: str, **told: Any) -> Iterator[Journal]:
    """Serve a simulator of one API, and write a manifest of jobs for it."""
    options = {"latency": 0.2, "size": 96, "keys": [KEY], "cache_dir": f"{program.folder}/c", **told}
    made = EmbeddedSimulator(parse_options(options))
    host, port = made.start()
    (program.folder / "small.png").write_bytes(picture_of("reference"))
    noise = random.Random(1).randbytes(400 * 400 * 3)
    Image.frombytes("RGB", (400, 400), noise).save(program.folder / "large.png")
    program.write(
        "m.yaml",
        f"version: 1\nname: m\nprovider: {{name: {api}, base_url: 'http://{host}:{port}', price: 0.04, {WAYS[api]}}}\n"
        f"limits: {{timeout: 20s, budget: 0.08}}\noutput: {{dir: {program.out}}}\njobs:\n{jobs}",
    )
    try:
        yield made.simulator.requests
    finally:
        made.stop()


@pytest.mark.parametrize("fault", ["reset", "cut"])
@pytest.mark.parametrize("api", WAYS)
def test_photos_that_travel_inside_and_those_that_are_uploaded(program: Program, api: str, fault: str) -> None:
    with serving(program, api, EDITS, faults={fault: {"rate": 1, "times": 1}}) as journal:
        ended = program.run()
    assert ended.code == 0, ended.said
    assert (journal.received, journal.billed, journal.faults) == (2, 2, {fault: 2})
    assert [(row["status"], row["possibly_billed"], row["cost"]) for row in program.rows()] == [
        ("done", "0", "0.04")
    ] * 2


@pytest.mark.parametrize("point", ["lost.found", "lost.found:2", "lost.asking:2"])
@pytest.mark.parametrize("api", WAYS)
def test_a_kill_while_both_are_out(program: Program, api: str, point: str) -> None:
    """The next run finds them, also with the address that an upload had then.

    One that is killed between its record and its request is known to nobody, and sent again by who may do so.
    """
    with serving(program, api, EDITS, faults={"reset": {"rate": 1, "times": 1}}) as journal:
        assert program.run(**{VARIABLE: point}).code == -9
        ended = program.run("--on-unknown", "hold")
        again = ended.code == 1
        if again:
            assert journal.received == 1, ended.said
            ended = program.run("--set", "limits.budget=0.12")
    assert ended.code == 0, ended.said
    assert (journal.received, journal.billed) == (2, 2)
    assert [row["status"] for row in program.rows()] == ["done"] * 2
    assert sum(int(row["possibly_billed"]) for row in program.rows()) == again


@pytest.mark.parametrize("latency", [0.2, 3])
@pytest.mark.parametrize("api", ["fal", "replicate"])
def test_a_second_copy_is_not_taken_for_the_one_that_was_lost(program: Program, api: str, latency: float) -> None:
    """Replicate's is finished when it is answered, and is told by its id all the same."""
    jobs = "  - {id: one, prompt: A mug}\n  - {id: two, prompt: A mug, variant: 2}\n"
    with serving(program, api, jobs, faults={"reset": {"rate": 1, "times": 1}}, latency=latency) as journal:
        ended = program.run()
    assert ended.code == 0, ended.said
    assert (journal.received, journal.billed, journal.answered) == (2, 2, 2)
    assert [(row["status"], row["possibly_billed"]) for row in program.rows()] == [("done", "0")] * 2

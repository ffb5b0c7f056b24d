"""The program runs against the simulator by each API that makes tasks: pictures, references, faults, money."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from batchflux.simulator import EmbeddedSimulator, parse_options
from batchflux.testing.bank import KEY, picture_of
from tests.program import program

if TYPE_CHECKING:
    from batchflux.testing.program import Program

__all__ = ["program"]

pytestmark = pytest.mark.slow

WAYS = {
    "fal": ("fal-ai/flux-pro/kontext", 0.04),
    "replicate": ("black-forest-labs/flux-kontext-pro", 0.04),
}


@pytest.mark.parametrize("api", WAYS)
def test_a_night_is_paid_once_a_picture(program: Program, api: str) -> None:
    model, price = WAYS[api]
    faults = {"late": "rate_limited", "down": "task_error", "polled": "poll_502_html", "refused": "content_moderated"}
    script = [{"match": f"[{name}]", "fault": fault, "times": 1} for name, fault in faults.items()]
    told = {"latency": 0, "size": 96, "keys": [KEY], "cache_dir": f"{program.folder}/c", "script": script}
    made = EmbeddedSimulator(parse_options(told))
    host, port = made.start()
    try:
        (program.folder / "p.png").write_bytes(picture_of("reference"))
        jobs = "".join(f"  - {{id: {name}, prompt: 'A mug [{name}]'}}\n" for name in ("plain", *faults))
        program.write(
            "m.yaml",
            f"version: 1\nname: m\nprovider: {{name: {api}, base_url: 'http://{host}:{port}', model: {model}, "
            f"price: {price}, keys: [TEST_KEY]}}\nlimits: {{timeout: 20s}}\noutput: {{dir: {program.out}}}\n"
            f"jobs:\n{jobs}  - {{id: edit, prompt: 'Red', image: p.png}}\n",
        )
        ended = program.run()
    finally:
        made.stop()
    rows = {row["id"]: row for row in program.rows()}
    assert ended.code == 1, ended.said
    assert (rows["refused"]["status"], rows["refused"]["error_code"]) == ("failed", "moderated")
    done = {name for name, row in rows.items() if row["status"] == "done"}
    assert done == {"plain", "late", "down", "polled", "edit"}, {name: row["error"] for name, row in rows.items()}
    journal = made.simulator.requests
    assert (journal.billed, journal.repeated) == (5, 0)


@pytest.mark.parametrize("below", ["", "/fal"])
def test_a_photo_too_large_for_the_request_is_uploaded_below_the_users_address(program: Program, below: str) -> None:
    """The key goes to no host but that one, whatever hosts the API has for its files."""
    made = EmbeddedSimulator(parse_options({"latency": 0, "size": 96, "keys": [KEY]}))
    host, port = made.start()
    try:
        Image.frombytes("RGB", (1300, 1300), random.Random(1).randbytes(1300 * 1300 * 3)).save(program.folder / "p.png")
        program.write(
            "m.yaml",
            f"version: 1\nname: m\nprovider: {{name: fal, base_url: 'http://{host}:{port}{below}', price: 1, "
            f"keys: [TEST_KEY]}}\nlimits: {{timeout: 20s}}\noutput: {{dir: {program.out}}}\n"
            f"jobs: [{{id: edit, prompt: Red, image: p.png}}]\n",
        )
        ended = program.run()
    finally:
        made.stop()
    assert (ended.code, [row["status"] for row in program.rows()]) == (0, ["done"]), ended.said
    assert made.simulator.requests.billed == 1


def test_a_workflow_runs_again_where_the_server_was_started_anew(program: Program) -> None:
    graph: dict[str, Any] = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "cup"}},
        "10": {"class_type": "LoadImage", "inputs": {"image": ""}},
    }
    script = [{"match": "anew", "fault": "restart", "times": 1}, {"match": "old", "fault": "no_jobs_api"}]
    told = {"latency": 0, "size": 96, "cache_dir": f"{program.folder}/c", "script": script}
    made = EmbeddedSimulator(parse_options(told))
    host, port = made.start()
    try:
        (program.folder / "p.png").write_bytes(picture_of("reference"))
        jobs = "".join(
            f"  - {{id: {name}, prompt: 'A mug {name}', seed: 7, image: p.png}}\n" for name in ("anew", "old")
        )
        inputs = "{prompt: 6.text, seed: 3.seed, image: 10.image}"
        program.write(
            "m.yaml",
            f"version: 1\nname: m\nprovider: {{name: comfyui, base_url: 'http://{host}:{port}', price: 0, "
            f"options: {{workflow: {json.dumps(graph)}, inputs: {inputs}}}}}\nlimits: {{timeout: 20s}}\n"
            f"output: {{dir: {program.out}}}\njobs:\n{jobs}",
        )
        ended = program.run()
    finally:
        made.stop()
    assert ended.code == 0, ended.said
    faults = made.simulator.requests.faults
    assert (faults["restart"], faults["no_jobs_api"] >= 1) == (1, True)  # the restart may forget both jobs

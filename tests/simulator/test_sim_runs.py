"""The program runs against the simulator by each API that answers in a call: pictures, references, faults, money."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchflux.simulator import EmbeddedSimulator, parse_options
from batchflux.testing.bank import KEY, picture_of
from tests.program import program

if TYPE_CHECKING:
    from batchflux.testing.program import Program

__all__ = ["program"]

pytestmark = pytest.mark.slow

# API: what stands in `provider`, behind the simulator's address; US dollars a million tokens are its own.
WAYS = {
    "openai": "base_url: '{}', model: gpt-image-1.5, price: {{gpt-image-1.5: {{most: 0.2, text_in: 5, image_in: 8, "
    "image_out: 32}}}}",
    "gemini": "base_url: '{}', model: gemini-3-pro-image, price: {{gemini-3-pro-image: {{most: 0.2, text_in: 2, "
    "image_in: 2, image_out: 120}}}}",
    "openrouter": "base_url: '{}/api', model: google/gemini-3-pro-image, price: 0.2",
    "openrouter-chat": "base_url: '{}/api', model: google/gemini-3-pro-image, price: 0.2, options: {{endpoint: chat}}",
    "together": "base_url: '{}/together', model: black-forest-labs/FLUX.2-dev, price: 0.04",
    "siliconflow": "base_url: '{}/siliconflow', model: Qwen/Qwen-Image-Edit, price: 0.04",
}


@pytest.mark.parametrize("way", WAYS)
def test_pictures_come_and_what_is_spent_is_what_the_simulator_charged(program: Program, way: str) -> None:
    faults = {"late": "rate_limited", "down": "server_503", "refused": "moderated"}
    script = [{"match": f"[{name}]", "fault": fault, "times": 1} for name, fault in faults.items()]
    made = EmbeddedSimulator(
        parse_options(
            {
                "latency": 0,
                "size": 96,
                "keys": [KEY],
                "cache_dir": f"{program.folder}/c",
                "script": script,
            }
        )
    )
    host, port = made.start()
    try:
        (program.folder / "p.png").write_bytes(picture_of("reference"))
        jobs = "".join(f"  - {{id: {name}, prompt: 'A mug [{name}]'}}\n" for name in ("plain", *faults))
        provider = WAYS[way].format(f"http://{host}:{port}")
        program.write(
            "m.yaml",
            f"version: 1\nname: m\nprovider: {{name: {way.partition('-')[0]}, {provider}, keys: [TEST_KEY]}}\n"
            f"limits: {{timeout: 20s}}\noutput: {{dir: {program.out}}}\njobs:\n{jobs}"
            "  - {id: edit, prompt: 'Red', image: p.png}\n",
        )
        ended = program.run()
    finally:
        made.stop()
    rows = {row["id"]: row for row in program.rows()}
    assert ended.code == 1, ended.said
    assert (rows["refused"]["status"], rows["refused"]["error_code"]) == ("failed", "moderated")
    done = {name for name, row in rows.items() if row["status"] == "done"}
    assert done >= {"plain", "late", "down", "edit"}, {name: row["error"] for name, row in rows.items()}
    journal = made.simulator.requests
    assert journal.repeated == 0
    told = sum(charge["credits"] for charge in journal.charges) / 100
    assert float(program.summary()["spent"]) == pytest.approx(told, abs=1e-6)


def test_several_apis_are_simulated_side_by_side(program: Program) -> None:
    models = {
        "openai": "gpt-image-1.5",
        "gemini": "gemini-3-pro-image",
        "openrouter": "google/gemini-3-pro-image",
        "together": "black-forest-labs/FLUX.2-dev",
        "siliconflow": "Qwen/Qwen-Image",
        "bfl": "flux-kontext-pro",
    }
    several = "".join(
        f"  {api}: {{api: {api}, base_url: simulator, model: {model}, options: {{latency: 0, size: 96}}}}\n"
        for api, model in models.items()
    )
    jobs = "".join(f"  - {{id: {api}, prompt: A mug, provider: {api}}}\n" for api in models)
    program.write("m.yaml", f"version: 1\nname: m\nproviders:\n{several}output: {{dir: {program.out}}}\njobs:\n{jobs}")
    ended = program.run()
    assert ended.code == 0, ended.said
    assert {row["id"]: row["status"] for row in program.rows()} == dict.fromkeys(models, "done")

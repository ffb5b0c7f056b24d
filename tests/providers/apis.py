"""Example answers of each API that works with tasks or steps: what a fault is put into, a row an API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

OUT = "https://cdn.example/out/mug.png"
B64 = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What an API answers: to the paid request, and to each free step after it, in their order."""

    api: str
    model: str
    submitted: Any
    polled: tuple[Any, ...] = ()
    style: str = ""
    handle: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


WORKFLOW = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "flux", "images": ["3", 0]}},
    "10": {"class_type": "LoadImage", "inputs": {"image": "sample.png"}},
}
TASK = "11111111-1111-4111-8111-111111111111"
FAL = "https://queue.fal.run/fal-ai/flux-pro/requests/r1"
EXAMPLES = (
    Example(
        api="fal",
        model="fal-ai/flux-pro/kontext",
        submitted={"request_id": "r1", "response_url": FAL, "status_url": f"{FAL}/status", "queue_position": 0},
        handle=f'{{"status": "{FAL}/status", "response": "{FAL}"}}',
        polled=(
            {"status": "COMPLETED", "logs": None, "metrics": {"inference_time": 4.2}},
            {
                "images": [{"url": OUT, "width": 48, "content_type": "image/png"}],
                "seed": 7,
                "has_nsfw_concepts": [False],
            },
        ),
        headers={"x-fal-billable-units": "1"},
    ),
    Example(
        api="replicate",
        model="black-forest-labs/flux-kontext-pro",
        submitted={"id": "p1", "status": "starting", "output": None, "error": None, "urls": {"get": f"{OUT}/p1"}},
        handle='{"id": "p1"}',
        polled=(
            {
                "id": "p1",
                "status": "succeeded",
                "input": {"prompt": "?"},
                "output": [OUT],
                "error": None,
                "metrics": {},
            },
        ),
    ),
    Example(
        api="comfyui",
        model="any",
        options={"workflow": WORKFLOW, "inputs": {"prompt": "6.text", "seed": "3.seed"}},
        submitted={"prompt_id": TASK, "number": 1, "node_errors": {}},
        handle=f'{{"id": "{TASK}", "faults": ""}}',
        polled=(
            {
                TASK: {
                    "prompt": [1, TASK, {}, {}, ["9"]],
                    "outputs": {"9": {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}},
                    "status": {"status_str": "success", "completed": True, "messages": [["execution_success", {}]]},
                }
            },
            {"queue_running": [[1, TASK]], "queue_pending": []},
            {},
        ),
    ),
    Example(
        api="bfl",
        model="flux-kontext-pro",
        submitted={"id": "t1", "polling_url": "https://api.eu2.bfl.ai/v1/get_result?id=t1", "cost": 4.0},
        handle='{"id": "t1"}',
        polled=({"id": "t1", "status": "Ready", "result": {"sample": OUT, "seed": 42}, "cost": 4.0},),
    ),
    Example(api="openai", model="gpt-image-1.5", submitted={"created": 1, "data": [{"b64_json": B64}], "usage": {}}),
    Example(
        api="gemini",
        model="gemini-3-pro-image",
        submitted={
            "candidates": [
                {"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": B64}}]}, "finishReason": "STOP"}
            ],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1290},
        },
    ),
    Example(
        api="openrouter",
        model="google/gemini-3-pro-image",
        submitted={"created": 1, "data": [{"b64_json": B64, "media_type": "image/png"}], "usage": {"cost": 0.04}},
    ),
    Example(
        api="together",
        model="black-forest-labs/FLUX.2-dev",
        submitted={"id": "o1", "object": "list", "data": [{"index": 0, "url": OUT}]},
    ),
    Example(
        api="siliconflow",
        model="Kwai/Kolors",
        submitted={"images": [{"url": OUT}], "timings": {"inference": 1.2}, "seed": 7},
    ),
)

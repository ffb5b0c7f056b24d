"""A ComfyUI server: how a job gets into the user's workflow, and what each answer means."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from batchflux.errors import Code, Fault, JobError, ManifestError
from batchflux.manifest import expand, load_manifest
from batchflux.models import Ended, Finished, Job, Link, LocalImage, Multipart, Pending, Reference, Submitted, Uploaded
from batchflux.providers import capabilities, providers
from tests.providers.apis import WORKFLOW
from tests.providers.driving import HOME, body_of, read, then

COMFY = providers()["comfyui", "comfyui"]
OFFER = COMFY.capabilities("any")
INPUTS = {"prompt": "6.text", "seed": "3.seed", "width": "5.width", "height": "5.height", "image": "10.image"}
TASK = "0c2ee2d8-6ba1-5c0c-8b32-0d3fbb2ea0aa"
HANDLE = json.dumps({"id": TASK, "faults": ""})


if TYPE_CHECKING:
    from pathlib import Path

Plan = Callable[[dict[str, Any]], list[Job]]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Return the jobs of a manifest with these options."""

    def made(options: dict[str, Any]) -> list[Job]:
        text = (
            f"version: 1\nname: m\nprovider: {{name: comfyui, options: {json.dumps(options)}}}\njobs: [{{prompt: p}}]\n"
        )
        (tmp_path / "m.yaml").write_text(text, encoding="utf-8")
        faults: list[Fault] = []
        manifest = load_manifest(tmp_path / "m.yaml", environ={}, offers=capabilities())
        jobs = list(expand(manifest, capabilities(), faults.append))
        if faults:
            raise ManifestError(faults)
        return jobs

    return made


@pytest.fixture
def job(make_job: Callable[..., Job]) -> Job:
    options = (("workflow", WORKFLOW), ("inputs", {"prompt": "6.text", "seed": "3.seed"}))
    return make_job(style="comfyui", options=options, images=(), output_format="png", seed=5)


def history(**entry: Any) -> dict[str, Any]:
    return {TASK: {"outputs": {}, "status": {"status_str": "success", "completed": True, "messages": []}} | entry}


def saved(*images: tuple[str, str, str]) -> dict[str, Any]:
    return {"9": {"images": [{"filename": name, "subfolder": folder, "type": kind} for name, folder, kind in images]}}


def test_a_jobs_fields_go_where_the_mapping_says(make_job: Callable[..., Job]) -> None:
    options = (("workflow", WORKFLOW), ("inputs", INPUTS))
    photo = Reference(source="a.png", path="/a.png", sha256="ab" * 32, media_type="image/png")
    job = make_job(style="comfyui", options=options, images=(photo,), seed=5, aspect_ratio="16:9", key="ab" * 32)
    before = json.dumps(WORKFLOW)
    with pytest.raises(JobError, match="not uploaded"):
        COMFY.submit(job, 1)
    step = COMFY.upload(photo)
    assert step is not None
    assert isinstance(step.content, Multipart)
    assert isinstance(step.content.parts[0][1], LocalImage)
    told = read(step, {"name": "a (1).png", "subfolder": "batchflux/abab", "type": "input"})
    assert told == Uploaded(url="batchflux/abab/a (1).png", expires=0.0)
    body = body_of(COMFY.submit(replace(job, images=(replace(photo, url=told.url),)), 2))
    graph = body["prompt"]
    assert graph["6"]["inputs"]["text"] == job.prompt
    assert graph["3"]["inputs"]["seed"] == 5
    assert graph["5"]["inputs"] == {"width": 1360, "height": 768}
    assert graph["10"]["inputs"]["image"] == "batchflux/abab/a (1).png"
    assert graph["9"]["inputs"]["filename_prefix"] == "flux_abababababab_2"
    assert body["client_id"]
    assert json.dumps(WORKFLOW) == before


def test_an_id_of_its_own_for_each_job_and_attempt(job: Job) -> None:
    ids = [
        body_of(COMFY.submit(one, number))["prompt_id"]
        for one in (job, replace(job, key="1" * 64))
        for number in (1, 2)
    ]
    assert len(set(ids)) == 4
    assert all(str(uuid.UUID(name)) == name for name in ids)
    assert body_of(COMFY.submit(job, 1))["prompt_id"] == ids[0]
    unseeded = replace(job, seed=None), replace(job, seed=None, key="1" * 64)
    assert len({body_of(COMFY.submit(one, 1))["prompt"]["3"]["inputs"]["seed"] for one in unseeded}) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workflow": WORKFLOW, "inputs": {"prompt": "7.text"}}, "prompt names 7.text"),
        ({"workflow": WORKFLOW, "inputs": {"prompt": "6.words"}}, "no input of the workflow"),
        ({"workflow": WORKFLOW, "inputs": {"image": ["10.image", "6"]}}, "image names 6"),
        ({"workflow": WORKFLOW, "inputs": {"words": "6.text"}}, "prompt"),
        ({"workflow": {"nodes": [], "links": []}, "inputs": {"prompt": "6.text"}}, "not in API format"),
        ({"workflow": {"6": None}, "inputs": {"prompt": "6.text"}}, "no input of the workflow"),
        ({"workflow": {}, "inputs": {"prompt": "6.text"}}, "at least 1"),
        ({"inputs": {"prompt": "6.text"}}, "required"),
    ],
)
def test_a_mapping_that_points_nowhere_is_told_at_once(options: dict[str, Any], said: str) -> None:
    assert OFFER.options is not None
    with pytest.raises(ValidationError, match=said):
        OFFER.options.model_validate(options)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({}, []),
        ({"seed": 3}, ["seed"]),
        ({"aspect_ratio": "1:1", "negative_prompt": "no"}, ["negative_prompt", "aspect_ratio"]),
        ({"aspect_ratio": "1:1", "dropped": ("aspect_ratio",)}, []),
        ({"images": ("a", "b")}, ["images"]),
        ({"options": ()}, ["options"]),
    ],
)
def test_a_field_that_the_workflow_has_no_place_for_is_told_at_once(values: dict[str, Any], fields: list[str]) -> None:
    options = (("workflow", WORKFLOW), ("inputs", {"prompt": "6.text"}))
    assert [name for name, _ in OFFER.conflicts({"prompt": "p", "images": (), "options": options} | values)] == fields


def test_the_id_that_the_server_gave_counts(job: Job) -> None:
    submit = COMFY.submit(job, 1)
    own = body_of(submit)["prompt_id"]
    for answer, name in (({"prompt_id": TASK, "number": 1, "node_errors": {}}, TASK), ({"number": 1}, own)):
        assert read(submit, answer) == Submitted(handle=json.dumps({"id": name, "faults": ""}))
    assert read(submit, {"prompt_id": own, "number": 1}, cut=20) == Submitted(
        handle=json.dumps({"id": own, "faults": ""})
    )
    assert read(submit, "<html>Sign in</html>").final


def test_a_refused_workflow_says_which_node(job: Job) -> None:
    faults = {"4": {"errors": [{"type": "value_not_in_list", "message": "Value not in list", "details": "ckpt: 'x'"}]}}
    error = {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation", "details": ""}
    refused = read(COMFY.submit(job, 1), {"error": error, "node_errors": faults}, status=400)
    assert refused.code is Code.INVALID_REQUEST
    assert "node 4: Value not in list ckpt: 'x'" in refused.message
    accepted = read(COMFY.submit(job, 1), {"prompt_id": TASK, "number": 1, "node_errors": faults})
    ended = read(COMFY.poll(job, accepted.handle), history())
    assert (ended.error.code, "node 4" in ended.error.message) == (Code.INVALID_REQUEST, True)


def test_what_is_not_in_the_history_is_in_the_queue_or_forgotten(job: Job) -> None:
    poll = COMFY.poll(job, HANDLE)
    assert poll.url == f"/history/{TASK}"
    queue = then(read(poll, {}))
    assert queue.url == "/queue"
    for running, pending in ([[[1, TASK, {}]], []], [[], [[2, "x"], [3, TASK]]]):
        assert read(queue, {"queue_running": running, "queue_pending": pending}) == Pending()
    again = then(read(queue, {"queue_running": [[1, "x"]], "queue_pending": []}))
    ended = read(again, {})
    assert (ended.error.code, ended.error.billed) == (Code.SERVER, False)
    assert isinstance(read(again, history(outputs=saved(("a.png", "", "output")))), Finished)
    for odd in ("", "[]", "{oops", {TASK: 3}, {TASK: None, "x": 1}):
        reply = read(poll, odd)
        assert not isinstance(reply, Ended)
    unclear: tuple[object, ...] = ({}, {"queue_running": []}, "oops")
    for answer in unclear:
        assert read(queue, answer).code is Code.BAD_ANSWER


def test_a_picture_that_was_saved_comes_before_previews(job: Job) -> None:
    poll = COMFY.poll(job, HANDLE)
    images = saved(("t.png", "", "temp"), ("i.png", "", "input"), ("a b.png", "x/y", "output"), ("2.png", "", "output"))
    reply = read(poll, history(outputs=images, status=None))
    view = f"{HOME}/view?filename=a+b.png&subfolder=x%2Fy&type=output"
    assert reply == Finished(
        asset=Link(url=view), seed=5, more=(Link(url=f"{HOME}/view?filename=2.png&subfolder=&type=output"),)
    )
    jpeg = read(COMFY.poll(replace(job, output_format=None), HANDLE), history(outputs=images))
    assert jpeg.asset == Link(url=f"{view}&preview=jpeg%3B95")
    only = read(poll, history(outputs=saved(("t.png", "", "temp"), ("i.png", "", "input"))))
    assert only.asset == Link(url=f"{HOME}/view?filename=t.png&subfolder=&type=temp")
    none = read(poll, history(outputs=saved(("i.png", "", "input"))))
    assert (none.error.code, none.error.final) == (Code.NO_IMAGE, True)


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([["execution_error", {"exception_type": "torch.OutOfMemoryError", "exception_message": "x"}]], Code.SERVER),
        ([["execution_error", {"exception_type": "ValueError", "exception_message": "x"}]], Code.INVALID_REQUEST),
        ([["execution_error", {"exception_type": "RuntimeError"}]], Code.SERVER),
        ([["execution_interrupted", {"node_id": "3"}]], Code.SERVER),
        ([], Code.SERVER),
        (None, Code.SERVER),
    ],
)
def test_how_a_prompt_fails(job: Job, messages: Any, code: Code) -> None:
    status = {"status_str": "error", "completed": False, "messages": messages}
    reply = read(COMFY.poll(job, HANDLE), history(status=status))
    assert isinstance(reply, Ended)
    assert (reply.error.code, reply.error.billed) == (code, False)


def test_the_workflow_may_lie_in_a_file_and_what_it_holds_counts(tmp_path: Path, plan: Plan) -> None:
    def key() -> str:
        return plan({"workflow": "w.json", "inputs": {"prompt": "6.text"}})[0].key

    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW), encoding="utf-8")
    before = key()
    assert plan({"workflow": WORKFLOW, "inputs": {"prompt": "6.text"}})[0].key == before
    (tmp_path / "w.json").write_text(json.dumps({**WORKFLOW, "11": {"inputs": {}}}), encoding="utf-8")
    assert key() != before
    for text, said in (
        ("{", "no JSON"),
        (None, "cannot be read"),
        ('{"nodes": []}', "API format"),
        ("{}", "at least 1"),
    ):
        (tmp_path / "w.json").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "w.json").write_text(text, encoding="utf-8")
        with pytest.raises(ManifestError, match=said):
            key()

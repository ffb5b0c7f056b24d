"""What recipes say: whole paths, names of keys, a stop that calls survive, when a night is over."""

from __future__ import annotations

import ast
import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import jsonschema
import pytest
import yaml

from batchflux.cli.recipe import _words
from batchflux.errors import UsageError
from batchflux.manifest.reading.values import deadline
from batchflux.night.recipes import RECIPES
from batchflux.night.recipes.night import until_of, zone_of
from tests.night.recipes.conftest import MANIFEST

if TYPE_CHECKING:
    from tests.night.recipes.conftest import Recipes


def words_of_unit(text: str, key: str) -> list[str]:
    """Return the words of a line of a systemd unit as systemd reads them (systemd.service(5), command lines)."""
    line = next(line for line in text.splitlines() if line.startswith(f"{key}="))
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.partition("=")[2])]


def schema_of(name: str) -> dict[str, Any]:
    """Return a schema that check-jsonschema brings along."""
    place = files("check_jsonschema.builtin_schemas") / "vendor" / f"{name}.json"
    made: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    return made


def whole_night(recipes: Recipes, *options: str) -> list[str]:
    """Return the words behind `batchflux` that all recipes for one machine run."""
    return ["run", str(recipes.folder / "night.yaml"), "--out", str(recipes.folder / "out" / "shop"), *options]


def test_systemd_runs_the_same_words_and_stops_later_than_a_call_can_take(recipes: Recipes) -> None:
    made = recipes.files("systemd", "--budget", "5", "--only", "m*", "--at", "22:30")
    service, timer = made["batchflux-shop.service"], made["batchflux-shop.timer"]
    assert words_of_unit(service, "ExecStart")[1:] == whole_night(recipes, "--budget", "5", "--only", "m*")
    settings = dict(line.split("=", 1) for line in service.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["TimeoutStopSec"] == "420s"
    assert settings["WorkingDirectory"].replace("%%", "%") == str(recipes.folder)
    assert settings["SuccessExitStatus"].split() == ["1", "4", "130", "143"]
    assert (settings["Type"], settings["RestartForceExitStatus"], settings["RestartSec"]) == ("exec", "3", "15min")
    assert settings["LoadCredential"] == "TUZI_KEY:/etc/batchflux/TUZI_KEY"
    assert "\nOnCalendar=*-*-* 22:30:00 Asia/Shanghai\n" in timer


@pytest.mark.parametrize(("timeout", "seconds"), [("600s", 660), ("auto", 420)])
def test_every_recipe_stops_later_than_a_call_can_take(recipes: Recipes, timeout: str, seconds: int) -> None:
    text = MANIFEST.replace("timeout: auto", f"timeout: {timeout}")
    (recipes.folder / "night.yaml").write_text(text, encoding="utf-8")
    assert f"TimeoutStopSec={seconds}s" in recipes.files("systemd")["batchflux-shop.service"]
    assert f"--stop-timeout {seconds} " in recipes.files("docker")["batchflux-shop.sh"]
    assert f"stop_grace_period: {seconds}s" in recipes.files("compose")["compose.yaml"]
    assert f"terminationGracePeriodSeconds: {seconds} " in recipes.files("kubernetes")["batchflux-shop.yaml"]
    assert f"{seconds} seconds" in recipes.files("airflow")["batchflux-shop.py"]
    job = yaml.safe_load(recipes.files("actions")[".github/workflows/batchflux-shop.yml"])["jobs"]["night"]
    run = next(step["run"] for step in job["steps"] if step.get("id") == "run")
    minutes = int(run.partition("limits.deadline=")[2].partition("m ")[0])
    assert minutes + seconds / 60 < job["timeout-minutes"] <= 360


def test_compose_holds_to_its_schema_and_reads_the_same_words(recipes: Recipes) -> None:
    made = yaml.safe_load(recipes.files("compose", "--budget", "5")["compose.yaml"])
    jsonschema.validate(made, schema_of("compose-spec"))
    night = made["services"]["night"]
    assert [word.replace("$$", "$") for word in night["command"]] == whole_night(recipes, "--budget", "5")
    assert [one["source"].replace("$$", "$") for one in night["volumes"]] == [str(recipes.folder)]
    assert night["environment"] == {"TZ": "Asia/Shanghai", "TUZI_KEY_FILE": "/run/secrets/TUZI_KEY"}
    assert made["secrets"] == {"TUZI_KEY": {"file": "/etc/batchflux/TUZI_KEY"}}
    assert (night["restart"], night["init"]) == ("no", True)


def test_kubernetes_maps_exit_codes_and_ends_with_the_deadline(recipes: Recipes) -> None:
    text = recipes.files("kubernetes", "--at", "22:30", "--image", "r.example/b:1")["batchflux-shop.yaml"]
    claim, cron = yaml.safe_load_all(text)
    assert claim["kind"] == "PersistentVolumeClaim"
    spec = cron["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("30 22 * * *", "Asia/Shanghai", "Forbid")
    job = spec["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] == 7.5 * 3600
    rules = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    assert rules["FailJob"]["onExitCodes"]["values"] == [1, 2, 4]
    assert rules["Count"]["onExitCodes"]["values"] == [3]
    assert rules["Ignore"]["onPodConditions"] == [{"type": "DisruptionTarget"}]
    container = job["template"]["spec"]["containers"][0]
    assert container["args"] == ["run", "/data/night.yaml", "--out", "/data/out/shop"]
    assert container["image"] == "r.example/b:1"
    assert {"name": "TUZI_KEY_FILE", "value": "/run/secrets/batchflux/TUZI_KEY"} in container["env"]


def test_actions_hold_to_their_schema_and_never_pay_without_a_memory(recipes: Recipes) -> None:
    text = recipes.files("actions", "--set", "limits.deadline=20h")[".github/workflows/batchflux-shop.yml"]
    made = yaml.safe_load(text)
    jsonschema.validate({"on": made.pop(True), **made}, schema_of("github-workflows"))
    steps = made["jobs"]["night"]["steps"]
    restore = next(step["with"] for step in steps if "restore" in step.get("uses", ""))
    save = next(step["with"] for step in steps if "save" in step.get("uses", ""))
    assert restore["path"] == save["path"] == "out/shop"
    assert restore["fail-on-cache-miss"] == "${{ !inputs.first }}"
    assert made["concurrency"]["cancel-in-progress"] is False
    run = next(step for step in steps if step.get("id") == "run")
    assert "--set limits.deadline=20h --set limits.deadline=340m ||" in run["run"]  # the last one holds
    assert run["env"]["TUZI_KEY"] == "${{ secrets.TUZI_KEY }}"
    assert "output.mirror" in text
    code, _, said = recipes.call("actions", "night.yaml", "--out", "/elsewhere")
    assert (code, "is not in" in said) == (2, True)


def test_the_dag_compiles_and_says_what_the_table_says(recipes: Recipes) -> None:
    tree = ast.parse(recipes.files("airflow", "--at", "22:30")["batchflux-shop.py"])
    calls = {node.func.id: node for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "id")}
    given = {word.arg: word.value for word in calls["BashOperator"].keywords}
    assert ast.literal_eval(given["skip_on_exit_code"]) == [4]
    assert ast.literal_eval(given["append_env"]) is True
    assert ast.literal_eval(given["retries"]) == 6
    assert ast.literal_eval(given["cwd"]) == f"{{% raw %}}{recipes.folder}{{% endraw %}}"  # which templates read
    assert {word.arg for word in calls["DAG"].keywords} >= {"dagrun_timeout", "max_active_runs", "catchup"}


@pytest.mark.parametrize("option", ["--set=limits.budget_per_run=5", ""])
def test_no_night_has_the_budget_of_a_run_twice(recipes: Recipes, option: str) -> None:
    """A run that used it up ends with 3, as one that its provider stopped; taken up again, it would spend it anew."""
    options = [option] if option else []
    service = recipes.files("systemd", *options)["batchflux-shop.service"]
    _, cron = yaml.safe_load_all(recipes.files("kubernetes", *options)["batchflux-shop.yaml"])
    rules = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    dag = recipes.files("airflow", *options)["batchflux-shop.py"]
    ends = next(rule["action"] for rule in rules if 3 in rule.get("onExitCodes", {"values": []})["values"])
    again = ("RestartForceExitStatus" in service, ends, "case $code in 3 | 4)" in dag)
    assert again == ((False, "FailJob", False) if option else (True, "Count", True))


def test_keys_that_a_file_of_variables_has_need_none_of_their_own(recipes: Recipes) -> None:
    (recipes.folder / ".env").write_text("TUZI_KEY=sk-not-shown\n")
    for platform in ("cron", "systemd", "docker", "compose", "airflow"):
        whole = "".join(recipes.files(platform).values())
        assert "sk-not-shown" not in whole
        assert "TUZI_KEY" not in whole, platform
    for platform in ("kubernetes", "actions"):  # which do not have that file
        assert "TUZI_KEY" in "".join(recipes.files(platform).values())


def test_names_in_the_manifest_are_keys_too_and_values_are_never_said(recipes: Recipes) -> None:
    text = MANIFEST.replace("price: 0.1", "price: 0.1, base_url: 'https://${RELAY}/'")
    (recipes.folder / "night.yaml").write_text(text, encoding="utf-8")
    for platform in RECIPES:
        whole = "".join(recipes.files(platform, RELAY="relay.secret.example", TUZI_KEY="sk-secret").values())
        assert "secret.example" not in whole
        assert "sk-secret" not in whole
        assert "RELAY" in whole


def test_an_address_for_notices_is_named_and_never_written_out() -> None:
    command = click.Command("run", params=[click.Option(["--notify"], multiple=True)])
    named = command.make_context("run", ["--notify", "${SLACK}", "--notify", "ping=${PING}"])
    assert list(_words(named)) == ["--notify", "${SLACK}", "--notify", "ping=${PING}"]
    with pytest.raises(UsageError, match="--notify holds a secret") as raised:
        list(_words(command.make_context("run", ["--notify", "https://hooks.example/T0K3N"])))
    assert "T0K3N" not in str(raised.value)


def test_variables_that_options_name_are_keys_and_stay_names(recipes: Recipes) -> None:
    made = recipes.files("systemd", "--set", "provider.base_url=https://${RELAY}/", RELAY="relay.secret.example")
    service = made["batchflux-shop.service"]
    assert "provider.base_url=https://${RELAY}/" in words_of_unit(service, "ExecStart")
    assert "\nLoadCredential=RELAY:/etc/batchflux/RELAY\n" in service
    assert "secret.example" not in service


def test_one_file_is_printed_as_it_is_and_several_under_their_names(recipes: Recipes) -> None:
    code, printed, said = recipes.call("airflow", "night.yaml")
    assert (code, said) == (0, "")
    assert ast.get_docstring(ast.parse(printed)) is not None
    code, printed, _ = recipes.call("cron", "night.yaml")
    assert [line for line in printed.splitlines() if line.startswith("# =====")] == [
        "# ===== batchflux-shop.sh",
        "# ===== crontab",
    ]


def test_files_that_are_there_stay(recipes: Recipes) -> None:
    recipes.files("airflow")
    (recipes.folder / "airflow" / "batchflux-shop.py").write_text("mine")
    code, _, said = recipes.call("airflow", "night.yaml", "--write", "airflow")
    assert code == 2
    assert "is there already" in said
    assert (recipes.folder / "airflow" / "batchflux-shop.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cron", "gone.yaml"], "the manifest does not exist"),
        (["cron", "night.yaml", "--at", "25:00"], "allowed is a time of day, as 22:00"),
        (["cron", "night.yaml", "--zone", "Mars/Olympus"], "allowed is a name as Asia/Shanghai or UTC"),
        (["cron", "night.yaml", "--user", "nobody-of-that-name"], "is nobody on this machine"),
        (["cron", "night.yaml", "--fly"], "No such option"),
        (["cron"], "Missing argument 'MANIFEST'"),
        (["cron", "-"], "A recipe needs a manifest that lies in a file"),
        (["launchd", "night.yaml"], "is not one of"),
        (["cron", "night.yaml", "--out", "a\nb"], "rename it"),
        (["actions", "night.yaml", "--set", "limits.timeout=7h"], "GitHub ends a job after 6 h"),
        (["cron", "night.yaml", "--set", "x=https://h/a?X-Amz-Signature=abc&X-Amz-Credential=d"], "holds a secret"),
    ],
)
def test_faults_are_one_sentence(recipes: Recipes, arguments: list[str], says: str) -> None:
    code, printed, said = recipes.call(*arguments)
    assert (code, printed) == (2, "")
    assert says in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("said", "at", "ends"),
    [("06:00", (22, 0), (6, 0)), ("8h", (22, 30), (6, 30)), ("90m", (1, 0), (2, 30)), ("24h", (22, 0), None)],
)
def test_a_night_is_over_with_the_deadline(said: str, at: tuple[int, int], ends: tuple[int, int] | None) -> None:
    assert until_of(deadline(said), at) == ends
    assert until_of(None, at) is None


def test_the_zone_is_the_machines_or_the_one_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert zone_of(None) == "Europe/Berlin"
    assert zone_of("Asia/Tokyo") == "Asia/Tokyo"
    for wrong in ("", "/etc/passwd", "../x", "Europe", "x\0"):
        with pytest.raises(UsageError, match="--zone"):
            zone_of(wrong)


def test_names_that_no_platform_takes_are_told_apart(recipes: Recipes) -> None:
    found = set()
    for name in ("shop", "Shop 1", "猫", "犬", "x" * 60, "x" * 61):
        (recipes.folder / "night.yaml").write_text(MANIFEST.replace("name: shop", f"name: {name}"), encoding="utf-8")
        _, printed, _ = recipes.call("kubernetes", "night.yaml")
        made = list(yaml.safe_load_all(printed))[1]["metadata"]["name"]
        assert len(made) <= 52
        assert Path(made).name == made
        assert made.isascii()
        found.add(made)
    assert len(found) == 6

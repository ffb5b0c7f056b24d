"""What the parts of a manifest come to: values as the user wrote them, and the defaults."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflux.errors import ManifestError
from batchflux.manifest import Deadline, LimitsConfig, ProviderConfig, Rate, load_manifest, schema, starter
from batchflux.manifest.kinds import PixelPrice, TokenPrice
from batchflux.manifest.reading.values import AutoTimeout, url
from batchflux.models import Cost

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchflux.manifest import Manifest
    from batchflux.models import Job

    Jobs = Callable[[str], list[Job]]
    Load = Callable[..., Manifest]

TUZI = "https://api.tu-zi.com"
ONE = "jobs: [{prompt: x}]\n"


def test_the_defaults(load: Load, folder: Path) -> None:
    made = load("version: 1\n" + ONE)
    assert (made.name, made.display, made.base, made.path) == ("m", "m.yaml", folder, folder / "m.yaml")
    assert made.provider == ProviderConfig()
    assert made.limits == LimitsConfig()
    assert made.output.dir == folder / "out/m"
    assert (made.output.file_name, made.output.verify, made.output.max_bytes) == (
        "{{ id }}.{{ ext }}", "decode", 50_000_000,
    )  # fmt: skip


def test_every_key_of_the_sections(load: Load, folder: Path) -> None:
    made = load("""\
version: 1
name: spring-catalogue
provider:
  {name: tuzi, style: auto, model: flux-kontext-pro, base_url: https://api.tu-zi.com, keys: [TUZI_API_KEY],
   price: 0.14, currency: CNY, params: strict, options: {}}
limits:
  {concurrency: 24, rate: 300/min, attempts: 5, timeout: 360s, budget: 25.00, deadline: "06:00",
   max_consecutive_failures: 20}
output: {dir: out/spring, file_name: "{{ id }}.{{ ext }}", verify: decode}
jobs: [{prompt: x}]
""")
    assert made.provider == ProviderConfig(
        name="tuzi", addresses=("https://api.tu-zi.com",), keys=("TUZI_API_KEY",), price=Decimal("0.14"), currency="CNY"
    )
    assert made.limits == LimitsConfig(
        concurrency=24,
        rate=Rate(count=300, seconds=60),
        timeout=360,
        budget=Decimal("25.00"),
        deadline=Deadline(clock=(6, 0)),
    )
    assert made.output.dir == folder / "out/spring"
    assert str(made.limits.budget) == "25.00"


@pytest.mark.parametrize(
    ("written", "read"),
    [("16:9", "16:9"), ("9:16", "9:16"), ("1:1", "1:1"), ("21:9", "21:9"), ("9:21", "9:21"), ("'16 : 9'", "16:9"),
     ("190:90", "190:90"), ("", None), ("null", None), ("~", None), ("''", None)],
)  # fmt: skip
def test_ratios_are_never_numbers(written: str, read: str | None, jobs: Jobs) -> None:
    (one,) = jobs(f"version: 1\njobs:\n  - prompt: x\n    aspect_ratio: {written}\n")
    assert one.aspect_ratio == read


@pytest.mark.parametrize(
    "text", ["no", "010", "2024-01-01", "0x1F", "1_000", "1:30", "yes", "on", "0.10", "1e3", "007", "+1", "-0", "True"]
)
def test_text_is_what_was_written(text: str, jobs: Jobs) -> None:
    (one,) = jobs(
        f"version: 1\njobs:\n  - prompt: {text}\n    id: {text}\n    model: {text}\n    tags: {{a: {text}}}\n"
    )
    assert (one.prompt, one.id, one.model, one.tags) == (text, text, text, (("a", text),))


@pytest.mark.parametrize(
    ("field", "written", "read"),
    [
        ("seed", "42", 42), ("seed", "-1", -1), ("seed", "'7'", 7), ("seed", "null", None), ("seed", "010", 10),
        ("output_format", "jpg", "jpeg"), ("output_format", "png", "png"), ("output_format", "JPG", "jpeg"),
        ("output_format", "PNG", "png"), ("safety_tolerance", "0", 0),
        ("prompt_upsampling", "false", False), ("prompt_upsampling", "true", True), ("variant", "2", 2),
        ("model", "other", "other"), ("webhook_url", "https://h.example/x?y=1", "https://h.example/x?y=1"),
    ],
)  # fmt: skip
def test_job_fields(field: str, written: str, read: Any, jobs: Jobs) -> None:
    (one,) = jobs(f"version: 1\njobs:\n  - prompt: x\n    {field}: {written}\n")
    assert getattr(one, field) == read


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10/s", (10, 1)),
        ("300/min", (300, 60)),
        ("2.5/h", (2.5, 3600)),
        ("'5 / s'", (5, 1)),
        ("60/minute", (60, 60)),
        ("2/Hour", (2, 3600)),
        ("5/sec", (5, 1)),
    ],
)
def test_rates(text: str, rate: tuple[float, float], load: Load) -> None:
    assert load(f"version: 1\nlimits: {{rate: {text}}}\n{ONE}").limits.rate == Rate(count=rate[0], seconds=rate[1])


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("360s", 360),
        ("6m", 360),
        ("1h", 3600),
        ("90", 90),
        ("1h30m", 5400),
        ("6 min", 360),
        ("1 h 30 min", 5400),
        ("90 seconds", 90),
        ("2 Hours", 7200),
        ("1min30s", 90),
    ],
)
def test_timeouts(text: str, seconds: float, load: Load) -> None:
    assert load(f"version: 1\nlimits: {{timeout: {text}}}\n{ONE}").limits.timeout == seconds


@pytest.mark.parametrize(
    ("text", "floor"), [("auto", 60.0), ("'auto'", 60.0), ("{auto: 2m}", 120.0), ("{auto: 5}", 5.0)]
)
def test_a_timeout_by_what_calls_take_has_a_floor(text: str, floor: float, load: Load) -> None:
    made = load(f"version: 1\nlimits: {{timeout: {text}}}\n{ONE}").limits.timeout
    assert made == AutoTimeout(floor=floor)


@pytest.mark.parametrize(
    "text", ["{auto: soon}", "{auto: }", "{}", "{least: 2m}", "{auto: 2m, most: 9m}", "[auto]", "automatic"]
)
def test_what_is_no_timeout_says_what_is(text: str, load: Load) -> None:
    with pytest.raises(ManifestError, match=r"limits\.timeout: found .*; allowed is a "):
        load(f"version: 1\nlimits: {{timeout: {text}}}\n{ONE}")


@pytest.mark.parametrize(
    ("text", "deadline"),
    [("06:00", Deadline(clock=(6, 0))), ("23:59", Deadline(clock=(23, 59))), ("5h", Deadline(seconds=18_000))],
)
def test_deadlines(text: str, deadline: Deadline, load: Load) -> None:
    assert load(f"version: 1\nlimits: {{deadline: {text}}}\n{ONE}").limits.deadline == deadline


def test_a_clock_deadline_is_the_next_such_time() -> None:
    now = dt.datetime(2026, 1, 15, 5, 0).astimezone()
    assert Deadline(clock=(6, 0)).seconds_from(now) == 3600
    assert Deadline(clock=(5, 0)).seconds_from(now) == 86_400
    assert Deadline(seconds=7.5).seconds_from(now) == 7.5
    texts = [str(Deadline(clock=(6, 0)))] + [str(Deadline(seconds=seconds)) for seconds in (7.5, 5400, 18_000)]
    assert texts == ["06:00", "7.5s", "90min", "5h"]


@pytest.mark.parametrize(("text", "size"), [("50MB", 50_000_000), ("500KB", 500_000), ("1GB", 10**9), ("1234", 1234)])
def test_sizes(text: str, size: int, load: Load) -> None:
    assert load(f"version: 1\noutput: {{max_bytes: {text}}}\n{ONE}").output.max_bytes == size


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("simulator", ProviderConfig()),
        ("tuzi", ProviderConfig(name="tuzi", addresses=("https://api.tu-zi.com",), keys=("TUZI_API_KEY",))),
        ("{name: relay, base_url: 'http://r:80/v1/images/generations'}",
         ProviderConfig(name="relay", addresses=("http://r:80",))),
        ("{name: relay, base_url: 'http://r:80/x/v1/chat/completions/'}",
         ProviderConfig(name="relay", addresses=("http://r:80/x",))),
        ("{name: relay, base_url: 'http://r:80/v1/'}", ProviderConfig(name="relay", addresses=("http://r:80",))),
        ("{name: tuzi, keys: [A, B_2]}", ProviderConfig(name="tuzi", addresses=(TUZI,), keys=("A", "B_2"))),
        ("{name: tuzi, keys: A}", ProviderConfig(name="tuzi", addresses=("https://api.tu-zi.com",), keys=("A",))),
        ("{options: {latency: 0.5, faults: [a, 1, true, null]}}",
         ProviderConfig(options={"latency": 0.5, "faults": ["a", 1, True, None]})),
    ],
)  # fmt: skip
def test_providers(text: str, config: ProviderConfig, load: Load) -> None:
    assert load(f"version: 1\nprovider: {text}\n{ONE}").provider == config


def test_the_simulator_needs_no_price_for_a_budget(load: Load) -> None:
    assert load("version: 1\nlimits: {budget: 1}\n" + ONE).limits.budget == 1


def test_variables_of_the_environment_stay_out_of_the_text(load: Load) -> None:
    text = (
        "version: 1\nprovider: {name: relay, base_url: 'https://${HOST}/', options: {a: ['${HOST}', '${SECRET}']}}\n"
        "jobs: [{prompt: 'a ${HOST}', webhook_url: https://h.example, webhook_secret: '${SECRET}'}]\n"
    )
    made = load(text, environ={"HOST": "relay.example", "SECRET": "kanari-123"})
    assert made.provider.base_url == "https://relay.example"
    assert made.provider.options == {"a": ["relay.example", "kanari-123"]}
    assert made.text == text
    assert "kanari" not in repr(made)


def test_a_secret_that_does_not_fit_is_not_shown(load: Load) -> None:
    with pytest.raises(Exception, match="what that variable holds is not allowed here") as caught:
        load(f"version: 1\nprovider: {{price: '${{PRICE}}'}}\n{ONE}", environ={"PRICE": "canary-123"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["provider: {name: tuzi, keys: [sk-canary0123456789]}", "provider: {token: canary}", "name: sk-canary0123456789",
     "defaults: {webhook_secret: canary}", "defaults: {webhook_url: 'ftp://canary:canary@h/?canary'}"],
)  # fmt: skip
def test_what_is_secret_is_never_echoed(text: str, load: Load) -> None:
    with pytest.raises(Exception, match=r"m\.yaml:2") as caught:
        load(f"version: 1\n{text}\n{ONE}")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("127.0.0.1:8000", ("127.0.0.1:8000",)), ("[10.0.0.0/24, '[fd00::1]:80']", ("10.0.0.0/24", "[fd00::1]:80")),
        ("10.0.0.7/24", ("10.0.0.0/24",)), ("fd00::/8", ("fd00::/8",)), ("10.1.2.3", ("10.1.2.3",)),
        ("Files.Example", ("files.example",)), ("minio:9000", ("minio:9000",)), ("null", ()), ("FD00::1", ("fd00::1",)),
    ],
)  # fmt: skip
def test_hosts_that_links_may_lead_to(text: str, hosts: tuple[str, ...], load: Load) -> None:
    assert load(f"version: 1\nprovider: {{allow_hosts: {text}}}\n{ONE}").provider.allow_hosts == hosts


@pytest.mark.parametrize(
    "text",
    ["http://127.0.0.1:8000/", "'*'", "'*.example'", "a b", "host:0", "host:99999", "10.0.0.0/33", "'[fd00::zz]:1'",
     "a/b", "''", "'u@h'", "-h", "h.-x", "'fd00::1:80:x'", "{a: 1}", "'a..b'"],
)  # fmt: skip
def test_hosts_are_hosts(text: str, load: Load) -> None:
    with pytest.raises(ManifestError, match=r"m\.yaml:2: provider\.allow_hosts(\[0\])?: found") as caught:
        load(f"version: 1\nprovider: {{allow_hosts: [{text}]}}\n{ONE}")
    assert len(caught.value.faults) == 1


def test_headers_of_downloads(load: Load) -> None:
    text = "{User-Agent: 'Mozilla/5.0 (X11)', Referer: https://h.example/, Cookie: '${C}', Accept: 1}"
    made = load(f"version: 1\nprovider: {{download_headers: {text}}}\n{ONE}", environ={"C": "sid=kanari"}).provider
    assert list(made.download_headers.values()) == ["Mozilla/5.0 (X11)", "https://h.example/", "sid=kanari", "1"]
    assert "kanari" not in repr(made)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'Bad Name': x}", "a name is made of letters"), ("{'': x}", "a name is made of letters"),
        ("{Host: x}", "remove it"), ("{content-length: 5}", "remove it"), ("{A: 1, a: 2}", "stands here twice"),
        ("{Cookie: canary}", "write ${NAME} here"), ("{X-Api-Key: canary}", "write ${NAME} here"),
        ('{A: "canary\\r\\nB: 1"}', "a line end"), ("{Cookie: '${C}'}", "a line end"), ("{A: é}", "ASCII"),
        ("{A: [1]}", "found a list"), ("[a]", "allowed is a mapping"),
    ],
)  # fmt: skip
def test_headers_that_cannot_be(text: str, said: str, load: Load) -> None:
    with pytest.raises(ManifestError, match=r"m\.yaml:2: provider\.download_headers: ") as caught:
        load(f"version: 1\nprovider: {{download_headers: {text}}}\n{ONE}", environ={"C": "canary\nB: 1"})
    assert said in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "read"),
    [("[]", ()), ("ratio", ("ratio",)), ("[format, colour]", ("format", "colour")), ("any", ("any",)), ("null", ())],
)
def test_differences_that_are_taken(text: str, read: tuple[str, ...], load: Load) -> None:
    assert load(f"version: 1\noutput: {{accept: {text}}}\n{ONE}").output.accept == read


def test_limits_of_trying(load: Load) -> None:
    limits = load("version: 1\nlimits: {canary: 0, patience: 1h}\n" + ONE).limits
    assert (limits.canary, limits.patience) == (0, 3600)
    for text in ("canary: -1", "canary: few", "patience: 0", "patience: soon", "patience: 25h"):
        with pytest.raises(ManifestError, match=r"m\.yaml:2: limits\."):
            load(f"version: 1\nlimits: {{{text}}}\n{ONE}")


def test_keys_at_the_top_that_begin_with_x_are_for_anchors(load: Load) -> None:
    made = load("version: 1\nx-mine: &mine {name: tuzi, price: 1}\nx-: 1\nprovider: {<<: *mine, keys: [A]}\n" + ONE)
    assert (made.provider.name, made.provider.price, made.provider.keys) == ("tuzi", Decimal(1), ("A",))
    assert "^x-" in schema()["patternProperties"]


def test_a_byte_order_mark_and_windows_lines(load: Load) -> None:
    made = load(b"\xef\xbb\xbfversion: 1\r\nname: caf\xc3\xa9\r\njobs: [{prompt: x}]\r\n")
    assert made.name == "café"


def test_anchors_may_be_used(jobs: Jobs) -> None:
    made = jobs("version: 1\njobs:\n  - &a {prompt: x, tags: &t {s: 1}}\n  - {prompt: y, tags: *t}\n")
    assert [job.tags for job in made] == [(("s", "1"),)] * 2


def test_the_starter_runs_as_it_is(jobs: Jobs) -> None:
    made = jobs(starter())
    assert [(job.aspect_ratio, job.seed, job.output_format) for job in made] == [
        ("16:9", 42, "png"), ("1:1", 1, "png"), ("1:1", 2, "png"), ("1:1", 1, "png"), ("1:1", 2, "png"),
    ]  # fmt: skip


def test_the_schema_names_every_key() -> None:
    made = json.loads(json.dumps(schema()))
    entry = made["$defs"]["JobEntry"]["properties"]
    assert {"id", "prompt", "from", "matrix", "exclude", "image", "images", "webhook_secret", "tags"} <= set(entry)
    assert all("description" in info for info in entry.values())
    assert made["required"] == ["version", "jobs"]
    assert made["additionalProperties"] is False


def test_out_wins(load: Load, folder: Path) -> None:
    assert load("version: 1\noutput: {dir: a}\n" + ONE, out="b").output.dir == folder / "b"


def test_the_output_is_relative_to_the_current_folder(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep/m.yaml").write_text("version: 1\n" + ONE)
    made = load_manifest(Path("deep/m.yaml"))
    assert (made.output.dir, made.base, made.beside("t.csv")) == (folder / "out/m", folder / "deep", "deep/t.csv")


def test_tag_names_are_in_the_order_written(load: Load) -> None:
    jobs = "jobs:\n  - {prompt: x, tags: {a: 1}}\n  - {prompt: y, tags: {c: 1, b: 2}}\n"
    made = load("version: 1\ndefaults: {tags: {b: 1}}\n" + jobs)
    assert made.tag_names == ("b", "a", "c")


def test_a_model_may_be_paid_by_megapixels(load: Load) -> None:
    """References count; a unit of unknown size counts as the first megapixel, so that nothing is counted too low."""
    text = "{price: {pro: {megapixel: 0.03, further: 0.015}, flex: {megapixel: 0.05, most: 0.1}}}"
    made = load(f"version: 1\nprovider: {text}\nlimits: {{budget: 1}}\njobs: [{{prompt: x, model: pro}}]\n").provider
    assert (made.price_of("pro"), made.price_of("flex")) == (Decimal("0.075"), Decimal("0.1"))
    pro, flex = made.priced("pro"), made.priced("flex")
    assert isinstance(pro, PixelPrice)
    assert isinstance(flex, PixelPrice)
    assert [pro.of(count) for count in (0, 1, 2, 6)] == [Decimal(one) for one in ("0.03", "0.03", "0.045", "0.105")]
    assert [flex.at_most(count) for count in (1, 2, 6)] == [Decimal("0.05"), Decimal("0.1"), Decimal("0.1")]
    assert made.cost_of("pro", Cost(megapixels=2)) == Decimal("0.045")
    assert made.cost_of("pro", Cost(units=Decimal("1.5"))) == Decimal("0.045")
    assert made.cost_of("pro", Cost(amount=Decimal("0.04"), megapixels=2)) == Decimal("0.04")
    assert made.cost_of("pro", Cost(tokens={"out": 9})) is None


def test_a_model_may_be_paid_by_tokens(load: Load) -> None:
    """What its answers count is priced by the million; a kind without a price counts at the highest."""
    text = "{price: {m: {most: 0.25, text_in: 5, image_out: 30}, n: 0.1}, currency: EUR}"
    made = load(f"version: 1\nprovider: {text}\nlimits: {{budget: 1}}\njobs: [{{prompt: x, model: m}}]\n").provider
    assert (made.price_of("m"), made.price_of("n"), made.price_of("o")) == (Decimal("0.25"), Decimal("0.1"), None)
    tokens = {"text_in": 100, "in": 10, "image_out": 4000}
    assert made.cost_of("m", Cost(tokens=tokens)) == Decimal("0.1208")
    assert made.cost_of("n", Cost(tokens=tokens)) is None
    price = TokenPrice(Decimal(1), {"text_in": Decimal(5), "image_in": Decimal(8), "out": Decimal(30)})
    assert price.of({"in": 10, "text_out": 1, "image_out": 1}) * 1_000_000 == 10 * 8 + 2 * 30
    partial = TokenPrice(Decimal(1), {"text_in": Decimal(5), "image_out": Decimal(30)})
    assert partial.of({"in": 1, "out": 1, "image_in": 1}) * 1_000_000 == 3 * 30
    assert made.cost_of("m", Cost(amount=Decimal(1), currency="EUR", tokens=tokens)) == 1
    assert made.cost_of("m", Cost(amount=Decimal(1), tokens=tokens)) == Decimal("0.1208")
    assert (made.cost_of("m", None), made.cost_of("m", Cost())) == (None, None)
    whole = load(
        "version: 1\nprovider: {price: {m: {most: 1, in: 2, text_out: 3, out: 9}}}\njobs: [{prompt: x}]\n"
    ).provider
    assert whole.cost_of("m", Cost(tokens={"text_in": 1, "in": 1, "image_out": 1, "text_out": 1})) == Decimal(
        "0.000016"
    )


def test_a_table_of_prices_may_stand_for_all_models(load: Load) -> None:
    """Its names are never taken for models, which would leave those that are asked without a price."""
    text = "version: 1\nprovider: {{price: {}}}\nlimits: {{budget: 1}}\njobs: [{{prompt: x, model: pro}}]\n"
    tokens = load(text.format("{most: 0.25, text_in: 5, image_out: 30}")).provider
    assert tokens.price_of("pro") == Decimal("0.25")
    assert tokens.cost_of("pro", Cost(tokens={"image_out": 4000})) == Decimal("0.12")
    pixels = load(text.format("{megapixel: 0.03, further: 0.015}")).provider
    assert pixels.cost_of("pro", Cost(megapixels=2)) == Decimal("0.045")
    with pytest.raises(ManifestError, match='found "pro"; allowed is most, text_in'):
        load(text.format("{most: 0.25, text_in: 5, pro: 0.1}"))


@given(st.from_regex(r"https?:/{1,3}[A-Za-z0-9.:@-]{0,12}(/[!-~]{0,20})?", fullmatch=True))
def test_what_is_read_as_a_url_has_a_host_and_no_user(text: str) -> None:
    try:
        read = url(text)
    except ValueError:
        return
    parts = urlsplit(read)
    assert read == text
    assert parts.hostname
    assert "@" not in parts.netloc
    assert parts.port is None or 0 <= parts.port < 1 << 16

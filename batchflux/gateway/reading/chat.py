"""`/v1/chat/completions`, streamed or not → an Order and its Form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchflux.gateway.orders import MOST_PICTURES, Form, Order
from batchflux.gateway.reading import parameters, pictures
from batchflux.gateway.reading.bodies import flag, known, line, read, refused, typed, whole
from batchflux.gateway.reading.chores import not_a_picture, refuse_chores
from batchflux.gateway.reading.conversations import Turn, turns
from batchflux.manifest.job_fields import READERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from batchflux.gateway.orders import Picture

INLINE = "?inline"  # behind a model: its pictures come as data URLs
_ASKED = parameters.ORDERED | {"model", "messages", "n", "size", "stream", "modalities"}
# How a model is to write. Shells send these with every message; no picture has them.
_WRITING = frozenset(
    {
        *("temperature", "top_p", "top_k", "top_a", "min_p", "frequency_penalty", "presence_penalty"),
        *(
            "repetition_penalty",
            "max_tokens",
            "max_completion_tokens",
            "stop",
            "logit_bias",
            "logprobs",
            "top_logprobs",
        ),
        *("stream_options", "reasoning_effort", "reasoning", "include_reasoning", "verbosity", "parallel_tool_calls"),
        *("tool_choice", "metadata", "store", "service_tier", "prediction", "prompt_cache_key"),
        *("prompt_cache_retention", "prompt_cache_options", "thinking", "enable_thinking", "chat_template_kwargs"),
    }
)


def _no_tools(param: str, value: Any) -> None:
    if value != []:
        raise refused(
            param, "found tools; a picture is made without any: turn them off for this model", "unsupported_value"
        )


def _a_picture(param: str, value: Any) -> None:
    if not isinstance(value, list) or "image" not in value:
        raise not_a_picture("modalities asks for no image")
    if not all(each in ("image", "text") for each in value):
        raise refused(param, "found more than text and image; ask for these alone", "unsupported_value")


def _plain(param: str, value: Any) -> None:
    if typed(param, value, "object").get("type") != "text":
        raise not_a_picture("response_format asks for JSON, which is text")


_ALONE = "a picture is made from the conversation alone; leave it out"
_UNCARRIED: dict[str, Callable[[str, Any], None]] = {
    "tools": _no_tools,
    "functions": _no_tools,
    "modalities": _a_picture,
    "response_format": _plain,
    "function_call": parameters.only("none", "auto", says=_ALONE),
    "audio": parameters.only(says=_ALONE),
    "web_search_options": parameters.only(says=_ALONE),
    "moderation": parameters.UNCARRIED["moderation"],
}


def chat(body: Mapping[str, Any], own_link: Callable[[str], bool]) -> tuple[Order, Form]:
    """Read a body of `/v1/chat/completions`: the last message of the user is the prompt, its pictures the references.

    Where it has none, the last picture of the conversation is the reference: that is what "make it blue" means.
    `own_link` tells the addresses of pictures that this gateway made.

    Raises:
        RefusalError: With the parameter that is at fault; `not_a_picture` where text is asked for.
    """
    given = known(body, _ASKED, parameters.SIZES, parameters.INERT, _WRITING, _UNCARRIED)
    parameters.uncarried(given, _UNCARRIED)
    said = turns(given.get("messages"), own_link)
    last = _last(said)
    images, reference = _references(said, last)
    ratio, size = parameters.ratio(given)
    model = line(given, "model")
    order = Order(
        prompt=_prompt(last),
        model=model.removesuffix(INLINE),
        images=images,
        count=whole(given, "n", 1, MOST_PICTURES, 1),
        fields=parameters.job_fields(given) | ({"aspect_ratio": ratio} if ratio else {}),
    )
    dropped = [*sorted(given.keys() & _WRITING), *(["system prompt"] if any(_system(said)) else [])]
    notes = {"size": size, "reference": reference, "dropped": ", ".join(dropped)}
    stream = flag(given, "stream")
    inline = model.endswith(INLINE) or ("modalities" in given and not stream)
    return order, Form(shape="chat", inline=inline, stream=stream, notes={k: v for k, v in notes.items() if v})


def _system(said: list[Turn]) -> list[str]:
    return [turn.text for turn in said if turn.who == "system"]


def _last(said: list[Turn]) -> Turn:
    """Return the user's last message, behind which only instructions may stand; refuse a chore of the shell's own."""
    if said:
        refuse_chores(said[-1].text, _system(said), alone=len(said) - len(_system(said)) == 1)
    spoken = [turn for turn in said if turn.who != "system"]
    if not spoken or spoken[-1].who != "user":
        raise refused("messages", "found no message of the user at the end; say in one what to make")
    return spoken[-1]


def _references(said: list[Turn], last: Turn) -> tuple[tuple[Picture, ...], str | None]:
    """Return the pictures to work from, and the note of where they come from where the user did not just send them."""
    if last.links:
        pictures.bounded(last.links, last.param)
        return tuple(pictures.picture(link, last.param) for link in last.links), None
    for turn in reversed(said):
        if turn.links and turn.who != "system":
            whose = "an answer" if turn.who == "assistant" else "an earlier message"
            return (pictures.picture(turn.links[-1], turn.param),), f"the last picture of the conversation, of {whose}"
    return (), None


def _prompt(last: Turn) -> str:
    param = f"{last.param}.content"
    if not last.text:
        raise refused(
            param, "found no text; say what to make of the picture" if last.links else "found no text; say what to make"
        )
    text: str = read(param, last.text, READERS["prompt"])
    return text

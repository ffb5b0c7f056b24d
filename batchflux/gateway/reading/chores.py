"""What chat shells ask a model for behind their user's back: titles, tags, summaries, a greeting to try a key.

They go to the model that is chosen, and where that one makes pictures, each would be bought as one. They are known by
the words that shells put there, of which a few that nobody else would write stand here, with where they were read
(in July to November 2026); a shell whose words are changed by its user is known no more, but by the general signs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchflux.errors import quoted
from batchflux.gateway.orders import RefusalError

if TYPE_CHECKING:
    from collections.abc import Iterable

REMEDY = "Set another model for it in the shell's settings, or turn it off there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chore:
    """One shell's chore: `begins` are the first words of the last message, `holds` words of it or a system prompt."""

    sender: str
    what: str
    begins: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


CHORES = (
    # backend/open_webui/config.py: the templates of titles, tags, follow-ups, queries, image prompts and completions
    # all begin so, and the one that puts documents before a question, too
    Chore(
        sender="Open WebUI",
        what="a title, tags, follow-ups or a search",
        begins=(
            *("### Task:", "Available Tools:", "Your task is to reflect the speaker's likely facial expression"),
            "You have been provided with a set of responses from various models",
        ),
    ),
    # app/locales/*.ts, Store.Prompt.Topic and .Summarize: the last message, of the user or the system
    Chore(
        sender="NextChat",
        what="a title",
        begins=(
            "Please generate a four to five word title",
            "Use the language used by the user (e.g. en for english",
            "使用四到五个字直接返回",
            "この文の簡潔なテーマを",
            "네 글자에서 다섯 글자로",
            "Geben Sie ein kurzes Thema in vier bis",
            "Utilisez quatre à cinq mots pour",
            "Devuelve un tema breve de esta frase",
            "Riporta il tema di questa frase",
            "Por favor, gere um título de quatro",
            "Укажите краткую тему этого сообщения",
            "Sử dụng bốn đến năm từ để",
            "Gunakan empat hingga lima kata",
            "Bu cümlenin dört ila beş kelimelik",
            "Použijte čtyři až pět slov pro",
            "Prosím, vygenerujte štvor- až",
            "Find en kort overskrift med 4-5",
            "Bruk fire til fem ord for",
            "استخدم أربع إلى خمس كلمات",
            "চার থেকে পাঁচটি শব্দ ব্যবহার",
        ),
    ),
    Chore(
        sender="NextChat",
        what="a summary",
        begins=(
            "Summarize the discussion briefly in 200 words",
            "Use the language used by the user (e.g. en-us",
            "简要总结一下对话内容",
            "対話の内容を簡潔に要約し",
            "대화 내용을 간략히 요약하여",
            "Fassen Sie den Gesprächsinhalt zusammen",
            "Faites un résumé succinct de la discussion",
            "Resume brevemente el contenido de la conversación",
            "Riassumi brevemente il contenuto della conversazione",
            "Resuma a discussão brevemente em 200",
            "Кратко подведите итоги содержимого беседы",
            "Tóm tắt nội dung cuộc trò chuyện",
            "Berikan ringkasan singkat tentang konten obrolan",
            "Sohbet içeriğini k",
            "Stručně shrňte obsah konverzace",
            "Stručne zhrňte diskusiu na menej",
            "Skriv et kort resumé (under 200",
            "Oppsummer samtalen kort som en kontekstuell",
            "قم بتلخيص محتوى الدردشة",
            "আলোচনার বিষয়বস্তু সংক্ষিপ্তভাবে সারাংশ",
        ),
    ),
    # packages/prompts/src/chains: summaryTitle (of several years), summaryGenerationTitle, summaryTags,
    # summaryAgentName, compressContext, inputCompletion, langDetect
    Chore(
        sender="LobeHub",
        what="a title, tags, a summary or a completion",
        holds=(
            "You are a professional conversation summarizer",
            "You are a conversation summarizer. Your task",
            "conversation-savvy assistant. Summarize the conversation",
            "summarize user conversations into titles",
            "将用户的会话总结为 10 个字以内的标题",
            "You are a senior AI art creator and language master. Based on the AI",
            "assistant skilled at extracting conversation tags",
            "naming expert skilled at creating names with literary depth",
            "autocomplete engine for a chat input box",
            "language expert proficient in all world languages. Identify",
        ),
    ),
    # src/renderer/src/config/prompts.ts, TopicNamingService.ts, ApiService.ts: the conversation as JSON is what its
    # naming sends in every language
    Chore(
        sender="Cherry Studio",
        what="a title, a search or a translation",
        begins=('[{"role":"user","mainText":', "You are a translation expert. Your only task is to translate"),
        holds=(
            "ignoring instructions and without punctuation or symbols",
            "总结给出的会话",
            "summarize the user's conversation into a title within",
            "You are an AI question rephraser. Your role",
            "Your task is to precisely identify the language used in the user's input",
        ),
    ),
    # index.js of memory, stable-diffusion and caption in public/scripts/extensions
    Chore(
        sender="SillyTavern",
        what="a summary, a description or a caption",
        begins=(
            *("Ignore previous instructions", "[Pause your roleplay", "What's in this image?"),
            *(
                "In the next response I want you to provide only a",
                "[In the next response I want you to provide only a",
            ),
            "Provide an exhaustive comma-separated list of tags describing",
        ),
    ),
)
# Cherry Studio's checkApi, LobeHub's Checker and SillyTavern's test message: a whole conversation, and no more
_GREETINGS = frozenset({"hi", "hello", "hey", "test", "ping", "你好"})


def refuse_chores(last: str, systems: Iterable[str], *, alone: bool) -> None:
    """Refuse a conversation that asks for a chore: `last` is its last message, `alone` where no other came before.

    Raises:
        RefusalError: 400 `not_a_picture`.
    """
    text = last.strip()
    behind = tuple(systems)
    for chore in CHORES:
        held = any(words in each for words in chore.holds for each in (text, *behind))
        if held or text.startswith(chore.begins):
            raise not_a_picture(f"{chore.sender} asks for {chore.what}, which is text. {REMEDY}")
    if alone and text.lower().rstrip(".!") in _GREETINGS:
        raise not_a_picture(f"{quoted(text)} is how a shell tries a connection: it works. Say what to make")


def not_a_picture(why: str) -> RefusalError:
    """Return the refusal of what asks for text, to be raised."""
    message = f"This gateway makes pictures, and bought none for this: {why}."
    return RefusalError(400, "not_a_picture", message, param="messages")

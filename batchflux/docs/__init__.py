"""The manual's pages, in Markdown: `batchflux docs TOPIC` prints one.

`manifest`, `columns`, `errors` and `commands` are written by `.readme/make_pages.py` from the tables that the program
itself reads; the others by people.
"""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files

from batchflux.errors import UsageError

TOPICS = {  # as a reader comes to them: what a run is told, what it makes, nights, servers, what is promised
    "commands": "commands and their options",
    "manifest": "every key of a manifest, what it may be and what it is when left out",
    "templates": "tables, columns, templates, filters, axes",
    "photos": "local references: what is checked, prepared and sent",
    "providers": "APIs, keys, prices, call styles; what makes two jobs the same",
    "limits": "rate, concurrency, outages, budget, deadline: when a request may leave",
    "networks": "proxies, certificates, keys and where they are looked up",
    "stores": "buckets: addresses, keys, S3 and its kin, Aliyun, what is secret",
    "batches": "many jobs in one file, at half the price: money, time, kills, what expires or comes twice",
    "webhooks": "APIs call when a task has ended, so that it need not be asked for so often",
    "results": "the output folder, what is kept where, what makes way for what",
    "columns": "the columns of results.csv, exit codes",
    "errors": "error codes: what each means, what follows, what it may cost",
    "review": "judging, redoing and handing over",
    "exports": "datasets and pairs for training: formats, splits, captions, copies",
    "mirror": "a bucket that gets each picture, too, so that it need not stay here",
    "reconcile": "a folder beside the provider's own books: what was billed, and what differs",
    "rehearse": "when a night ends, what it spends and what stops it, before it begins",
    "recipes": "every night by itself: cron, systemd, docker, compose, Kubernetes, GitHub Actions, Airflow",
    "nights": "runs that nobody watches: notices, metrics for Prometheus, fields of the log",
    "morning": "what became of a night: status, history, the report's Night view",
    "gateway": "a server that speaks OpenAI's API, for chat shells: setting up, keys, budgets, what is paid when",
    "shells": "what becomes of what chat shells and OpenAI's clients send, and what is not bought for them",
    "comfyui": "nodes for ComfyUI, each picture of which is paid for once",
    "cluster": "requests that leave from the nodes of a Ray cluster, and when that is worth it",
    "guarantees": "what is promised, and the tests that show it",
    "security": "what is kept from whom",
    "performance": "measured figures",
    "changelog": "what changed from version to version",
}


def page(topic: str) -> str:
    """Return a page as Markdown; UsageError: there is none of that name."""
    if topic not in TOPICS:
        close = get_close_matches(topic.lower(), TOPICS, n=1)
        meant = f"did you mean {close[0]}?" if close else f"there are {', '.join(TOPICS)}."
        raise UsageError(f"There is no page {topic!r}; {meant}")
    text = (files("batchflux.docs") / f"{topic}.md").read_text(encoding="utf-8")
    return text.partition("-->\n")[2] if text.startswith("<!--") else text  # without who wrote it

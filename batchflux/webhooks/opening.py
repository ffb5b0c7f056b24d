"""The hooks of a manifest: where the API of each of its providers calls, and with which secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchflux.webhooks.wakes import Hook, secret_of

_ANY = ("0.0.0.0", "::")  # noqa: S104  what a manifest may say, and where nobody can be called

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchflux.manifest import Manifest
    from batchflux.webhooks.api import WebhookApi


def called_by(manifest: Manifest, apis: Mapping[tuple[str, str], WebhookApi]) -> Iterator[tuple[str, str, WebhookApi]]:
    """Yield who calls where a manifest has `webhooks`: a provider's name, a call style, and how its API calls.

    `apis` are all that call, by API and style.
    """
    for name, provider in manifest.providers.items() if manifest.webhooks.listen else ():
        for (api, style), how in apis.items():
            if api == provider.api:
                yield name, style, how


def hooks_of(
    manifest: Manifest, apis: Mapping[tuple[str, str], WebhookApi], secrets: Mapping[str, str | None]
) -> dict[tuple[str, str], Hook]:
    """Return the hooks by a provider's name and style; `secrets` are the keys of all providers by their names.

    The embedded simulator, which reaches this machine only, calls where we listen.
    """
    made = {}
    for name, style, api in called_by(manifest, apis):
        provider, host, port = manifest.providers[name], *(manifest.webhooks.listen or ("", 0))
        keys = [secret for key in provider.key_names if (secret := secrets.get(key)) is not None]
        of = (str(manifest.output.dir), name, style)
        path = secret_of(keys, "path", *of)
        near = "127.0.0.1" if host in _ANY else f"[{host}]" if ":" in host else host
        base = f"http://{near}:{port}" if provider.simulated else manifest.webhooks.public_url
        made[name, style] = Hook(
            name=name, style=style, api=api, url=f"{base}/{path}", path=path, secret=secret_of(keys, "secret", *of)
        )
    return made

"""Who outside is told of approvals, as the settings say."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from broker.domain.urls import parse_url
from broker.pipeline.notifying import Delivery, Notifier, Webhook
from broker.pipeline.parts import Parts
from broker.sandbox.egress.upstream import trust_from
from broker.settings import Settings
from broker.vault.secret_store import ConfiguredSecrets, SecretEntry


def notifier(parts: Parts, settings: Settings) -> Notifier:
    """Tells the webhooks of the setting ``approval_webhooks``; each secret goes to the host that it is set for alone."""
    trust = partial(trust_from, Path(settings.egress_trust) if settings.egress_trust else None)
    deliveries = []
    for place, hook in enumerate(settings.approval_webhooks):
        url, name = parse_url(hook.url), f"approval_webhooks.{place}"
        secrets = ConfiguredSecrets({name: SecretEntry(source=hook.secret, hosts=(url.authority,))})
        secret = partial(secrets.give, name, url.host, url.port)
        deliveries.append(Delivery(Webhook(url, secret, trust)))
    return Notifier(parts.store, parts.bell, deliveries)

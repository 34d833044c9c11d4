"""Webhooks: the events of calls, posted to an application; docs/webhooks.md."""

from mediaserver.api.webhooks.sender import WebhookSender

__all__ = ["WebhookSender"]

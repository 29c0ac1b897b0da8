"""The composition root: the only place that knows which adapter stands behind a protocol."""

from broker.app.running import Running, now, running

__all__ = ["Running", "now", "running"]

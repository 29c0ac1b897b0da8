"""The composition root: the only place that knows which adapter stands behind a protocol."""

from broker.app.clock import now
from broker.app.running import Running, running

__all__ = ["Running", "now", "running"]

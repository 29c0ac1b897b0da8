"""Is this machine fit to run a broker? Each check gathers facts by a probe, and a pure function judges them."""

from broker.doctor.checks import CHECKS, Place, examine
from broker.doctor.finding import Finding, Status, worst

__all__ = ["CHECKS", "Finding", "Place", "Status", "examine", "worst"]

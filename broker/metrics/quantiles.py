"""Quantiles as a histogram's buckets allow to say them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """The value below which a share of the observations lies, taken to be spread evenly within their bucket.

    Args:
        buckets: upper bound and number of observations up to it, growing; the last bound is infinite.
        share: between 0 and 1.

    Returns:
        0 without observations; the last finite bound where the value is beyond it.
    """
    rank = buckets[-1][1] * share
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if math.isinf(bound):
            break
        if count >= rank and count > below:
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low if buckets[-1][1] else 0.0

"""What has been met is never taken for new; what is new hardly ever for what was met."""

from __future__ import annotations

from broker.replay.already import Seen


def test_what_was_met_is_never_new_and_what_is_new_is_hardly_ever_taken_for_it() -> None:
    seen = Seen()
    mistaken = sum(seen.add(f"call_{number}") for number in range(20_000))
    assert mistaken < 20
    assert all(seen.add(f"call_{number}") for number in range(20_000))

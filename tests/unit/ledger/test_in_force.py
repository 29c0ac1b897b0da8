"""Which text the record says is in force: by the newest entry that says so, and only with the text of that digest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from broker.cli.init import create_state
from broker.cli.local import Local, open_local
from broker.domain.canonical import JsonObject, digest
from broker.domain.ports import Transaction
from broker.errors import DataLossError
from broker.ledger.in_force import newest_digest, policy_in_force, sealed_id

FIRST, SECOND = "one\n", "two\n"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    state = tmp_path_factory.mktemp("in-force") / "state"
    create_state(state, operator="ada", hosts=())
    with open_local(state) as opened:
        yield opened


def _say(local: Local, entry_type: str, body: JsonObject) -> None:
    local.write(lambda tx: local.recorder.append(tx, entry_type, body))


def _seal(local: Local, text: str, *, under: str = "") -> str:
    which = digest((under or text).encode())

    def work(tx: Transaction) -> None:
        sealed = local.vault.create(
            tx, object_id=sealed_id("policy", which), owner="broker", kind="policy", now=datetime.now(UTC), expires=None
        )
        sealed.put(tx, {0: text.encode()})

    local.write(work)
    return which


def _in_force(local: Local) -> str | None:
    return local.read(lambda tx: policy_in_force(tx, local.vault))


def test_the_newest_entry_decides_and_a_start_says_it_again(local: Local) -> None:
    assert _in_force(local) is None, "before the first start none was"
    one, two = _seal(local, FIRST), _seal(local, SECOND)
    _say(local, "policy.changed", {"policy_digest": one})
    assert _in_force(local) == FIRST
    _say(local, "policy.changed", {"policy_digest": two})
    for number in range(300):
        _say(local, "frozen", {"text": f'"type":"policy.changed" {number}', "policy_digest": one})
    assert _in_force(local) == SECOND, "what is written in another entry says nothing"
    _say(local, "heartbeat", {"policy_digest": one})
    assert _in_force(local) == FIRST
    _say(local, "heartbeat", {"text": "of another kind"})
    assert _in_force(local) == FIRST
    _say(local, "settings.changed", {"in_force": {"tools": two}})
    assert local.read(lambda tx: newest_digest(tx, "settings.changed", ("in_force", "tools"))) == two
    assert local.read(lambda tx: newest_digest(tx, "settings.changed", ("in_force", "settings"))) == ""


def test_another_text_under_its_name_is_in_force_nowhere(local: Local) -> None:
    which = _seal(local, "g, human:eve, role:approver, *\n", under="harmless\n")
    _say(local, "policy.changed", {"policy_digest": which})
    with pytest.raises(DataLossError) as refused:
        _in_force(local)
    assert refused.value.reason == "RECORD_DIFFERS"
    _say(local, "policy.changed", {"policy_digest": f"sha256:{'0' * 64}"})
    with pytest.raises(DataLossError) as gone:
        _in_force(local)
    assert gone.value.reason == "RECORD_DIFFERS"

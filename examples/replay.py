"""Somebody has recorded a vote as it went over the wire, reason, salt, signature and all, and plays it in again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import grpc
from stage import Stage, check, tell

from broker.client import AsyncBroker
from broker.client.ballot import Voter, sign_vote
from broker.domain.approval import VoteDecision
from broker.domain.secret import Secret
from broker.signing import load_key_file
from broker.v1 import approvals_pb2 as pb
from broker.v1 import approvals_pb2_grpc as pb_grpc


@dataclass(frozen=True, slots=True)
class Recorded:
    """Whose vote was recorded: name, key file and its passphrase."""

    name: str
    key: Path
    passphrase: str


async def replayed(stage: Stage, address: str, person: Recorded, *, voted: str, other: str, thief: str) -> None:
    """The person votes on one approval, and the very same bytes come again.

    Args:
        stage: the state directory.
        address: the broker's.
        person: who votes.
        voted: the approval that the vote is about.
        other: the approval that it is played in for.
        thief: name of whoever plays it in as their own.
    """
    recorded = await _recorded(stage, address, person, voted)
    own, others = (_channel(stage, address, name) for name in (person.name, thief))
    async with own, others:
        first = await pb_grpc.ApprovalsStub(own).CastVote(recorded)
        again = await pb_grpc.ApprovalsStub(own).CastVote(recorded)
        tell(f"the same vote twice: {len(first.votes)} vote, then {len(again.votes)}")
        check(len(first.votes) == len(again.votes) == 1, "a vote that was sent again was counted again")
        elsewhere = pb.CastVoteRequest()
        elsewhere.CopyFrom(recorded)
        elsewhere.name = other
        for channel, request, what in (
            (own, elsewhere, "for the other call"),
            (others, recorded, f"as {thief}'s own"),
        ):
            try:
                await pb_grpc.ApprovalsStub(channel).CastVote(request)
            except grpc.aio.AioRpcError as error:
                tell(f"{what}: {error.code().name}: {error.details()}")
            else:
                check(condition=False, what=f"the replayed vote was taken {what}")


async def _recorded(stage: Stage, address: str, person: Recorded, approval: str) -> pb.CastVoteRequest:
    signer = load_key_file(person.key, Secret(person.passphrase.encode()))
    identity, ca = stage.state / "identities" / "human" / person.name, stage.state / "ca" / "ca.pem"
    async with AsyncBroker.connect(address, identity=identity, ca=ca) as broker:
        shown = await broker.get_approval(approval)
        founding, seen = await broker.get_founding(), await broker.newest_checkpoint()
        holder = next(item.holder for item in await broker.list_voter_keys() if item.id == signer.id)
        voter = Voter(holder, founding.origin, seen)
        signed = sign_vote(shown, VoteDecision.APPROVE, voter, signer, reason="", now=datetime.now(UTC))
    return pb.CastVoteRequest(
        name=shown.name, statement=signed.statement, signature=signed.signature, commit_salt=signed.salt
    )


def _channel(stage: Stage, address: str, name: str) -> grpc.aio.Channel:
    folder = stage.state / "identities" / "human" / name
    credentials = grpc.ssl_channel_credentials(
        (stage.state / "ca" / "ca.pem").read_bytes(),
        (folder / "key.pem").read_bytes(),
        (folder / "cert.pem").read_bytes(),
    )
    return grpc.aio.secure_channel(address, credentials)

#!/usr/bin/env python3
"""Writes docs/cli: one JSON Schema for what each command prints with --json, and the list of commands.

python scripts/cli_schemas.py           write them
python scripts/cli_schemas.py --check   say what differs; exit code 1 if anything does
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter
from typer.core import TyperCommand, TyperGroup

from broker.cli.main import COMMANDS
from broker.cli.output import ErrorOutput

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "cli"

MODELS = {
    "init": "init:InitOutput",
    "serve": "serve:ServeOutput",
    "migrate": "migrate:MigrateOutput",
    "doctor": "doctor:DoctorOutput",
    "status": "admin:StatusOutput",
    "call": "call_view:RunOutput",
    "calls list": "calls:CallsOutput",
    "calls show": "call_view:CallOutput",
    "calls watch": "call_view:RunOutput",
    "calls cancel": "call_view:CallOutput",
    "calls files": "calls:FilesOutput",
    "tools list": "tools:ToolsOutput",
    "tools show": "tools:ToolOutput",
    "tools lint": "lint_view:LintOutput",
    "tools approve": "approval_view:ApprovalOutput",
    "workflows lint": "lint_view:LintOutput",
    "sessions start": "sessions:SessionOutput",
    "sessions end": "sessions:SessionOutput",
    "sessions show": "sessions:SessionOutput",
    "sessions list": "sessions:SessionsOutput",
    "sessions schedule": "sessions:ScheduleOutput",
    "identity issue agent": "identity:IssuedOutput",
    "identity issue human": "identity:IssuedOutput",
    "identity list": "identity:IdentitiesOutput",
    "identity revoke": "identity:IdentityOutput",
    "identity owner": "identity:IdentityOutput",
    "identity renew-server": "identity:ServerOutput",
    "keys new": "keys:KeyOutput",
    "keys show": "keys:KeyOutput",
    "approvals list": "approval_view:ApprovalsOutput",
    "approvals show": "approval_view:ApprovalOutput",
    "approvals watch": "approval_view:ApprovalOutput",
    "approvals cancel": "approval_view:ApprovalOutput",
    "approvals approve": "approval_view:ApprovalOutput",
    "approvals deny": "approval_view:ApprovalOutput",
    "approvals withdraw": "approval_view:ApprovalOutput",
    "approvals request": "approval_view:ApprovalOutput",
    "approvers founding": "approvers:FoundingOutput",
    "approvers accept": "approvers:FoundingOutput",
    "approvers keys": "approvers:VoterKeysOutput",
    "approvers enroll": "approval_view:ApprovalOutput",
    "approvers revoke": "approvers:VoterKeysOutput",
    "freeze agent": "freeze:FreezeOutput",
    "freeze tool": "freeze:FreezeOutput",
    "freeze workspace": "freeze:FreezeOutput",
    "freeze all": "freeze:FreezeOutput",
    "freeze list": "freeze:FreezesOutput",
    "unfreeze": "approval_view:ApprovalOutput",
    "workflows list": "workflows:WorkflowsOutput",
    "workflows submit": "approval_view:ApprovalOutput",
    "runbooks create": "approval_view:ApprovalOutput",
    "runbooks list": "approval_view:ApprovalsOutput",
    "accounts map": "approval_view:ApprovalOutput",
    "accounts unmap": "approval_view:ApprovalOutput",
    "accounts show": "accounts:AccountOutput",
    "workspaces list": "workspaces:WorkspacesOutput",
    "workspaces show": "workspaces:WorkspaceOutput",
    "workspaces files": "workspaces:FilesOutput",
    "workspaces diff": "workspaces:DiffOutput",
    "workspaces import": "workspaces_transfer:ImportOutput",
    "workspaces export": "workspaces_transfer:ExportOutput",
    "undo": "call_view:RunOutput | undo:UndoPlanOutput | undo:DrillOutput",
    "delegations sign": "delegations:DelegationOutput",
    "policy check": "policy:CheckOutput",
    "policy explain": "policy:ExplainOutput",
    "policy diff": "policy_diff:DiffOutput",
    "policy apply": "policy_apply:ApplyOutput",
    "policy reload": "admin:ReloadOutput",
    "replay timeline": "timeline_output:TimelineOutput",
    "ledger verify": "ledger_verify:VerifyOutput",
    "ledger show": "ledger_reading:ShowOutput",
    "ledger tail": "ledger_reading:TailOutput",
    "ledger checkpoint": "ledger_proving:CheckpointOutput",
    "ledger prove": "ledger_proving:ProofOutput",
    "ledger erase": "ledger_erase:EraseOutput",
    "ledger export": "ledger_bundle:ExportOutput",
    "ledger import": "ledger_bundle:ImportOutput",
    "replay bundle": "replay_bundle:BundleOutput",
    "replay hand-over": "replay_bundle:HandOverOutput",
    "ledger keys": "ledger_keys:KeysOutput",
    "ledger rotate-key": "ledger_keys:RotatedOutput",
    "ledger revoke-key": "ledger_keys:RevokedOutput",
    "ledger recover": "ledger_keys:RecoverOutput",
    "ledger rebuild": "ledger_rebuild:RebuildOutput",
    "ask agent": "ask_view:AnswerOutput",
    "ask approvers": "ask_view:AnswerOutput",
    "ask changes": "ask_view:AnswerOutput",
    "ask egress": "ask_view:AnswerOutput",
    "ask irreversible": "ask_view:AnswerOutput",
    "ask paths": "ask_view:AnswerOutput",
    "ask person": "ask_view:AnswerOutput",
    "ask policy": "ask_view:AnswerOutput",
    "ask refusals": "ask_view:AnswerOutput",
    "replay whatif": "replay_whatif:Report",
    "slack serve": "slack:SlackServeOutput",
    "slack check": "slack:SlackCheckOutput",
    "replay rerun": "replay_rerun:RerunOutput",
    "replay session": "replay_session:SessionReplayOutput",
    "sandbox images": "sandbox:ImagesOutput",
    "sandbox status": "sandbox_status:SandboxStatusOutput",
    "sandbox gc": "sandbox_gc:GcOutput",
    "sandbox probe": "sandbox_probe:ProbeOutput",
}
"""Command -> module in broker.cli and model of its answer; several where options choose between them."""

_INTRODUCTION = """# Commands

Generated by `python scripts/cli_schemas.py`; a test compares it with the program.

Every command takes `--json` and then prints one JSON object on standard output, which its schema here describes. A
command that fails prints one by [error.json](error.json) instead. The exit codes are in [client.md](../client.md).

| command | what it does | answer |
|---|---|---|
"""


def commands() -> Iterator[tuple[str, TyperCommand]]:
    """Every command that the program has, by its full name."""
    for name, lazy in COMMANDS.items():
        yield from _commands((name,), lazy.load(name))


def _commands(path: tuple[str, ...], command: TyperGroup | TyperCommand) -> Iterator[tuple[str, TyperCommand]]:
    if isinstance(command, TyperCommand):
        yield " ".join(path), command
        return
    for name in list(command.commands):
        # Asked as the program asks, so that a command which is loaded late is loaded.
        _, found, _ = command.resolve_command(None, [name])  # type: ignore[arg-type]  # needed for its error texts only
        if isinstance(found, TyperGroup | TyperCommand):
            yield from _commands((*path, name), found)


def expected() -> dict[str, str]:
    """File name -> content, of all files of the folder.

    Raises:
        SystemExit: a command has no entry in ``MODELS``, has no ``--json``, or an entry has no command.
    """
    found = dict(commands())
    problems = [f"{name}: no such command" for name in MODELS.keys() - found.keys()]
    problems += [f"{name}: add its model to MODELS" for name in found.keys() - MODELS.keys()]
    problems += [
        f"{name}: takes no --json"
        for name, command in found.items()
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    if problems:
        raise SystemExit("\n".join(problems))
    files = {"error.json": _text("broker: error", ErrorOutput.model_json_schema(mode="serialization"))}
    lines = [_INTRODUCTION]
    for name, command in found.items():
        file = name.replace(" ", "-") + ".json"
        files[file] = _text(f"broker {name} --json", _schema(MODELS[name]))
        summary = (command.help or "").strip().partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `broker {name}` | {summary} | [{file}]({file}) |\n")
    files["README.md"] = "".join(lines)
    return files


def _schema(models: str) -> dict[str, Any]:
    found = [_model(*item.strip().split(":")) for item in models.split("|")]
    if len(found) == 1:
        return found[0].model_json_schema(mode="serialization")
    answer: Any = reduce(or_, found)
    return TypeAdapter(answer).json_schema(mode="serialization")


def _model(module: str, name: str) -> type[BaseModel]:
    model: type[BaseModel] = getattr(importlib.import_module(f"broker.cli.{module}"), name)
    return model


def _text(title: str, schema: Mapping[str, Any]) -> str:
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": title}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Writes or checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say what differs")
    check = parser.parse_args().check
    files = expected()
    present = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*") if path.is_file()}
    differing = sorted(name for name in files.keys() | present.keys() if files.get(name) != present.get(name))
    if check:
        for name in differing:
            sys.stdout.write(f"docs/cli/{name} is not what the program says; run: python scripts/cli_schemas.py\n")
        return 1 if differing else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - files.keys():
        (FOLDER / name).unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

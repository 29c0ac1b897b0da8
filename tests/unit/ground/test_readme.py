"""What the documents name exists: make targets, commands, options, files and links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from broker.cli.main import COMMANDS, run

DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
    *(
        "docs/architecture.md",
        "docs/adr/README.md",
        "docs/approvals.md",
        "docs/workspaces.md",
        "docs/directories.md",
        "docs/undo.md",
        "docs/sql.md",
        "docs/sqlite.md",
    ),
)
COMMAND = re.compile(r"\bbroker ([a-z][a-z-]*(?: [a-z][a-z-]*){0,2})")
GROUPS = {
    *("calls", "tools", "workflows", "sessions", "identity", "delegations", "policy", "ledger", "sandbox"),
    *("keys", "approvals", "approvers", "freeze", "runbooks", "accounts", "workspaces", "ask", "replay"),
}
"""Their second word is a command, and not an argument."""


def read(repository: Path, document: str) -> str:
    return (repository / document).read_text("utf-8")


def code_of(text: str) -> list[str]:
    """Lines of shell blocks, and texts in backquotes."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_exist(repository: Path, document: str) -> None:
    makefile = read(repository, "Makefile")
    targets = {target for code in code_of(read(repository, document)) for target in re.findall(r"^make (\w+)", code)}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"


def command_words(text: str) -> tuple[str, ...]:
    """The words that name the command: `identity issue agent`, `calls list`, `call`."""
    words = text.split()
    depth = 3 if words[:2] == ["identity", "issue"] else 2 if words[0] in GROUPS else 1
    return tuple(words[:depth])


def named_commands(repository: Path) -> set[tuple[str, ...]]:
    found = set()
    for document in DOCUMENTS:
        for code in code_of(read(repository, document)):
            if match := COMMAND.match(code):
                found.add(command_words(match[1]))
    return found


def test_commands_exist(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = named_commands(repository)
    assert len(commands) > 20
    for words in sorted(commands):
        assert run([*words, "--help"]) == 0, f"broker {' '.join(words)}: {capsys.readouterr()}"


def test_every_command_is_in_the_readme(repository: Path) -> None:
    named = {words[0] for words in named_commands(repository)}
    assert set(COMMANDS) - named <= {"sandbox"}


def test_options_in_shell_lines_exist(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in code_of(read(repository, "README.md")):
        match = COMMAND.match(line)
        options = re.findall(r" (--[a-z-]+)", line)
        if not match or not options:
            continue
        run([*command_words(match[1]), "--help"])
        text = capsys.readouterr().out
        for option in options:
            assert option in text, f"{option} of {line!r}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(repository: Path, document: str) -> None:
    folder = (repository / document).parent
    for link in re.findall(r"\]\(([^)]+)\)", read(repository, document)):
        if not link.startswith("https://"):
            assert (folder / link.partition("#")[0]).exists(), f"{document}: {link}"


def test_every_decision_is_listed_and_has_its_parts(repository: Path) -> None:
    folder = repository / "docs" / "adr"
    listed = set(re.findall(r"\((\d{4}-[a-z-]+\.md)\)", read(repository, "docs/adr/README.md")))
    assert listed == {path.name for path in folder.glob("0*.md")}
    for name in listed:
        text = (folder / name).read_text("utf-8")
        assert text.startswith(f"# {name[:4]}: ")
        for heading in ("## Question", "## Choice", "## Why", "## Consequences"):
            assert heading in text, f"{name}: {heading}"


def test_the_exit_codes_are_those_of_the_program(repository: Path) -> None:
    from broker.cli.output import ExitCode  # noqa: PLC0415 -- only here

    table = re.findall(r"^\| (\d) \| ", read(repository, "README.md"), re.MULTILINE)
    assert [int(number) for number in table] == [code.value for code in ExitCode]


def test_make_alone_lists_the_targets(repository: Path) -> None:
    done = subprocess.run(["make"], cwd=repository, check=True, capture_output=True, text=True)
    for target in ("demo", "test", "lint", "bench", "fmt", "protos"):
        assert re.search(rf"^  make {target} ", done.stdout, re.MULTILINE)


def test_continuous_integration_runs_make_test(repository: Path) -> None:
    script = repository / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "exec make test" in script.read_text("utf-8")

"""The layers hold, and each contract of `.importlinter` finds what it is there to find."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLANTED = {
    # importer: (what it must not import, the contract that says so)
    "broker.errors": ("broker.domain.ids", "layers"),
    "broker.domain": ("broker.ledger", "layers"),
    "broker.policy": ("broker.sandbox", "layers"),
    "broker.vault": ("broker.ledger", "layers"),
    "broker.ledger": ("broker.rpc", "layers"),
    "broker.pipeline": ("broker.store", "store"),
    "broker.sandbox": ("broker.settings", "settings"),
    "broker.specs": ("broker.v1", "stubs"),
    "broker.client": ("broker.identity", "client"),
    "broker.cli": ("grpc", "grpc"),
    "broker.identity": ("casbin", "casbin"),
    "broker.doctor": ("docker", "docker"),
    "broker.rpc": ("sqlalchemy", "tables"),
    "broker.store": ("cryptography", "cryptography"),
    "broker.metrics": ("psycopg", "postgres"),
    "broker.app": ("prometheus_client", "prometheus"),
    "broker.approvals": ("broker.identity", "layers"),
    "broker.signing": ("slack_sdk", "bolt"),
    "broker.sandbox.egress": ("aiohttp", "aiohttp"),
    "broker.tlog": ("scramp", "scram"),
    "broker.slack": ("broker.pipeline", "slack"),
    "broker.rollback": ("scramp", "scram"),
    "broker.workspace": ("broker.vault", "layers"),
    "broker.tree_folder": ("broker.workspace", "layers"),
    "broker.stray": ("broker.errors", "layers"),
}


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    arguments = ["--config", ".importlinter", "--no-cache", "--no-logo"]
    return subprocess.run([program, *arguments], cwd=folder, check=False, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def planted(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the linter says of a copy of the code in which every forbidden import of ``PLANTED`` stands."""
    folder = tmp_path_factory.mktemp("layers")
    shutil.copytree(repository / "broker", folder / "broker", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / ".importlinter", folder)
    for importer, (imported, _) in PLANTED.items():
        place = folder.joinpath(*importer.split("."))
        module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        with module.open("a", encoding="utf-8") as file:
            file.write(f"\nimport {imported}\n")
    done = lint(folder)
    assert done.returncode == 1, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def contracts(repository: Path) -> dict[str, str]:
    """Id -> name."""
    config = configparser.ConfigParser()
    config.read(repository / ".importlinter", "utf-8")
    prefix = "importlinter:contract:"
    return {name.removeprefix(prefix): config[name]["name"] for name in config if name.startswith(prefix)}


def test_the_layers_hold(repository: Path) -> None:
    done = lint(repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(contracts(repository))} kept, 0 broken" in done.stdout


def test_every_contract_has_a_planted_violation(repository: Path) -> None:
    assert set(contracts(repository)) == {contract for _, contract in PLANTED.values()}


def test_every_contract_can_break(repository: Path, planted: str) -> None:
    for name in contracts(repository).values():
        assert f"{name} BROKEN" in planted


@pytest.mark.parametrize("importer", [each for each in PLANTED if each != "broker.stray"])
def test_a_forbidden_import_is_found(planted: str, importer: str) -> None:
    imported, _ = PLANTED[importer]
    assert f"{importer} -> {imported}" in planted


def test_a_module_without_a_layer_is_found(planted: str) -> None:
    assert "broker.stray" in planted

"""The vault's key file: made once, for its owner alone, and refused when others could have read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from broker.errors import ConflictError, DataLossError, FailedPreconditionError
from broker.vault.keyfile import make_key_file, read_key_file


def test_a_key_is_made_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "vault.key"
    before = os.umask(0)
    try:
        made = make_key_file(path)
    finally:
        os.umask(before)
    assert len(made.reveal()) == 32
    assert read_key_file(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert make_key_file(tmp_path / "other.key") != made


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    made = make_key_file(tmp_path / "vault.key")
    with pytest.raises(ConflictError) as refused:
        make_key_file(tmp_path / "vault.key")
    assert refused.value.reason == "KEY_EXISTS"
    assert read_key_file(tmp_path / "vault.key") == made


def test_a_missing_key_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FailedPreconditionError) as refused:
        read_key_file(tmp_path / "vault.key")
    assert refused.value.reason == "KEY_MISSING"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "vault.key"
    key = make_key_file(path)
    path.chmod(mode)
    with pytest.raises(FailedPreconditionError) as refused:
        read_key_file(path)
    assert refused.value.reason == "KEY_EXPOSED"
    assert key.reveal().hex() not in str(refused.value)


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_key_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "vault.key"
    path.write_bytes(b"k" * size)
    path.chmod(0o600)
    with pytest.raises(DataLossError) as refused:
        read_key_file(path)
    assert refused.value.reason == "KEY_DAMAGED"


def test_a_link_a_folder_or_a_pipe_is_no_key(tmp_path: Path) -> None:
    make_key_file(tmp_path / "vault.key")
    link, folder, pipe = tmp_path / "link", tmp_path / "folder", tmp_path / "pipe"
    link.symlink_to(tmp_path / "vault.key")
    folder.mkdir(mode=0o700)
    os.mkfifo(pipe, 0o600)
    for path in (link, folder, pipe):
        with pytest.raises(FailedPreconditionError) as refused:
            read_key_file(path)
        assert refused.value.reason == "KEY_UNREADABLE"

"""Key files: private whatever the umask, whole or absent, never overwritten."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import ConflictError, InvalidArgumentError
from broker.identity import files


@pytest.fixture
def open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


@pytest.mark.usefixtures("open_umask")
def test_a_secret_is_private_under_an_open_umask(tmp_path: Path) -> None:
    files.make_private_dir(tmp_path / "a" / "b")
    files.write_new(tmp_path / "a" / "b" / "key.pem", b"x")
    modes = [stat.S_IMODE((tmp_path / part).stat().st_mode) for part in ("a", "a/b", "a/b/key.pem")]
    assert modes == [0o700, 0o700, 0o600]


def test_a_file_that_exists_stays(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    files.write_new(path, b"first")
    with pytest.raises(ConflictError) as caught:
        files.write_new(path, b"second")
    assert caught.value.reason == "FILE_EXISTS"
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_a_new_file_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (tmp_path / "key.pem").symlink_to(victim)
    with pytest.raises(ConflictError):
        files.write_new(tmp_path / "key.pem", b"secret")
    assert not victim.exists()


def test_replace_leaves_the_new_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "server.pem"
    files.write_new(path, b"old", mode=files.PUBLIC)
    files.replace(path, b"new", mode=files.PUBLIC)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    files.write_new(path, b"x")
    path.chmod(mode)
    with pytest.raises(InvalidArgumentError) as caught:
        files.read_secret(path, what="the key")
    assert caught.value.reason == "KEY_FILE_OPEN"


def test_what_is_no_file_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 65537)
    for path in (tmp_path / "absent", tmp_path, tmp_path / "large"):
        with pytest.raises(InvalidArgumentError) as caught:
            files.read_pem(path, what="the certificate")
        assert caught.value.reason == "FILE_UNREADABLE"

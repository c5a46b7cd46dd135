"""One process at a time works in a folder."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from twotower.data.alone import Taken, alone_in


def test_a_second_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        for _ in range(2):
            with pytest.raises(Taken), alone_in(tmp_path):
                pass
    with alone_in(tmp_path):
        pass


def test_a_folder_that_is_gone_is_taken(tmp_path: Path) -> None:
    with pytest.raises(Taken), alone_in(tmp_path / "gone"):
        pass


@pytest.mark.parametrize("again", [False, True], ids=["gone", "made again"])
def test_whoever_waits_at_a_folder_that_is_removed_gets_no_other(
    again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lock = tmp_path / "work", fcntl.flock

    def remove_first(file: int, how: int) -> None:
        shutil.rmtree(folder)
        if again:
            folder.mkdir()
            (folder / "lock").touch()
        lock(file, how)

    folder.mkdir()
    monkeypatch.setattr(fcntl, "flock", remove_first)
    with pytest.raises(Taken), alone_in(folder):
        pass

"""What the documents show is what happens: each block of code in them is run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from processes import warm_for_shells
from twotower.cli import app
from twotower.config import Config, Section, parse_config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "ranking_config.yaml", tmp_path / "config")
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    python = ""
    with ExitStack() as ends:
        commands = ends.enter_context(warm_for_shells())
        path = [str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]
        settings = {**os.environ, "PATH": os.pathsep.join(path), "COLUMNS": "100"}
        for (language, code), (follows, _) in pairwise([*blocks, ("", "")]):
            if language == "yaml":
                parse_config(yaml.safe_load(code))
            elif language == "sh":
                # The two commands are what CI and the reader run; here what they call is run.
                code = re.sub(r"^make .*$", "", code, flags=re.M)
                run(["bash", "-euc", code], tmp_path, settings, ends)
            elif language == "python":
                # Blocks of a page build on each other; in a row they are run as one.
                python += code
                if follows != "python":
                    command = [sys.executable, "-W", "error", "-c", python]
                    run(command, tmp_path, settings, ends)


def run(command: list[str], place: Path, settings: dict[str, str], ends: ExitStack) -> None:
    """Run a block; what it leaves running goes on until the page ends."""
    started = subprocess.Popen(
        command,
        cwd=place,
        env=settings,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    ends.callback(end, started.pid)
    said, _ = started.communicate()
    assert started.returncode == 0, f"{command[-1]}\n{said.decode()}"


def end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)


def test_every_command_is_in_the_readme_and_shows_an_example() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f"twotower {name}" in readme, name
        assert f"twotower {name}" in command.epilog, name
        assert command.help, name


def test_every_setting_says_what_it_is_and_stands_in_the_settings_page() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for section, field in Config.model_fields.items():
        kind = field.annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)
        for name, setting in kind.model_fields.items():
            assert setting.description, f"{section}.{name}"
            assert f"`{name}`" in page, f"{section}.{name}"

"""The package is a book: a module imports only from rooms above its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import twotower

SOURCE = Path(twotower.__file__).parent
ROOMS = [
    "errors",
    "complaints",
    "yaml_file",
    "config",
    "data",
    "model",
    "retrieval",
    "watch",
    "training",
    "evaluation",
    "report",
    "runs",
    "pipeline",
    "tuning",
    "serving",
    "terminal",
    "export",
    "cli",
    "__main__",
]
MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """The package's own modules that a module imports when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("twotower"):
            names = [alias.name for alias in node.names] if node.module == "twotower" else [""]
            found |= {f"{node.module}.{name}".rstrip(".") for name in names}
    return found


def room_of(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_a_module_imports_only_from_rooms_above_its_own(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for module in imports(path) - {"twotower.__version__"}:
        assert ROOMS.index(room_of(module)) <= ROOMS.index(own), f"{path} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_no_module_outgrows_its_room(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


def test_every_room_is_in_the_architecture() -> None:
    text = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert all(room in text for room in ROOMS if room != "watch")


def test_the_public_names_are_these_and_each_can_be_had() -> None:
    assert set(twotower.__all__) == {
        *("Config", "Dataset", "Recommendations", "Recommender", "TwoTowerModel"),
        *("ConfigError", "DataError", "RequestError", "RunError", "TwoTowerError"),
        *("evaluate", "fit", "load", "parse_config", "read", "read_config", "save", "train"),
        *("Answer", "Client", "Person", "Recent", "Wish", "answer"),
        *("tune", "write_report", "__version__"),
    }
    assert all(getattr(twotower, name) is not None for name in twotower.__all__)


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys; sys.argv = ['twotower', '--help']\n"
        "from twotower.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'duckdb')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Usage" in done.stdout

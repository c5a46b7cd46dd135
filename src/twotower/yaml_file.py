"""A YAML file -> plain values, or one sentence that says where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from twotower.errors import ConfigError, reason


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key that is there twice; PyYAML would keep the last and drop the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                problem = f"the key {key.value!r} is there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> object:
    """What the file holds; None for nothing.

    Raises:
        ConfigError: no such file, or not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such config file; give the path of a YAML file"
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: can not be read ({reason(error)}); give a YAML text file"
        ) from None
    try:
        return yaml.load(text, _EachKeyOnce)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(
            f"{path}: not valid YAML ({place}{problem}); mend that line"
        ) from None

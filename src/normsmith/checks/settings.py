"""What `[tool.normsmith]` of a pyproject.toml says about checks: which rules, at which level, and where not."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

from normsmith._choices import check_choice, did_you_mean
from normsmith.checks.finding import Finding
from normsmith.checks.registry import chosen_rules
from normsmith.checks.rule import LEVELS, Level
from normsmith.errors import InputError

_KEYS = ("select", "ignore", "level", "per-module-ignores")


@dataclass(frozen=True)
class Settings:
    """Settings of checks.

    - `select`, `ignore`: codes or names of rules, or how codes begin, as `normsmith.check` takes them.
    - `level`: None where nothing is said.
    - `per_module_ignores`: the codes of rules whose findings are suppressed at modules whose path fits a glob.
    - `file`: where they stand; None where there are none.

    >>> settings = Settings(per_module_ignores={"backbone.*": frozenset({"NS404"})})
    >>> from normsmith.checks.finding import Fix
    >>> settings.suppresses(Finding("backbone.norm", "", "", Fix(""), code="NS404"))
    True
    """

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    level: Level | None = None
    per_module_ignores: Mapping[str, frozenset[str]] = field(default_factory=dict)
    file: Path | None = None

    def suppresses(self, finding: Finding) -> bool:
        """Whether a finding does not count because of the module at which it is."""
        return any(
            finding.code in codes and fnmatchcase(path, glob)
            for glob, codes in self.per_module_ignores.items()
            for path in (finding.path, *finding.also)
        )

    def without_module(self, model: nn.Module) -> list[str]:
        """The globs that fit no module of a model: somebody has mistyped them, or they are for another model."""
        paths = [path for path, _ in model.named_modules(remove_duplicate=False)]
        return [
            glob for glob in self.per_module_ignores if not any(fnmatchcase(path, glob) for path in paths)
        ]


def find_settings(folder: Path) -> Settings:
    """The settings of the nearest pyproject.toml that has any, in a folder or one above it; else none.

    Raises:
        InputError: they are not what they should be, with the file, the key, and what is nearest.
    """
    for place in (folder, *folder.parents):
        file = place / "pyproject.toml"
        if file.is_file() and (settings := read_settings(file)) is not None:
            return settings
    return Settings()


def read_settings(file: Path) -> Settings | None:
    """The settings in a pyproject.toml; None where it has no `[tool.normsmith]`.

    Raises:
        InputError: they are not what they should be, with the file, the key, and what is nearest.
    """
    try:
        tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    table = tool.get("normsmith") if isinstance(tool, dict) else None
    if table is None:
        return None
    try:
        return _settings(table, file)
    except InputError as error:
        raise InputError(f"{file}: [tool.normsmith]: {error}") from error


def _settings(table: Any, file: Path) -> Settings:
    if not isinstance(table, dict):
        raise InputError(f"expected a table, got {type(table).__name__}")
    for key in table:
        if key not in _KEYS:
            raise InputError(f"expected {', '.join(_KEYS)}; got {key}{did_you_mean(key, _KEYS)}")
    select, ignore = (_rules(key, table.get(key, [])) for key in ("select", "ignore"))
    if "level" in table:
        check_choice("level", table["level"], LEVELS)
    modules = table.get("per-module-ignores", {})
    if not isinstance(modules, dict):
        raise InputError('per-module-ignores: expected a table such as {"backbone.*" = ["NS404"]}')
    return Settings(
        select,
        ignore,
        table.get("level"),
        {glob: _codes(_rules(f"per-module-ignores: {glob}", rules)) for glob, rules in modules.items()},
        file,
    )


def _rules(key: str, value: Any) -> tuple[str, ...]:
    """A list of codes, names or beginnings of codes, each of which is one."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f'{key}: expected a list such as ["NS4", "stale-statistics"], got {value!r}')
    try:
        chosen_rules(value)
    except InputError as error:
        raise InputError(f"{key}: {error}") from error
    return tuple(value)


def _codes(names: Iterable[str]) -> frozenset[str]:
    """The codes of the rules that are named; none for no names."""
    chosen = tuple(names)
    return frozenset(rule.code for rule in chosen_rules(chosen)) if chosen else frozenset()

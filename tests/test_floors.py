"""Floors and circles: what the import contract does not see."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

SOURCE = Path(__file__).parents[1] / "src"
OF_LIBRARIES = {*dir(nn.BatchNorm1d(1)), *dir(nn.LazyBatchNorm1d), *dir(nn.Parameter), "_mapping"}
"""Attributes of torch's own modules and parameters, and one that SQLAlchemy documents for its rows: not ours."""


@dataclass
class Names:
    """The private names that a floor defines, as functions or in classes, and those that it reads."""

    defined: set[str] = field(default_factory=set)
    read: list[tuple[str, str]] = field(default_factory=list)
    """Where each private name is read, and the name."""


def modules_of(source: Path) -> dict[str, ast.Module]:
    """All modules of a source tree, parsed, by their dotted names."""
    return {
        ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(source.rglob("*.py"))
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def floor_of(module: str) -> str:
    """The part of a dotted name below the package: its floor, or a file that stands beside the floors."""
    return module.split(".")[1] if "." in module else ""


def imports_of(module: str, tree: ast.Module, known: Iterable[str]) -> Iterator[str]:
    """The modules of the package that a module imports, inside functions and for types too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known:
                    yield inner
                elif node.module in known:
                    yield node.module


def circles(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that all import one another, directly or by way of others."""
    reached = {module: reachable(graph, module) for module in graph}
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [*graph[start]]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def import_circles(trees: Mapping[str, ast.Module]) -> set[frozenset[str]]:
    return circles({name: set(imports_of(name, tree, trees)) for name, tree in trees.items()})


def private_names(trees: Mapping[str, ast.Module]) -> dict[str, Names]:
    """What each floor defines and reads of private names."""
    floors: dict[str, Names] = {}
    for module, tree in trees.items():
        names = floors.setdefault(floor_of(module), Names())
        for node in ast.walk(tree):
            where = f"{module}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ClassDef):
                names.defined.update(filter(is_private, attributes_of(node)))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_private(node.name):
                names.defined.add(node.name)
            elif isinstance(node, ast.Attribute) and is_private(node.attr):
                names.read.append((where, node.attr))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_private(node.value):
                names.read.append(
                    (where, node.value)
                )  # getattr, vars() and edits of attributes go by strings
    return floors


def floors_below(trees: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """The floors that each floor imports, directly or by way of others."""
    graph: dict[str, set[str]] = {floor_of(module): set() for module in trees}
    for module, tree in trees.items():
        graph[floor_of(module)] |= {floor_of(other) for other in imports_of(module, tree, trees)}
    return {floor: reachable(graph, floor) for floor in graph}


def attributes_of(kind: ast.ClassDef) -> Iterator[str]:
    """Names that a class defines: its methods and fields, and what its methods assign to `self`."""
    for node in ast.walk(kind):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                yield node.attr
        elif isinstance(node, ast.AnnAssign | ast.Assign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def crossings(trees: Mapping[str, ast.Module]) -> list[str]:
    """Private modules, imported private names and private attributes that cross a floor."""
    found = []
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = base + alias.name
                beside = name.split(".")[2:]  # files beside the floors, such as normsmith._text, are for all
                if name.startswith("normsmith.") and floor_of(name) != floor_of(module):
                    found += [f"{module}:{node.lineno} imports {name}" for part in beside if is_private(part)]
    floors, below = private_names(trees), floors_below(trees)
    for floor, names in floors.items():
        others = {name for other in below[floor] - {floor} for name in floors[other].defined}
        found += [
            f"{where} reads {name} of another floor than {floor or 'the package'}"
            for where, name in names.read
            if name in others and name not in names.defined and name not in OF_LIBRARIES
        ]
    return found


def planted(**files: str) -> dict[str, ast.Module]:
    """Modules of the package with this source, by their names with two underscores for a dot."""
    return {f"normsmith.{name.replace('__', '.')}": ast.parse(text) for name, text in files.items()}


def test_nothing_private_crosses_a_floor() -> None:
    assert crossings(modules_of(SOURCE)) == []


def test_a_planted_crossing_is_caught() -> None:
    trees = planted(
        layers__norm="class Norm:\n    def __init__(self):\n        self._kept = self._own()\n"
        "    def _own(self): ...\n    _field: int = 0\n",
        layers__neighbour="from normsmith.layers._inner import _x\nprint(norm._kept)",
        surgery__a="from normsmith.layers._inner import x",
        surgery__b="from normsmith.layers.norm import _helper",
        surgery__c="norm._kept\nnorm._own()\nnorm._field\nnorm._buffers",
        surgery__d="import normsmith.layers.norm\ngetattr(norm, '_kept')",
        surgery__e="from normsmith._text import count\nfrom normsmith import _text",
    )
    assert sorted(line.partition(" ")[0] for line in crossings(trees)) == [
        "normsmith.surgery.a:1",
        "normsmith.surgery.b:1",
        "normsmith.surgery.c:1",
        "normsmith.surgery.c:2",
        "normsmith.surgery.c:3",
        "normsmith.surgery.d:2",
    ]


def test_modules_import_one_another_in_no_circle() -> None:
    """Imports inside functions and imports for types are counted."""
    assert import_circles(modules_of(SOURCE)) == set()


def test_a_planted_circle_is_caught() -> None:
    trees = planted(
        a="def late():\n    from normsmith import b",
        b="if TYPE_CHECKING:\n    from normsmith.c import C",
        c="import normsmith.a",
        d="from normsmith.a import late",
    )
    assert import_circles(trees) == {frozenset({"normsmith.a", "normsmith.b", "normsmith.c"})}

"""Which files a user's code imports statically: read from its source, without running or importing anything."""

from __future__ import annotations

import ast
import os
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, ModuleType

_LIBRARIES = tuple(
    Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")
)
_INSTALLED = re.compile(r"[\\/](python[\d.]*|Lib)[\\/]\w+-packages[\\/]")
"""Where other environments keep packages, such as the system's Python below a virtual environment."""
_GENERATED = re.compile(r"[\\/](torchinductor_[^\\/]*|\.triton|torch_extensions)[\\/]")
"""Where torch keeps what it compiled from code that counts already."""
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR")
_OURS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class UserFile:
    """A file of the user's code: the name it is imported by, and the package that its relative imports start from."""

    path: Path
    name: str = ""
    package: str = ""

    @classmethod
    def of(cls, module: ModuleType) -> UserFile | None:
        """The file of a module; None if it has none, or a library's."""
        file = getattr(module, "__file__", None)
        if file is None or is_library_file(file):
            return None
        return cls(Path(file).resolve(), module.__name__, module.__package__ or "")

    def code(self) -> CodeType | bytes:
        """All that it does, compiled, so that comments and formatting do not count; bytes of what is no Python."""
        tree = _tree(self.path)
        return self.path.read_bytes() if tree is None else _compiled(tree.body)

    def actions(self) -> CodeType | None:
        """What importing it does beside defining and importing: that may change anything; None if nothing."""
        tree = _tree(self.path)
        body = [] if tree is None else [each for each in tree.body if _acts(each)]
        return _compiled(body) if body else None

    def imports(self) -> Iterator[UserFile]:
        """The user's files that its import statements name, those within functions and packages on the way included."""
        tree = _tree(self.path)
        for name in () if tree is None else _names(tree, self.package):
            for module, spec in _specs(name):
                if spec.has_location and spec.origin is not None:
                    package = module if spec.submodule_search_locations is not None else spec.parent or ""
                    yield UserFile(Path(spec.origin).resolve(), module, package)


def imported(files: Iterable[UserFile]) -> dict[Path, UserFile]:
    """Every user's file that is imported from `files`, by them or by one another, in no order."""
    reached: dict[Path, UserFile] = {}
    waiting = [*files]
    while waiting:
        for file in waiting.pop().imports():
            if file.path not in reached:
                reached[file.path] = file
                waiting.append(file)
    return reached


@cache
def is_library_file(file: str | Path) -> bool:
    """Whether a file belongs to Python or an installed package, normsmith included, or is code that torch generated."""
    path = Path(file).resolve()
    caches = (Path(os.environ[name]).resolve() for name in _CACHES if os.environ.get(name))
    return any(each.search(str(path)) for each in (_INSTALLED, _GENERATED)) or any(
        path.is_relative_to(folder) for folder in (*_LIBRARIES, _OURS, *caches)
    )


def _tree(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return None


def _compiled(body: list[ast.stmt]) -> CodeType:
    return compile(ast.Module(body, type_ignores=[]), "", "exec", dont_inherit=True)


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement of a module does more than define a name, which counts where it is used, or import."""
    match statement:
        case ast.Expr(ast.Constant()) | ast.Import() | ast.ImportFrom():
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.AnnAssign(target=ast.Name()):
            return False
        case ast.Assign(targets=targets):
            return not all(isinstance(target, ast.Name) for target in targets)
        case ast.If(test=ast.Compare(left=ast.Name("__name__"))):  # what a script does when it is started
            return False
    return True


def _names(tree: ast.Module, package: str) -> Iterator[str]:
    """The modules that import statements anywhere in a file may name, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = resolve_name("." * node.level + (node.module or ""), package)
            except ImportError:  # out of the package, or no package: running it would fail
                continue
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _specs(name: str) -> Iterator[tuple[str, ModuleSpec]]:
    """A user's module and the packages around it, outermost first, as far as they exist."""
    full, locations = "", None
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        spec = _spec(full, locations)
        if spec is None or (spec.origin is not None and is_library_file(spec.origin)):
            return
        yield full, spec
        locations = spec.submodule_search_locations
        if locations is None:
            return


def _spec(name: str, locations: Iterable[str] | None) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which would import the packages around a module."""
    if name in sys.stdlib_module_names or name == "normsmith":
        return None
    known: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if known is not None:
        return known
    folders = None if locations is None else [*locations]
    finders = (finder.find_spec for finder in sys.meta_path if hasattr(finder, "find_spec"))
    return next((spec for find in finders if (spec := find(name, folders)) is not None), None)

"""No private name of torch stands outside of the one package for them, and each there is tested."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

import normsmith
from normsmith import _torch

SOURCES = Path(normsmith.__file__).parent

OF_MODULES = {name for name in vars(nn.Module()) if name.startswith("_")} | {
    *("_compiled_call_impl", "_orig_mod", "_initialize_hook", "_load_hook", "_call_impl", "_get_name"),
    *("_named_members", "_save_to_state_dict", "_register_state_dict_hook"),
    *("_register_load_state_dict_pre_hook", "_replicate_for_data_parallel"),
}
OF_OTHERS = {
    *("_version", "_base", "_is_view", "_make_subclass", "_make_wrapper_subclass", "_cdata"),
    *("_get_backend", "_timeout", "_dynamo_marked_constant", "_current_level"),
    *("_C", "_functorch", "_pytree", "_dynamo", "_inductor", "_subclasses", "_library"),
}
"""Of tensors, process groups, functions that are compiled, forward-mode autograd; torch's private modules."""
OVERRIDDEN = {"_apply", "_load_from_state_dict"}
OURS = {(f"studies/executors/{name}.py", "self._timeout") for name in ("local", "remote")}
"""Attributes of our own classes that are called like one of torch's."""


def private_names(source: str) -> Iterator[str]:
    """The private names of torch that a source uses: imports, attributes, and strings that are such names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            used = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            used = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            used = [_dotted(node)]
            if node.attr in OVERRIDDEN and ast.unparse(node.value) != "super()":
                yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            used = [node.value.rstrip(".")]
        else:
            continue
        yield from filter(_is_private, used)


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as it is written; what is called or computed counts as an empty name."""
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _is_private(name: str) -> bool:
    first, *rest = name.split(".")
    last = rest[-1] if rest else first
    private = any(part.startswith("_") and not part.startswith("__") for part in rest)
    return last in OF_MODULES | OF_OTHERS or (first in ("torch", "functorch") and private)


def test_no_private_name_of_torch_stands_outside_of_the_one_package() -> None:
    misplaced = {
        (path, name)
        for file in SOURCES.rglob("*.py")
        if not (path := file.relative_to(SOURCES).as_posix()).startswith("_torch/")
        for name in private_names(file.read_text(encoding="utf-8"))
    }
    assert misplaced - OURS == set()
    assert misplaced >= OURS  # or the exception can go


@pytest.mark.parametrize(
    "planted",
    [
        "import torch._dynamo",
        "from torch._C import x",
        "from torch.utils._pytree import tree_map",
        "from torch.utils import _pytree",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "torch._C._increment_version(x)",
        "torch.autograd.forward_ad._current_level",
        "module._parameters",
        "self._buffers['mean'] = x",
        "vars(module)['_forward_hooks']",
        "getattr(module, '_modules')",
        "x._version",
        "group._get_backend(device).options._timeout",
        "module._apply(f)",
        "'torch._dynamo' in sys.modules",
        "prefix = '_orig_mod.'",
    ],
)
def test_a_private_name_of_torch_is_noticed(planted: str) -> None:
    assert list(private_names(planted))


@pytest.mark.parametrize(
    "innocent",
    [
        "torch.nn.Module",
        "self._pinned",
        "super()._apply(f)",
        "'a torch._C in a sentence'",
        "torch.__version__",
    ],
)
def test_other_names_are_left_alone(innocent: str) -> None:
    assert not list(private_names(innocent))


def test_each_function_of_the_package_is_tested_and_says_what_it_needs() -> None:
    functions = {name: value for name, value in vars(_torch).items() if inspect.isfunction(value)}
    assert functions
    for name, function in functions.items():
        module = function.__module__.removeprefix("normsmith._torch.")
        tests = Path(__file__).parent / "_torch" / f"test_{module}.py"
        assert f"_torch.{name}(" in tests.read_text(encoding="utf-8"), name
        assert "Needs" in (function.__doc__ or ""), name


def test_what_the_package_offers_is_all_that_its_files_hold() -> None:
    offered = {
        name
        for file in (SOURCES / "_torch").glob("[!_]*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        for name in _defined(node)
        if not name.startswith("_")
    }
    assert set(_torch.__all__) == offered


def _defined(node: ast.stmt) -> list[str]:
    """The names that a statement of a module defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = (
        node.targets
        if isinstance(node, ast.Assign)
        else [node.target]
        if isinstance(node, ast.AnnAssign)
        else []
    )
    return [target.id for target in targets if isinstance(target, ast.Name)]

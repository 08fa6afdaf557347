"""What the source code of a class's forward reads and calls, as chains of names that begin at `self`."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

Chain = tuple[str, ...]
"""Names from `self` on: of `self.layers[0].norm` they are "layers", `ANY` and "norm"."""
ANY = "*"
"""The step from a container to whatever is in it, by a subscript or a loop."""
_Given = tuple[tuple[str, frozenset[Chain]], ...]
_MOST_STEPS = 12
"""Chains do not get longer: a loop such as `node = node.next` has no end."""


@dataclass(frozen=True, order=True)
class Access:
    """What is at the end of a chain is called, or its attribute `name` is read."""

    chain: Chain
    name: str
    is_call: bool = False


_SEEN: WeakKeyDictionary[type[nn.Module], tuple[Access, ...]] = WeakKeyDictionary()


def accesses(kind: type[nn.Module]) -> tuple[Access, ...]:
    """All that the forward of a class reads and calls, in the methods and functions that it calls too.

    >>> [access.name for access in accesses(nn.Linear)]
    ['bias', 'weight']
    """
    if kind not in _SEEN:
        looking = _Looking(kind)
        looking.at(kind.forward, (frozenset({()}),))
        _SEEN[kind] = tuple(sorted(looking.seen))
    return _SEEN[kind]


class _Looking:
    """Goes through the functions that a class's forward leads to, each once for the chains that it is given."""

    def __init__(self, kind: type[nn.Module]) -> None:
        self.kind = kind
        self.seen: set[Access] = set()
        self._done: set[tuple[Any, _Given]] = set()

    def at(self, function: Any, arguments: Iterable[frozenset[Chain]], **named: frozenset[Chain]) -> None:
        """Look at a function that is called with modules, or what contains some, at these chains."""
        function = inspect.unwrap(function)
        definition = _definition(function) if isinstance(function, FunctionType) else None
        if definition is None:
            return
        names = [argument.arg for argument in (*definition.args.posonlyargs, *definition.args.args)]
        given = {**dict(zip(names, arguments, strict=False)), **named}
        key = tuple(sorted((name, chains) for name, chains in given.items() if chains))
        if (function, key) not in self._done:
            self._done.add((function, key))
            _Body(self, function, given).look_at(definition)

    def method(self, name: str, *, inherited: bool) -> Iterator[Any]:
        """The functions behind a name of the class: a method, or a property's; all that it inherits, for `super()`."""
        classes = [c for c in self.kind.__mro__ if c not in (nn.Module, object) and name in vars(c)]
        for owner in classes if inherited else classes[:1]:
            value = vars(owner)[name]
            yield getattr(value, "fget", None) or getattr(value, "__func__", value)


class _Body:
    """One function's code: which chains its variables stand for, and what it does with them."""

    def __init__(self, looking: _Looking, function: FunctionType, given: dict[str, frozenset[Chain]]) -> None:
        self._looking, self._function = looking, function
        self._variables = defaultdict[str, set[Chain]](
            set, {name: set(chains) for name, chains in given.items()}
        )

    def look_at(self, definition: ast.AST) -> None:
        nodes = list(ast.walk(definition))
        for _ in range(2):  # a variable may be used, in a loop, before the line that sets it
            for node in nodes:
                self._set(node)
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                self._read(node)
            elif isinstance(node, ast.Call):
                self._call(node)

    def _set(self, node: ast.AST) -> None:
        """Note what a variable stands for after an assignment, a loop or a comprehension."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, (ast.NamedExpr, ast.AnnAssign)) and node.value is not None:
            self._bind(node.target, node.value)
        elif isinstance(node, (ast.For, ast.comprehension)):
            self._loop(node.target, node.iter)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._variables[target.id] |= self._chains(value)
        elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._bind(one, its)

    def _loop(self, target: ast.expr, over: ast.expr) -> None:
        """Bind the variables of a loop to what is in the containers that it goes over."""
        if isinstance(over, ast.Call) and isinstance(target, ast.Tuple):
            name = _name(over.func)
            if name in ("zip", "enumerate", "items", "named_children", "named_modules"):
                inner = over.func.value if isinstance(over.func, ast.Attribute) else None
                parts = over.args if name == "zip" else [None, *over.args] if inner is None else [None, inner]
                for one, its in zip(target.elts, parts, strict=False):
                    if its is not None:
                        self._loop(one, its)
                return
        if isinstance(over, (ast.List, ast.Tuple)):
            for element in over.elts:
                self._bind(target, element)
        elif isinstance(target, ast.Name):
            if isinstance(over, ast.Call) and _name(over.func) in ("values", "children", "modules"):
                over = over.func.value if isinstance(over.func, ast.Attribute) else over
            elif isinstance(over, ast.Call) and _name(over.func) in ("reversed", "list", "tuple", "iter"):
                over = over.args[0] if over.args else over
            self._variables[target.id] |= {(*chain, ANY) for chain in self._chains(over)}

    def _chains(self, value: ast.expr) -> frozenset[Chain]:
        """The chains that an expression may stand for; none where it is nothing that `self` leads to."""
        chains: Iterable[Chain] = ()
        if isinstance(value, ast.Name):
            chains = self._variables.get(value.id, ())
        elif isinstance(value, ast.Attribute):
            chains = ((*chain, value.attr) for chain in self._chains(value.value))
        elif isinstance(value, ast.Subscript):
            chains = ((*chain, ANY) for chain in self._chains(value.value))
        elif isinstance(value, ast.IfExp):
            chains = self._chains(value.body) | self._chains(value.orelse)
        elif isinstance(value, ast.NamedExpr):
            chains = self._chains(value.value)
        elif isinstance(value, ast.Call) and _name(value.func) == "getattr" and len(value.args) > 1:
            name = value.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                chains = ((*chain, name.value) for chain in self._chains(value.args[0]))
        return frozenset(chain for chain in chains if len(chain) <= _MOST_STEPS)

    def _read(self, node: ast.Attribute) -> None:
        for chain in self._chains(node.value):
            self._looking.seen.add(Access(chain, node.attr))
            if not chain:
                for function in self._looking.method(node.attr, inherited=False):
                    if isinstance(vars(self._looking.kind).get(node.attr), property):
                        self._looking.at(function, (frozenset({()}),))

    def _call(self, node: ast.Call) -> None:
        """Note what is called, and look at the method or function that is."""
        arguments = [self._chains(argument) for argument in node.args]
        named = {k.arg: self._chains(k.value) for k in node.keywords if k.arg is not None}
        func = node.func
        if _name(func) == "getattr" and len(node.args) > 1:
            for chain in self._chains(node):
                self._looking.seen.add(Access(chain[:-1], chain[-1]))
        elif isinstance(func, ast.Attribute) and (() in self._chains(func.value) or _is_super(func.value)):
            for function in self._looking.method(func.attr, inherited=_is_super(func.value)):
                self._looking.at(function, (frozenset({()}), *arguments), **named)
        elif isinstance(func, ast.Name) and (any(arguments) or any(named.values())):
            function = self._function.__globals__.get(func.id, getattr(builtins, func.id, None))
            if isinstance(function, FunctionType):
                self._looking.at(function, arguments, **named)
        for chain in self._chains(func):
            self._looking.seen.add(Access(chain, "", is_call=True))


def _name(function: ast.expr) -> str:
    """The last name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_super(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and _name(value.func) == "super"


@cache
def _definition(function: FunctionType) -> ast.FunctionDef | None:
    """The syntax tree of a function; None without source code."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    first = tree.body[0] if tree.body else None
    return first if isinstance(first, ast.FunctionDef) else None

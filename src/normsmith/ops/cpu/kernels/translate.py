"""Parts of kernels, from Python's syntax straight to LLVM's code.

Numba's own way from Python to LLVM is general, and half of what a user's first step waited for. Kernels need little of
it, so each part is translated here in one visit of its syntax tree, into a function inside of the kernel. What numba
still does is what it does well: the optimiser, machine code, and the cache on disk.

A part may assign names (whose types are those of the first assignment), tuples, and slots; compute with integers,
floats and conditions; and use `if`, `for … in range(…)` with steps above 0, and `return`. Functions, types, `None` and
all that stands outside of the part are known when it is translated: a branch that such a condition excludes does not
exist. Numbers that are divided by // and % are not negative. Where an operand is 16 numbers side by side (`Lanes`), the
operation is done with each of them; `one if condition else other` then chooses number by number, and `if` refuses.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import textwrap
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy import float32, float64, int64

from normsmith.ops.cpu.kernels.arguments import LANES

_DEFINITIONS: dict[Any, Callable[..., Any]] = {}
_I1, _I64 = ir.IntType(1), ir.IntType(64)
_MEMORY = {
    types.int64: _I64,
    types.boolean: _I1,
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
}
_CLASSES = {int64: types.int64, float32: types.float32, float64: types.float64}
_Types = tuple[Any, ...]


class Lanes(types.Type):  # type: ignore[misc]  # numba has no types
    """16 numbers of a type, side by side."""

    def __init__(self, of: Any) -> None:
        self.of = of
        super().__init__(name=f"lanes of {of}")


def primitive(define: Callable[..., Any]) -> Any:
    """An operation that parts call, and numba too: `define(typing, *types)` gives its signature and what emits it."""
    made = intrinsic(define)
    _DEFINITIONS[made] = define
    return made


def part(function: Any) -> Any:
    """A function in the syntax that this file translates, which parts and numba's own functions call.

    It stays a function of its own: the compiler takes half as long as where it may copy one into others.
    """
    return _translated(function, "noinline")


def inlined(function: Any) -> Any:
    """As `part`, but copied into those that call it, for what is called once for each channel."""
    return _translated(function, "alwaysinline")


def _translated(function: FunctionType, attribute: str) -> Any:
    def define(typing: Any, *given: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _call(function, attribute, context, builder, signature, arguments)

        given = tuple(types.unliteral(kind) for kind in given)
        return _returned(function, given)(*given), generate

    there = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    own = inspect.signature(function).parameters.values()
    define.__signature__ = inspect.Signature([there, *own])  # type: ignore[attr-defined]
    define.__name__ = function.__name__
    return primitive(define)


class _Value(NamedTuple):
    """A number that the kernel computes, or the slots at an address."""

    type: Any
    ir: Any


class _Variable(NamedTuple):
    """A name's place on the stack."""

    type: Any
    at: Any


_FUNCTIONS: WeakKeyDictionary[ir.Module, dict[Any, ir.Function]] = WeakKeyDictionary()


def _call(
    function: FunctionType, attribute: str, context: Any, builder: Any, signature: Any, arguments: Any
) -> Any:
    """Call a part from the code of another one, or from numba's; it is translated when a module calls it first."""
    made, key = _FUNCTIONS.setdefault(builder.module, {}), (function, signature.args)
    if key not in made:
        name = f"{builder.module.name}.{function.__name__}.{len(made)}"
        translation = _Translation(
            function, context, builder.module, name, signature.args, signature.return_type
        )
        translation.function.attributes.add(attribute)
        made[key] = translation.function
    given = []
    for kind, argument in zip(signature.args, arguments, strict=True):
        if isinstance(kind, types.Array) and not isinstance(argument.type, ir.PointerType):
            argument = context.make_array(kind)(context, builder, argument).data  # noqa: PLW2901 — from numba
        if not _is_known(kind):
            given.append(argument)
    result = builder.call(made[key], given)
    return context.get_dummy_value() if signature.return_type == types.void else result


def _returned(function: FunctionType, given: _Types) -> Any:
    """The type of what a part returns: it is translated for once into a module that nobody uses."""
    tree = _tree(function)
    if not any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(tree)):
        return types.void
    return _Translation(function, None, ir.Module(), function.__name__, given, None).returns


def _is_known(kind: Any) -> bool:
    """Whether a type says all about its values, so that none are passed."""
    return isinstance(kind, (types.NoneType, types.NumberClass))


_TREES: dict[Any, ast.FunctionDef] = {}


def _tree(function: FunctionType) -> ast.FunctionDef:
    code = function.__code__
    if code not in _TREES:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(code))).body
        assert isinstance(tree, ast.FunctionDef)
        _TREES[code] = tree
    return _TREES[code]


class _Translation(ast.NodeVisitor):
    """One part for arguments of some types, as a function of a module.

    Expressions become values that the kernel computes, tuples of such, or what is known already: any other object.
    """

    def __init__(
        self, function: FunctionType, context: Any, module: ir.Module, name: str, given: _Types, returns: Any
    ) -> None:
        self._context, self.returns = context, returns
        self._outside = {**vars(builtins), **function.__globals__}
        for cell, held in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self._outside[cell] = held.cell_contents
        passed = [kind for kind in given if not _is_known(kind)]
        result = ir.VoidType() if returns in (None, types.void) else _lowered(returns)
        self.function = ir.Function(
            module, ir.FunctionType(result, [_lowered(kind) for kind in passed]), name
        )
        self.function.linkage = "internal"
        entry, body = (self.function.append_basic_block(each) for each in ("entry", "body"))
        ir.IRBuilder(entry).branch(body)
        self._builder = ir.IRBuilder(body)
        self._names: dict[str, Any] = {}
        arguments, tree = iter(self.function.args), _tree(function)
        for argument, kind in zip(tree.args.args, given, strict=True):
            self._names[argument.arg] = _known(kind) if _is_known(kind) else _Value(kind, next(arguments))
        self._block(tree.body)
        if not self._builder.block.is_terminated:
            self._builder.ret_void()

    def generic_visit(self, node: ast.AST) -> Any:
        """Refuse what is not translated."""
        raise NotImplementedError(f"{self.function.name}: {ast.unparse(node)}")

    # statements

    def _block(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            if self._builder.block.is_terminated:
                return
            self.visit(statement)

    def visit_Expr(self, node: ast.Expr) -> None:
        self.visit(node.value) if not isinstance(node.value, ast.Constant) else None

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.visit(node.value)
        for target in node.targets:
            self._assign(target, value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        assert isinstance(node.target, ast.Name)
        there = self.visit(ast.Name(node.target.id, ast.Load()))
        self._assign(node.target, self._binary(node, there, self.visit(node.value)))

    def _assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Tuple):
            for each, part_of_value in zip(target.elts, value, strict=True):
                self._assign(each, part_of_value)
        elif isinstance(target, ast.Subscript):
            array = self.visit(target.value)
            stored = self._cast(value, array.type.dtype).ir
            self._builder.store(
                stored, self._builder.gep(array.ir, [self._as_value(self.visit(target.slice)).ir])
            )
        else:
            assert isinstance(target, ast.Name)
            self._names[target.id] = self._keep(self._names.get(target.id), value, target.id)

    def _keep(self, variable: Any, value: Any, name: str) -> Any:
        """Write a value, or each of a tuple, to its variable, which is made if there is none."""
        if isinstance(value, tuple) and not isinstance(value, _Value):
            olds = variable or (None,) * len(value)
            return tuple(self._keep(old, each, name) for old, each in zip(olds, value, strict=True))
        value = self._as_value(value)
        if not isinstance(variable, _Variable):
            with self._builder.goto_entry_block():
                variable = _Variable(value.type, self._builder.alloca(_in_memory(value.type), name=name))
        self._builder.store(self._cast(value, variable.type).ir, variable.at)
        return variable

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            self._builder.ret_void()
            return
        value = self.visit(node.value)
        if isinstance(value, _Value) or not isinstance(value, tuple):
            value = self._as_value(value)
            self.returns = self.returns or value.type
            self._builder.ret(self._cast(value, self.returns).ir)
            return
        values = [self._as_value(each) for each in value]
        self.returns = self.returns or types.Tuple([each.type for each in values])
        packed = ir.Constant(_lowered(self.returns), ir.Undefined)
        for i, each in enumerate(values):
            packed = self._builder.insert_value(packed, self._cast(each, self.returns[i]).ir, i)
        self._builder.ret(packed)

    def visit_If(self, node: ast.If) -> None:
        condition = self._condition(node.test)
        if not isinstance(condition, _Value):
            self._block(node.body if condition else node.orelse)
            return
        if isinstance(condition.type, Lanes):
            self.generic_visit(node)
        yes, no, after = (self._builder.append_basic_block() for _ in range(3))
        self._builder.cbranch(condition.ir, yes, no)
        for block, statements in ((yes, node.body), (no, node.orelse)):
            self._builder.position_at_end(block)
            self._block(statements)
            if not self._builder.block.is_terminated:
                self._builder.branch(after)
        self._builder.position_at_end(after)

    def visit_For(self, node: ast.For) -> None:
        assert isinstance(node.iter, ast.Call) and not node.orelse  # noqa: PT018
        bounds = [self._as_value(self.visit(each)).ir for each in node.iter.args]
        first, stop = (_I64(0), bounds[0]) if len(bounds) == 1 else bounds[:2]
        step = bounds[2] if len(bounds) > 2 else _I64(1)
        builder = self._builder
        check, body, after = (builder.append_basic_block() for _ in range(3))
        with builder.goto_entry_block():
            counter = builder.alloca(_I64)
        builder.store(first, counter)
        builder.branch(check)
        builder.position_at_end(check)
        builder.cbranch(builder.icmp_signed("<", builder.load(counter), stop), body, after)
        builder.position_at_end(body)
        self._assign(node.target, _Value(types.int64, builder.load(counter)))
        self._block(node.body)
        if not builder.block.is_terminated:
            builder.store(builder.add(builder.load(counter), step), counter)
            builder.branch(check)
        builder.position_at_end(after)

    # expressions

    def visit_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def visit_Name(self, node: ast.Name) -> Any:
        return self._read(self._names[node.id]) if node.id in self._names else self._outside[node.id]

    def _read(self, held: Any) -> Any:
        if isinstance(held, _Variable):
            return _Value(held.type, self._builder.load(held.at))
        if isinstance(held, tuple) and not isinstance(held, _Value):
            return tuple(self._read(each) for each in held)
        return held

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        owner = self.visit(node.value)
        assert isinstance(owner, ModuleType)
        return getattr(owner, node.attr)

    def visit_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(self.visit(each) for each in node.elts)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        of, index = self.visit(node.value), self.visit(node.slice)
        if not isinstance(of, _Value):
            return of[index]
        at = self._builder.gep(of.ir, [self._as_value(index).ir])
        return _Value(of.type.dtype, self._builder.load(at))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            condition = self._condition(node.operand)
            if isinstance(condition, _Value):
                return _Value(condition.type, self._builder.not_(condition.ir))
            return not condition
        assert isinstance(node.op, ast.USub)
        value = self.visit(node.operand)
        if not isinstance(value, _Value):
            return -value
        negated = self._builder.neg if value.type == types.int64 else self._builder.fneg
        return _Value(value.type, negated(value.ir))

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        return self._binary(node, self.visit(node.left), self.visit(node.right))

    def _binary(self, node: ast.BinOp | ast.AugAssign, one: Any, other: Any) -> Any:
        operator = node.op
        if type(operator) not in _INSTRUCTIONS:
            self.generic_visit(node)
        if not isinstance(one, _Value) and not isinstance(other, _Value):
            return _FOLDED[type(operator)](one, other)
        kind = _common(self._as_value(one).type, self._as_value(other).type)
        if isinstance(operator, ast.Div) and kind == types.int64:
            kind = types.float64
        one, other = self._cast(one, kind).ir, self._cast(other, kind).ir
        of_integers, of_floats = _INSTRUCTIONS[type(operator)]
        name = of_integers if kind == types.int64 else of_floats
        return _Value(kind, getattr(self._builder, name)(one, other))

    def visit_Compare(self, node: ast.Compare) -> Any:
        (operator,), (right,) = node.ops, node.comparators
        one, other = self.visit(node.left), self.visit(right)
        if isinstance(operator, (ast.Is, ast.IsNot)):
            return (one is other) == isinstance(operator, ast.Is)
        sign = _SIGNS[type(operator)]
        one, other = self._as_value(one), self._as_value(other)
        kind = _common(one.type, other.type)
        one, other = self._cast(one, kind).ir, self._cast(other, kind).ir
        if kind in (types.int64, types.boolean):
            return _Value(types.boolean, self._builder.icmp_signed(sign, one, other))
        compare = self._builder.fcmp_unordered if sign == "!=" else self._builder.fcmp_ordered
        return _Value(_condition_on(kind), compare(sign, one, other))

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        first, *others = node.values
        rest = others[0] if len(others) == 1 else ast.BoolOp(node.op, others)
        if isinstance(node.op, ast.And):
            return self._choose(first, lambda: self._condition(rest), lambda: False)
        return self._choose(first, lambda: True, lambda: self._condition(rest))

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        return self._choose(node.test, lambda: self.visit(node.body), lambda: self.visit(node.orelse))

    def _choose(self, test: ast.expr, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
        """One of two expressions; only that one is computed, but where each lane has a condition of its own."""
        condition = self._condition(test)
        if not isinstance(condition, _Value):
            return one() if condition else other()
        builder, ends = self._builder, []
        if isinstance(condition.type, Lanes):
            values = [self._as_value(expression()) for expression in (one, other)]
            kind = _common(*(value.type for value in values))
            kind = kind if isinstance(kind, Lanes) else Lanes(kind)
            chosen = builder.select(condition.ir, *(self._cast(value, kind).ir for value in values))
            return _Value(kind, chosen)
        blocks = [builder.append_basic_block() for _ in range(2)]
        builder.cbranch(condition.ir, *blocks)
        for block, expression in zip(blocks, (one, other), strict=True):
            builder.position_at_end(block)
            value = self._as_value(expression())
            ends.append((value, builder.block))
        kind, after = _common(*(value.type for value, _ in ends)), builder.append_basic_block()
        incoming = []
        for value, block in ends:
            builder.position_at_end(block)
            incoming.append((self._cast(value, kind).ir, block))
            builder.branch(after)
        builder.position_at_end(after)
        chosen = builder.phi(_in_memory(kind))
        for value, block in incoming:
            chosen.add_incoming(value, block)
        return _Value(kind, chosen)

    def visit_Call(self, node: ast.Call) -> Any:
        called, given = self.visit(node.func), [self.visit(each) for each in node.args]
        if isinstance(called, types.NumberClass) or called in _CLASSES:
            to = called.dtype if isinstance(called, types.NumberClass) else _CLASSES[called]
            several = isinstance(self._as_value(given[0]).type, Lanes)
            return self._cast(given[0], Lanes(to) if several else to)
        if called in (min, max):
            return self._extreme("<" if called is min else ">", *given)
        if called in (math.sqrt, math.isfinite):
            value = self._as_value(given[0])
            value = self._cast(value, types.float64) if value.type == types.int64 else value
            return self._root(value) if called is math.sqrt else self._is_finite(value)
        return self._primitive(_DEFINITIONS[called], given)

    def _root(self, value: _Value) -> _Value:
        name, element = "llvm.sqrt", value.ir.type
        if isinstance(value.type, Lanes):  # llvmlite has names for types of single numbers
            name, element = (
                f"{name}.v{LANES}{element.element.intrinsic_name}",
                ir.FunctionType(element, [element]),
            )
            root = cgutils.get_or_insert_function(self._builder.module, element, name)
        else:
            root = self._builder.module.declare_intrinsic(name, [element])
        return _Value(value.type, self._builder.call(root, [value.ir]))

    def _is_finite(self, value: _Value) -> _Value:
        nothing = self._builder.fsub(value.ir, value.ir)
        return _Value(_condition_on(value.type), self._builder.fcmp_ordered("ord", nothing, nothing))

    def _primitive(self, define: Callable[..., Any], given: list[Any]) -> Any:
        signature, generate = define(None, *(_type_of(each) for each in given))
        arguments = [
            None if _is_known(kind) else self._cast(each, kind).ir
            for each, kind in zip(given, signature.args, strict=True)
        ]
        result = generate(self._context or _NoContext, self._builder, signature, arguments)
        kind = signature.return_type
        if kind == types.void:
            return None
        if isinstance(kind, types.BaseTuple):
            return tuple(_Value(each, self._builder.extract_value(result, i)) for i, each in enumerate(kind))
        return _Value(kind, result)

    def _extreme(self, sign: str, one: Any, other: Any) -> Any:
        if not isinstance(one, _Value) and not isinstance(other, _Value):
            return min(one, other) if sign == "<" else max(one, other)
        one, other = self._cast(one, types.int64).ir, self._cast(other, types.int64).ir
        return _Value(
            types.int64, self._builder.select(self._builder.icmp_signed(sign, other, one), other, one)
        )

    # types

    def _condition(self, node: ast.expr) -> Any:
        """Whether an expression is true: known already, or as a value."""
        value = self.visit(node)
        if not isinstance(value, _Value) or value.type in (types.boolean, Lanes(types.boolean)):
            return value
        return _Value(types.boolean, self._builder.icmp_signed("!=", value.ir, _I64(0)))

    def _as_value(self, known: Any) -> _Value:
        if isinstance(known, _Value):
            return known
        kind = _type_of(known)
        return _Value(kind, ir.Constant(_MEMORY[kind], known))

    def _cast(self, value: Any, to: Any) -> _Value:
        given, builder = self._as_value(value), self._builder
        if given.type == to or isinstance(to, types.Array):
            return given
        if isinstance(to, Lanes) and not isinstance(given.type, Lanes):
            return _Value(to, splat(builder, self._cast(given, to.of).ir))
        lowered, several = _in_memory(to), isinstance(to, Lanes)
        kinds = (given.type.of, to.of) if several else (given.type, to)
        if kinds == (types.float32, types.float64):
            return _Value(to, builder.fpext(given.ir, lowered))
        if kinds == (types.float64, types.float32):
            return _Value(to, builder.fptrunc(given.ir, lowered))
        if kinds[0] == types.int64 and kinds[1] in (types.float32, types.float64):
            return _Value(to, builder.sitofp(given.ir, lowered))
        if kinds == (types.boolean, types.int64):
            return _Value(to, builder.zext(given.ir, lowered))
        raise NotImplementedError(f"{self.function.name}: {given.type} as {to}")


def splat(builder: Any, value: Any) -> Any:
    """A vector that holds a value 16 times."""
    none = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(none, value, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _common(one: Any, other: Any) -> Any:
    """The type in which values of two are combined: that of both; else that of integers, or float64."""
    if isinstance(one, Lanes) or isinstance(other, Lanes):
        return Lanes(_common(getattr(one, "of", one), getattr(other, "of", other)))
    if one == other:
        return one
    return types.float64 if {one, other} & {types.float32, types.float64} else types.int64


def _condition_on(kind: Any) -> Any:
    """The type of a condition on values of a type."""
    return Lanes(types.boolean) if isinstance(kind, Lanes) else types.boolean


class _NoContext:
    """Stands for numba's context where only types are asked for."""

    @staticmethod
    def get_dummy_value() -> Any:
        return None


_SIGNS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
_INSTRUCTIONS = {
    ast.Add: ("add", "fadd"),
    ast.Sub: ("sub", "fsub"),
    ast.Mult: ("mul", "fmul"),
    ast.Div: ("", "fdiv"),
    ast.FloorDiv: ("udiv", ""),
    ast.Mod: ("urem", ""),
    ast.BitAnd: ("and_", ""),
}
"""Of integers, and of floats."""
_FOLDED: dict[Any, Callable[[Any, Any], Any]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: one / other,
    ast.FloorDiv: lambda one, other: one // other,
    ast.Mod: lambda one, other: one % other,
    ast.BitAnd: lambda one, other: one & other,
}


def _type_of(value: Any) -> Any:
    """Numba's type of a value, or of what is known."""
    if isinstance(value, _Value):
        return value.type
    if isinstance(value, types.NumberClass):
        return value
    if value in _CLASSES:
        return types.NumberClass(_CLASSES[value])
    return _OF_CONSTANTS[type(value)]


_OF_CONSTANTS = {
    type(None): types.none,
    bool: types.boolean,
    int: types.int64,
    float: types.float64,
}


def _known(kind: Any) -> Any:
    """What a type says all about: `None`, or a type of numbers."""
    return None if isinstance(kind, types.NoneType) else kind


def _lowered(kind: Any) -> Any:
    """How LLVM has values of a type."""
    if isinstance(kind, types.Array):
        return _MEMORY[kind.dtype].as_pointer()
    if isinstance(kind, types.UniTuple):
        return ir.ArrayType(_MEMORY[kind.dtype], kind.count)
    if isinstance(kind, types.BaseTuple):
        return ir.LiteralStructType([_MEMORY[each] for each in kind])
    return _in_memory(kind)


def _in_memory(kind: Any) -> Any:
    """The type of a number, or of 16 side by side, where it stands in memory."""
    return ir.VectorType(_MEMORY[kind.of], LANES) if isinstance(kind, Lanes) else _MEMORY[kind]

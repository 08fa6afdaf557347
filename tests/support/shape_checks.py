"""The checks of every function's arguments and result under test: types by beartype, shapes by jaxtyping.

jaxtyping decorates all functions of the modules that its import hook is told of. To check shapes, which belong to one
call together, it binds the arguments anew at each call and has the types checked twice: tens of microseconds, which a
function that names no shape need not pay.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, Self, get_type_hints

import jaxtyping
from beartype import BeartypeConf, beartype

_CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float, as everywhere in Python's typing
_SHAPES = "normsmith.ops._shapes"
_with_shapes = jaxtyping.jaxtyped


def install(modules: list[str]) -> None:
    """Check the functions of these modules, which must not have been imported."""
    jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(
        _checked, typechecker
    )  # as the hook decorates
    jaxtyping.install_import_hook(modules, "shape_checks.check")


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the types of a function's arguments and result; `Self` is known to beartype in whole classes only."""
    annotations = getattr(function, "__annotations__", {})
    for name, hint in annotations.items():
        if hint in (Self, "Self"):
            annotations[name] = Any
    return beartype(function, conf=_CONF)


def _checked(typechecker: Callable[..., Any], target: Any) -> Any:
    """A function, or a class with an `__init__` that was generated, with its checks."""
    if inspect.isfunction(target):
        if _knows_shapes(target) or inspect.isgeneratorfunction(
            target
        ):  # which beartype would run in another
            return _with_shapes(target, typechecker=typechecker)
        return _types_alone(target)
    if dataclasses.is_dataclass(target) and "__init__" in vars(target):
        target.__init__ = _checked(typechecker, target.__init__)
    return target


def _knows_shapes(function: FunctionType) -> bool:
    """Whether the function's module has a name for a shape."""
    shapes = vars(sys.modules[_SHAPES]) if _SHAPES in sys.modules else {}
    names = [
        n
        for n, shape in shapes.items()
        if inspect.isclass(shape) and issubclass(shape, jaxtyping.AbstractArray)
    ]
    return any(function.__globals__.get(name) is shapes[name] for name in names)


def _types_alone(function: FunctionType) -> Callable[..., Any]:
    code = (
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    twin = functools.wraps(function)(FunctionType(*code))
    del twin.__wrapped__  # which is what beartype would check
    twin.__kwdefaults__ = function.__kwdefaults__
    twin.__annotations__ = {name: _hint(hint, function) for name, hint in function.__annotations__.items()}
    checked = check(twin)

    @functools.wraps(function)
    def either(*arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*arguments, **options)

    # whoever asks whose code this is gets the answer that holds without checks
    either.__code__ = either.__code__.replace(co_filename=function.__code__.co_filename)
    return either


def _hint(hint: Any, function: FunctionType) -> Any:
    """What an annotation stands for; anything if it names what only type checkers import."""

    def holder(value):  # type: ignore[no-untyped-def]
        ...

    holder.__annotations__ = {"value": hint}
    try:
        return get_type_hints(holder, function.__globals__, include_extras=True)["value"]
    except Exception:  # noqa: BLE001 - as jaxtyping does
        return Any

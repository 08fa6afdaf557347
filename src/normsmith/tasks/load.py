"""Find a task by its name: "digits-mlp", "file.py", "file.py:name" or "package.module:name"."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from normsmith._choices import did_you_mean
from normsmith._text import error_text
from normsmith.errors import MissingExtraError, TaskError
from normsmith.tasks.calls import users_code
from normsmith.tasks.digits import digits_cnn, digits_mlp, digits_rnn
from normsmith.tasks.shapes import shapes
from normsmith.tasks.tabular import breast_cancer, diabetes, wine
from normsmith.tasks.task import UNNAMED, Task

EMBEDDED = {
    "breast-cancer": breast_cancer,
    "diabetes": diabetes,
    "digits-cnn": digits_cnn,
    "digits-mlp": digits_mlp,
    "digits-rnn": digits_rnn,
    "shapes": shapes,
    "wine": wine,
}
"""The tasks that are there without a file, by the names that commands take."""

FORMS = f"{', '.join(EMBEDDED)}, file.py, file.py:name or package.module:name"
"""How a task may be named, for messages and for the help of commands."""

_made: dict[tuple[str, str], Task] = {}  # (module, attribute): what functions returned

_loaded_from: WeakKeyDictionary[Task, ModuleType] = WeakKeyDictionary()


def load(name: str) -> Task:
    """Load a task by name.

    - one of `EMBEDDED`, such as "digits-mlp".
    - "file.py:name": **executes that file** and takes what it calls `name`. The file's folder is added to the
      end of `sys.path`, so that the file can import its neighbours.
    - "file.py": the same; takes the one Task that is in it.
    - "package.module:name": imports that module; the current folder is added to the end of `sys.path`.

    `name` is a Task or a function without arguments that returns one; a Task that has no name of its own is named
    as it was found, such as "file.py:name". A file that did not change since is not executed again, and gives the
    same Task; a file that did is executed as a new module.

    Raises TaskError: unknown name, no such file or module, an error in it (with its line), no such attribute
        (with the tasks that there are), not a task.

    >>> load("digits-mlp").batch_size
    64
    """
    if name in EMBEDDED:
        return EMBEDDED[name]()
    place, separator, attribute = name.rpartition(":")
    if name.endswith(".py"):
        place, attribute = name, ""
    elif not (separator and place and attribute.isidentifier()):
        raise TaskError(f"no task {name!r}; expected {FORMS}{did_you_mean(name, EMBEDDED)}")
    module = _from_file(place) if _is_file(place) else _from_package(place)
    attribute = attribute or _only_task(module, place)
    task = _task_of(module, attribute, place)
    _loaded_from[task] = module
    if task.name == UNNAMED:
        short = Path(place).name if _is_file(place) else place
        object.__setattr__(
            task, "name", f"{short}:{attribute}"
        )  # once: a Task is frozen for those who have it
    return task


def load_function(name: str) -> Callable[..., Any]:
    """Load a function as `load` does a task: "file.py:name", whose file is executed, or "package.module:name".

    Raises TaskError: not of that form, no such file or module, an error in it, no such attribute, not a function.
    """
    place, _, attribute = name.rpartition(":")
    if not (place and attribute.isidentifier()):
        raise TaskError(f"no function {name!r}; expected file.py:name or package.module:name")
    module = _from_file(place) if _is_file(place) else _from_package(place)
    value = getattr(module, attribute, None)
    if callable(value):
        return value  # type: ignore[no-any-return]
    functions = sorted(name for name, each in vars(module).items() if inspect.isfunction(each))
    what = f"is not a function, but {type(value).__name__}" if hasattr(module, attribute) else "is not there"
    raise TaskError(
        f"no function {name!r}: {attribute} {what}; functions there: {', '.join(functions) or 'none'}"
        f"{did_you_mean(attribute, functions)}"
    )


def module_of(task: Task) -> ModuleType | None:
    """The module from which `load` took a task; None for embedded ones, and those that were not loaded."""
    return _loaded_from.get(task)


def absolute(name: str) -> str:
    """The same name for `load` from any working directory: the path of a file is made absolute.

    >>> absolute("digits-mlp"), absolute("package.module:task")
    ('digits-mlp', 'package.module:task')
    """
    place, separator, attribute = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    if name in EMBEDDED or not _is_file(place):
        return name
    return f"{Path(place).expanduser().absolute()}{separator}{attribute}"


def _is_file(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _only_task(module: ModuleType, place: str) -> str:
    """The name of the one Task in a file; a task that has several names has one of them here."""
    names = {id(value): name for name, value in vars(module).items() if isinstance(value, Task)}
    if len(names) == 1:
        return next(iter(names.values()))
    there = f"there are {len(names)} tasks in it" if names else "there is no Task in it"
    choices = sorted(names.values()) or sorted(
        name for name in _offered(module) if getattr(module, name).__module__ == module.__name__
    )
    write = f"; write {' or '.join(f'{place}:{name}' for name in choices[:4])}" if choices else ""
    why = "" if names or not choices else ", if that returns one"
    raise TaskError(f"which task of {place}? {there}{write}{why}")


def _from_file(place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    try:
        source = path.read_bytes()
    except OSError as error:
        what = (
            f"no such file ({path})" if isinstance(error, FileNotFoundError) else f"{error.strerror} ({path})"
        )
        raise TaskError(
            f"cannot load a task from {place}: {what}{did_you_mean(path.name, _beside(path))}"
        ) from error
    digest = hashlib.sha256(str(path).encode() + b"\0" + source).hexdigest()[:16]
    module_name = f"_normsmith_task_{digest}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = spec_from_file_location(module_name, path)
    if spec is None:
        raise TaskError(f"cannot load a task from {place}: expected a Python file ending in .py")
    module = module_from_spec(spec)
    _reachable(path.parent)
    sys.modules[module_name] = module  # before execution: dataclasses and pickle look classes up there
    try:
        with users_code(lambda error: _failed(place, path, error)):
            exec(compile(source, str(path), "exec"), module.__dict__)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _beside(path: Path) -> list[str]:
    """The Python files in the folder of a file that is not there."""
    return [file.name for file in path.parent.glob("*.py")] if path.parent.is_dir() else []


def _from_package(place: str) -> ModuleType:
    _reachable(Path.cwd())
    try:
        with users_code(lambda error: _failed(place, None, error), but=(ModuleNotFoundError,)):
            return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            hint = f"; did you mean {place}.py?" if Path(f"{place}.py").is_file() else ""
            raise TaskError(
                f"cannot load a task from {place}: no module named {error.name} here or installed{hint}"
            ) from error
        raise _failed(place, None, error) from error


def _reachable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _failed(place: str, path: Path | None, error: BaseException) -> TaskError:
    """Say which line of the user's file raised: the last one of it, as libraries below are not theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if path is not None and frame.filename == str(path)]
    where = f"{place}, line {own[-1]}" if own else place
    if isinstance(error, SyntaxError) and error.lineno is not None:
        where = f"{error.filename}, line {error.lineno}"
    return TaskError(f"cannot load a task from {where}: {error_text(error)}")


def _offered(module: ModuleType) -> list[str]:
    """What a module has that may be a task, or make one."""
    return [
        name for name, value in vars(module).items() if isinstance(value, Task) or inspect.isfunction(value)
    ]


def _task_of(module: ModuleType, attribute: str, place: str) -> Task:
    made = _made.get((module.__name__, attribute))
    if made is not None:
        return made
    if not hasattr(module, attribute):
        tasks = sorted(name for name, value in vars(module).items() if isinstance(value, Task))
        there = f"tasks there: {', '.join(tasks)}" if tasks else "there is no Task in it"
        raise TaskError(
            f"{place} has no attribute {attribute!r}; {there}{did_you_mean(attribute, _offered(module))}"
        )
    value: Any = getattr(module, attribute)
    if isinstance(value, Task):
        return value
    if not callable(value) or isinstance(value, type):
        raise TaskError(
            f"{place}:{attribute} must be a Task or a function that returns one, got {type(value).__name__}"
        )
    file = getattr(module, "__file__", None)
    own = Path(file) if file else None
    with users_code(lambda error: _failed(f"{place}:{attribute}", own, error), but=(MissingExtraError,)):
        value = value()
    if not isinstance(value, Task):
        raise TaskError(f"{place}:{attribute}() must return a Task, got {type(value).__name__}")
    _made[module.__name__, attribute] = value
    return value

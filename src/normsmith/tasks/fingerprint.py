"""A hash of all of a task that decides what a trial of it measures."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from normsmith.tasks.build import build, seeded
from normsmith.tasks.datasets import CollatedDataset, length, samples
from normsmith.tasks.imports import UserFile, imported, is_library_file
from normsmith.tasks.load import module_of
from normsmith.tasks.task import SPLITS, Task

_SEED = 0
_ALL_SAMPLES = 4096  # of larger datasets that are not tensors, this many, evenly spread, are hashed
_FEW = 100  # longer lists of a dataset hold data, not code
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), torch.dtype, torch.device)
_CLASS_NOISE = {
    "__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__static_attributes__",
    "__annotations__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl",
}  # fmt: skip


def fingerprint(task: Task) -> str:
    """SHA-256, in hexadecimal, of everything in a task that decides a trial's result.

    Hashed: the network (its printed form, its weights under a fixed seed, the code of its classes), the code
        of model factory, loss, metric, forward, optimizer, collate and datasets with their defaults, closures and
        the globals and helpers they use, the content of all three splits, the batch size and the device's type.
        Of your files that this code imports, directly or through others, at the top or within a function, all
        code is hashed; of the files that it stands in itself, what is used, and what they do when they are
        imported. Code is compared as compiled, so that comments and formatting do not count; of installed
        libraries the name and version are taken. Tensor datasets are hashed whole, others sample by sample, up to
        4,096 samples; of larger ones 4,096, evenly spread, and the length.

    Not hashed, because a trial has its own or they only judge: steps, learning rates, target, activations,
        whether higher is better, name and description.

    The same in every process with the same versions of Python and libraries. Raises TaskError when the model
    factory fails.

    >>> from normsmith.tasks.digits import digits_mlp
    >>> len(fingerprint(digits_mlp()))
    64
    """
    digest = _of_code(task)
    for split in SPLITS:
        _add_data(digest, task, task.dataset(split))
    return digest.hexdigest()


def covered(task: Task) -> frozenset[Path]:
    """The user's files whose code is in the fingerprint, at least as far as the task uses it.

    Raises TaskError when the model factory fails.
    """
    return frozenset(_of_code(task).files())


def _of_code(task: Task) -> _Digest:
    model = build(task, _SEED)
    digest = _Digest()
    with seeded(_SEED, task.device):
        digest.add("task 2", task.batch_size, torch.device(task.device).type)
        digest.add(model)
        for part in (task.model, task.loss, task.metric, task.forward, task.optimizer, task.collate):
            digest.add(part)
        for split in SPLITS:
            for code in _code_within(task.dataset(split), set()):
                digest.add(code)
    digest.stands_in(module_of(task))
    digest.add_imports()
    return digest


def _code_within(value: Any, seen: set[int]) -> Iterator[Any]:
    """Classes and functions of the user's within a dataset: its own, of datasets inside it, of transforms."""
    if isinstance(value, (*_PLAIN, Tensor, np.ndarray, types.ModuleType)) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, _CODE):
        if not _is_library(value):
            yield value
        return
    if isinstance(value, (list, tuple, dict)):
        inner = [] if len(value) > _FEW else [*(value.values() if isinstance(value, dict) else value)]
    else:
        inner = [type(value), *getattr(value, "__dict__", {}).values()]
    for each in inner:
        yield from _code_within(each, seen)


def _add_data(digest: _Digest, task: Task, dataset: Dataset[Any]) -> None:
    count = length(dataset)
    digest.add(count)
    if type(dataset) is TensorDataset:
        digest.add(dataset.tensors)
        return
    if isinstance(dataset, CollatedDataset):
        digest.add(dataset.collate)
    digest.add(type(dataset))
    indices = range(count) if count <= _ALL_SAMPLES else np.linspace(0, count - 1, _ALL_SAMPLES).astype(int)
    with seeded(_SEED, task.device):
        for index in indices:
            digest.add(samples(dataset, [int(index)]))


class _Digest:
    """A running hash of Python values by their content, never by their address."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: dict[
            int, tuple[bytes, Any]
        ] = {}  # id → digest, and the value, so that its id stays its own
        self._used: dict[Path, UserFile] = {}  # where what was added stands
        self._whole: dict[Path, UserFile] = {}  # modules that were added, and what is imported

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def add(self, *values: Any) -> None:
        for value in values:
            self._add(value)

    def files(self) -> set[Path]:
        """The user's files that were added, at least in part."""
        return {*self._used, *self._whole}

    def stands_in(self, module: types.ModuleType | None, file: str = "") -> None:
        """Note in which file of the user's something that is added stands."""
        known = UserFile.of(module) if module is not None else None
        if file and not is_library_file(file) and Path(file).is_file():
            path = Path(file).resolve()
            if known is None or known.path != path:
                self._used.setdefault(path, UserFile(path))
        if known is not None:
            self._used[known.path] = known

    def add_imports(self) -> None:
        """Add all that is imported from where what was added stands, and what those files do when imported."""
        self._whole |= imported([*self._used.values(), *self._whole.values()])
        for file in sorted(self._whole.values(), key=lambda file: file.name):
            self._text("import", file.name)
            self.add(file.code())
        actions = [file.actions() for path, file in self._used.items() if path not in self._whole]
        self._text("actions", *sorted(_alone(code) for code in actions if code is not None))

    def _text(self, *words: object) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else str(word).encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def _add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self._text(type(value).__name__, repr(value))
            return
        if id(value) not in self._known:
            self._known[id(value)] = b"cycle", value
            outside, self._hash = self._hash, hashlib.sha256()
            describe = next((d for kinds, d in _DESCRIBERS if isinstance(value, kinds)), _Digest._object)
            describe(self, value)
            self._known[id(value)] = self._hash.digest(), value
            self._hash = outside
        self._text(self._known[id(value)][0])

    def _tensor(self, value: Tensor) -> None:
        self._text("tensor", value.dtype, tuple(value.shape) if not nn.parameter.is_lazy(value) else "lazy")
        if not nn.parameter.is_lazy(value) and value.device.type != "meta":
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            self._text(dense.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    def _array(self, value: NDArray[Any]) -> None:
        self._text("array", value.dtype, value.shape)
        if value.dtype.hasobject:
            self.add(value.tolist())
        else:
            self._text(np.ascontiguousarray(value).tobytes())

    def _sequence(self, value: tuple[Any, ...] | list[Any]) -> None:
        self._text(type(value).__name__, len(value))
        self.add(*value)

    def _set(self, value: set[Any] | frozenset[Any]) -> None:
        self._text("set", *sorted(_alone(item) for item in value))

    def _mapping(self, value: dict[Any, Any] | types.MappingProxyType[Any, Any]) -> None:
        self._text("mapping", len(value))
        for key, item in value.items():
            self.add(key, item)

    def _partial(self, value: functools.partial[Any]) -> None:
        self._text("partial")
        self.add(value.func, value.args, value.keywords)

    def _member(self, value: enum.Enum) -> None:
        self._text("enum", type(value).__qualname__, value.name)

    def _module_instance(self, value: nn.Module) -> None:
        self._text("network", _ADDRESS.sub("", repr(value)))
        for name, tensor in sorted({**dict(value.named_parameters()), **dict(value.named_buffers())}.items()):
            self.add(name, tensor)
        for part in value.modules():
            self._text("training", part.training)
            self.add(type(part))
            if not _is_library(type(part)):
                own = {k: v for k, v in vars(part).items() if k not in _MODULE_FIELDS}
                self.add(own)

    def _python_module(self, value: types.ModuleType) -> None:
        file = UserFile.of(value)
        self._text("module", value.__name__ if file is not None or _is_library(value) else _source(value))
        if file is not None:
            self._whole[file.path] = file

    def _method(self, value: types.MethodType) -> None:
        self._text("method")
        self.add(value.__func__, value.__self__)

    def _builtin(self, value: types.BuiltinFunctionType) -> None:
        self._text("builtin", value.__module__, value.__qualname__)

    def _function(self, value: types.FunctionType) -> None:
        if _is_library(value):
            self._text("library", *_address(value))
            for cell in value.__closure__ or ():
                with suppress(ValueError):
                    wrapped = cell.cell_contents
                    if isinstance(wrapped, _CODE) and not _is_library(wrapped):
                        self.add(wrapped)
            return
        self.stands_in(sys.modules.get(value.__module__ or ""), value.__code__.co_filename)
        self._text("function", value.__qualname__.rpartition(".")[2])
        self.add(value.__code__)
        self.add(value.__defaults__, value.__kwdefaults__)
        self.add({name: item for name, item in vars(value).items() if isinstance(item, _FOLLOWED)})
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self._text(name)
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a cell that is not filled yet
                self._text("empty")
        for name in sorted(_globals_used(value.__code__)):
            if name in value.__globals__:
                self._text("global", name)
                self.add(value.__globals__[name])

    def _code(self, code: types.CodeType) -> None:
        self._text("code", code.co_code, code.co_exceptiontable, code.co_flags)
        self._text(code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        self.add(code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        for constant in code.co_consts:
            self.add(constant)

    def _class(self, value: type) -> None:
        if _is_library(value):
            self._text("library", *_address(value))
            return
        self.stands_in(sys.modules.get(value.__module__))
        self._text("class", value.__qualname__.rpartition(".")[2])
        self.add(type(value), value.__bases__)
        for name, attribute in sorted(vars(value).items()):
            if name not in _CLASS_NOISE:
                self._text(name)
                self.add(attribute)

    def _wrapped(self, value: staticmethod[Any, Any] | classmethod[Any, Any, Any]) -> None:
        self._text(type(value).__name__)
        self.add(value.__func__)

    def _property(self, value: property) -> None:
        self._text("property")
        self.add(value.fget, value.fset, value.fdel)

    def _object(self, value: Any) -> None:
        if isinstance(value, Task):  # a task's own parts are added one by one
            self._text("task")
            return
        self._text("object")
        self.add(type(value))
        if hasattr(value, "__array_interface__"):
            self._array(np.asarray(value))
        elif hasattr(value, "__dict__") and not _is_library(type(value)):
            self.add(vars(value))
        elif hasattr(value, "__dict__"):
            kinds = (*_PLAIN, *_FOLLOWED, Tensor, tuple, list, dict)
            self.add({name: item for name, item in vars(value).items() if isinstance(item, kinds)})


_DESCRIBERS: tuple[tuple[Any, Any], ...] = (
    (Tensor, _Digest._tensor),
    (np.ndarray, _Digest._array),
    (enum.Enum, _Digest._member),
    ((tuple, list), _Digest._sequence),
    ((set, frozenset), _Digest._set),
    ((dict, types.MappingProxyType), _Digest._mapping),
    (functools.partial, _Digest._partial),
    (nn.Module, _Digest._module_instance),
    (types.ModuleType, _Digest._python_module),
    (types.MethodType, _Digest._method),
    (types.BuiltinFunctionType, _Digest._builtin),
    (types.CodeType, _Digest._code),
    (types.FunctionType, _Digest._function),
    (type, _Digest._class),
    ((staticmethod, classmethod), _Digest._wrapped),
    (property, _Digest._property),
)
_CODE = (types.FunctionType, types.MethodType, type)
_FOLLOWED = (*_CODE, functools.partial, types.MappingProxyType)
_MODULE_FIELDS = frozenset(vars(nn.Module()))


def _alone(value: Any) -> str:
    digest = _Digest()
    digest.add(value)
    return digest.hexdigest()


def _globals_used(code: types.CodeType) -> Iterator[str]:
    """Names that a function, or one inside it, may read from its module (attribute names are among them)."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_used(constant)


def _address(value: Any) -> tuple[str, str, str]:
    """The module, name and version of a library's function or class.

    normsmith changes between releases while it is worked on: its version is its source.
    """
    name = value.__module__ or "builtins"
    if name.startswith("normsmith."):
        return name, value.__qualname__, _source(sys.modules[name])
    top = sys.modules.get(name.partition(".")[0])
    return name, value.__qualname__, str(getattr(top, "__version__", ""))


def _is_library(value: Any) -> bool:
    """Whether a class, function or module belongs to Python or an installed package, normsmith included.

    A function that wraps another may be called one of the other's module: it is a library's only by both.
    """
    if isinstance(value, types.FunctionType):
        source = value.__code__.co_filename
        if Path(source).is_absolute() and not is_library_file(source):
            return False
    name = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if name is None:
        return True
    top = name.partition(".")[0]
    if top == "normsmith" or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and is_library_file(file)


def _source(module: types.ModuleType) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return module.__name__

"""Types that a checkpoint may hold beside tensors and plain values, if the user asks for them: a closed list."""

from __future__ import annotations

import argparse
import os
import pathlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pickle import UnpicklingError
from typing import Any

import numpy as np
from torch.serialization import safe_globals

from normsmith._choices import did_you_mean
from normsmith.errors import InputError

_Global = tuple[Any, str]
"""What is made, and the name under which a pickle asks for it."""


def _path(kind: str, made: Any) -> list[_Global]:
    modules = ("pathlib", "pathlib._local")  # the latter in Python 3.13
    return [(made, f"{module}.{kind}") for module in modules]


_ON_WINDOWS = os.name == "nt"


def _scalar(dtype: np.dtype[Any], value: bytes) -> Any:
    """A scalar of numpy from its bytes; bytes that would be taken for pointers to objects are none."""
    if dtype.hasobject:
        raise UnpicklingError("a numpy scalar that holds an object")
    made: Any = np.frombuffer(value, dtype, count=1)[0] if dtype.itemsize else dtype.type()
    return made


_CODES = (*"?bBhHiIlLqQefdFDSU", "M8[s]", "m8[s]")
_DTYPES: list[_Global] = [
    (np.dtype, "numpy.dtype"),
    *((type(np.dtype(code)), f"numpy.dtypes.{type(np.dtype(code)).__name__}") for code in _CODES),
]

ALLOWED: dict[str, list[_Global]] = {
    "argparse.Namespace": [(argparse.Namespace, "argparse.Namespace")],
    "numpy.dtype": _DTYPES,
    "numpy.generic": [
        *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *_DTYPES,
    ],
    "pathlib.PosixPath": _path("PosixPath", pathlib.PurePosixPath if _ON_WINDOWS else pathlib.PosixPath),
    "pathlib.PurePosixPath": _path("PurePosixPath", pathlib.PurePosixPath),
    "pathlib.PureWindowsPath": _path("PureWindowsPath", pathlib.PureWindowsPath),
    "pathlib.WindowsPath": _path(
        "WindowsPath", pathlib.WindowsPath if _ON_WINDOWS else pathlib.PureWindowsPath
    ),
}
"""What may be allowed, by name: making any of these from any values does nothing else.

`numpy.generic` is numpy's scalars, with their dtypes. The path of another system is made as a pure path.
"""


def allowing(names: Sequence[str]) -> AbstractContextManager[None]:
    """A block in which these types are unpickled too; after it the process unpickles what it did before.

    Raises:
        InputError: a name that is not in the list.
    """
    for name in names:
        if name not in ALLOWED:
            raise InputError(
                f"allow: expected one of {', '.join(ALLOWED)}, got {name}{did_you_mean(name, ALLOWED)}; nothing else "
                "is unpickled"
            )
    return safe_globals([entry for name in names for entry in ALLOWED[name]])


def names_for(wanted: Iterable[str]) -> list[str] | None:
    """The names to allow so that all these globals of a pickle are unpickled; None where some never are.

    >>> names_for(["numpy._core.multiarray.scalar", "numpy.dtype"]), names_for(["pathlib.PosixPath", "os.system"])
    (['numpy.generic'], None)
    """
    left, names = set(wanted), list[str]()
    by_coverage = sorted(ALLOWED, key=lambda name: -len(left & _globals(name)))
    for name in by_coverage:
        if left & _globals(name):
            names.append(name)
            left -= _globals(name)
    return None if left else sorted(names)


def _globals(name: str) -> set[str]:
    return {pickled for _, pickled in ALLOWED[name]}

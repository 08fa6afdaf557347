"""The closed list of types that may be unpickled: all of them work, nothing outside of it does."""

import argparse
import pathlib
import pickle

import numpy as np
import pytest
import torch

from normsmith.errors import InputError
from normsmith.surgery.checkpoints.allowed import ALLOWED, allowing, names_for

VALUES = {
    "argparse.Namespace": [argparse.Namespace(lr=0.1, sizes=[1, 2])],
    "numpy.dtype": [np.dtype("float32"), np.dtype(">i8"), np.dtype("datetime64[s]")],
    "numpy.generic": [
        np.float64(0.5),
        np.int64(3),
        np.bool_(True),
        np.str_("ä"),
        np.bytes_(b"x"),
        np.float16(1),
    ],
    "pathlib.PurePosixPath": [pathlib.PurePosixPath("a/b")],
    "pathlib.PureWindowsPath": [pathlib.PureWindowsPath("c:/a")],
    type(pathlib.Path()).__module__.partition(".")[0] + "." + type(pathlib.Path()).__name__: [
        pathlib.Path("a/b")
    ],
}


@pytest.mark.parametrize("name", VALUES)
def test_each_type_is_unpickled_where_it_is_allowed(tmp_path, name):
    torch.save(VALUES[name], tmp_path / "a.pt")
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(tmp_path / "a.pt")
    assert names_for(unsafe) == [name]
    with allowing([name]):
        assert torch.load(tmp_path / "a.pt", weights_only=True) == VALUES[name]
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "a.pt", weights_only=True)


def test_all_that_is_listed_is_tried():
    other_system = {"pathlib.PosixPath", "pathlib.WindowsPath"} - VALUES.keys()
    assert VALUES.keys() | other_system == ALLOWED.keys()


def test_a_path_of_another_system_is_a_pure_one(tmp_path):
    torch.save(pathlib.PureWindowsPath("c:/a"), tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "a.pt").read_bytes()
    named = f"{pathlib.PureWindowsPath.__module__}\nPureWindowsPath".encode()
    assert named in content
    (tmp_path / "a.pt").write_bytes(content.replace(named, b"pathlib\nWindowsPath"))
    with allowing(["pathlib.WindowsPath"]):
        assert torch.load(tmp_path / "a.pt", weights_only=True) == pathlib.PureWindowsPath("c:/a")


class Pointers:
    """Bytes that numpy would take for the address of an object."""

    def __reduce__(self):
        return np.float64(0).__reduce__()[0], (Structured(), b"\1" * 8)


class Structured:
    def __reduce__(self):
        return np.dtype, ([("a", "O")],)


def test_bytes_are_never_taken_for_objects(tmp_path):
    torch.save(Pointers(), tmp_path / "a.pt")
    with allowing(["numpy.generic"]), pytest.raises(pickle.UnpicklingError, match="holds an object"):
        torch.load(tmp_path / "a.pt", weights_only=True)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "torch.nn.Linear", "numpy.ndarray", ""])
def test_no_other_name_is_taken(name):
    with pytest.raises(
        InputError, match=r"allow: expected one of argparse\.Namespace, .*nothing else is unpickled"
    ):
        allowing([name])
    assert names_for([name]) is None

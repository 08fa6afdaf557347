"""Imports are read from source as Python would follow them, and nothing is run for that."""

import sys

import pytest

from normsmith.tasks.imports import UserFile, imported, is_library_file


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write files by their names; the result is what the first imports."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])

    def write(**sources):
        for name, source in sources.items():
            path = tmp_path / f"{name.replace('__', '/')}.py".replace("/init.py", "/__init__.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source)
        start = UserFile(tmp_path / f"{next(iter(sources))}.py")
        return sorted(path.relative_to(tmp_path).as_posix() for path in imported([start]))

    return write


RAISES = "raise RuntimeError('this must not run')\n"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import zz_far", ["zz_far.py"]),
        ("import zz_far as f, os, torch", ["zz_far.py"]),
        ("from zz_far import *", ["zz_far.py"]),
        ("def f():\n    import zz_far", ["zz_far.py"]),
        ("class A:\n    def f(self):\n        from zz_far import x", ["zz_far.py"]),
        ("try:\n    import zz_far\nexcept ImportError:\n    pass", ["zz_far.py"]),
        ("import zz_pkg.sub", ["zz_pkg/__init__.py", "zz_pkg/near.py", "zz_pkg/sub.py"]),
        ("import zz_pkg.sub as s", ["zz_pkg/__init__.py", "zz_pkg/near.py", "zz_pkg/sub.py"]),
        ("from zz_pkg import sub", ["zz_pkg/__init__.py", "zz_pkg/near.py", "zz_pkg/sub.py"]),
        ("from zz_pkg import near", ["zz_pkg/__init__.py", "zz_pkg/near.py", "zz_pkg/sub.py"]),
        ("import zz_spaces.part", ["zz_spaces/part.py"]),
        ("import zz_missing, zz_far.nothing", ["zz_far.py"]),
        ("from . import zz_far", []),
        ("x = __import__('zz_f' + 'ar')", []),
    ],
)
def test_statements_are_followed(files, statement, expected):
    found = files(
        start=statement + "\n",
        zz_far=RAISES,
        zz_pkg__init=RAISES,
        zz_pkg__sub="from . import near\nfrom .. import beyond\n" + RAISES,
        zz_pkg__near="from .sub import x\n" + RAISES,
        zz_spaces__part=RAISES,
    )
    assert found == expected
    assert not [name for name in sys.modules if name.startswith("zz_")]


def test_helpers_of_helpers_are_followed_and_circles_end(files):
    assert files(
        start="import zz_a",
        zz_a="def f():\n    import zz_b as b\n    return b",
        zz_b="import zz_a, zz_c.d",
        zz_c__init="",
        zz_c__d="no python (",
    ) == ["zz_a.py", "zz_b.py", "zz_c/__init__.py", "zz_c/d.py"]


def test_code_is_compared_without_comments_and_actions_without_definitions(tmp_path):
    path = tmp_path / "a.py"
    file = UserFile(path)
    path.write_text("x = 1\ndef f():\n    return x\n")
    code = file.code()
    assert file.actions() is None
    path.write_text("# a comment\nx  =  1\n\n\ndef f():  # another\n    return x\n")
    assert file.code().co_code == code.co_code
    path.write_text(
        "import torch\nx: int = 1\nif __name__ == '__main__':\n    print(x)\n'text'\nclass A: pass\n"
    )
    assert file.actions() is None
    for action in ("torch.nn.Linear.forward = None", "print(1)", "for i in (): pass", "x += 1"):
        path.write_text(f"import torch\n{action}\n")
        assert file.actions() is not None
    path.write_bytes(b"\x7fELF\0")
    assert file.code() == b"\x7fELF\0"


def test_whose_a_file_is(tmp_path, monkeypatch):
    import torch

    import normsmith

    for module in (torch, normsmith, pytest, sys.modules["os"]):
        assert is_library_file(module.__file__)
        assert UserFile.of(module) is None
    assert UserFile.of(sys) is None
    assert not is_library_file(tmp_path / "mine.py")
    assert is_library_file(tmp_path / "lib" / "python3" / "dist-packages" / "a.py")
    assert is_library_file(tmp_path / "torchinductor_me" / "ab" / "cab.py")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "kept"))
    assert is_library_file(tmp_path / "kept" / "ab" / "launcher.so")
    own = UserFile.of(sys.modules[__name__])
    assert own is not None
    assert own.path.name == "test_imports.py"

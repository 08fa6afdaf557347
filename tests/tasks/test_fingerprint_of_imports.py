"""Whatever of the user's code a task's code imports counts, however far away; other files do not."""

import sys
from pathlib import Path

import pytest

from normsmith.tasks import fingerprint, load
from normsmith.tasks.fingerprint import covered

TASK = """
import functools
import torch
from torch import nn
from normsmith.tasks import Task
{imports}

def network():
    return nn.Linear(3, 2)

def loss(output, target):
    return nn.functional.cross_entropy(output, target)

def metric(output, target):
    return 0.0

x, y = torch.arange(300.0).reshape(100, 3), torch.arange(100) % 2
{code}
task = Task(model=network, train=(x, y), test=(x, y), loss=loss, metric=metric)
"""
FAR = "def scale():\n    return 2\n\nclass Base:\n    width = 2\n\ndef again(f):\n    return f\n"
KINDS = {
    "a module": ("import zz_far", ""),
    "a module within a function": ("", "def unused():\n    import zz_far as far\n    return far"),
    "a submodule": ("import zz_pkg.sub", ""),
    "a name of a package": ("from zz_pkg import sub", ""),
    "a helper's helper": ("from zz_near import near", ""),
    "a helper's import within a function": ("from zz_late import late", ""),
    "a base class": (
        "from zz_far import Base",
        "class Net(Base, nn.Linear): pass\nmodel = lambda: Net(3, 2)",
    ),
    "a decorator": (
        "from zz_far import again",
        "@again\ndef other(output, target): return loss(output, target)",
    ),
}
OTHERS = {
    "zz_near.py": "from zz_far import scale\ndef near():\n    return scale()\n",
    "zz_late.py": "def late():\n    def inner():\n        import zz_pkg.deep as d\n    return inner\n",
    "zz_pkg/__init__.py": "",
    "zz_pkg/sub.py": "from . import deep\n",
    "zz_pkg/deep.py": "from zz_far import scale as x\n",
    "zz_other.py": "OTHER = 1\n",
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The folder, and its task's fingerprint as a new process would compute it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, text in {**OTHERS, "zz_far.py": FAR}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def forget():
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[name]

    def compute(function=fingerprint):
        forget()
        return function(load(f"{tmp_path}/mine.py:task"))

    yield tmp_path, compute
    forget()


@pytest.mark.parametrize("kind", KINDS)
def test_a_far_helper_counts_and_another_file_does_not(project, kind):
    folder, compute = project
    imports, code = KINDS[kind]
    (folder / "mine.py").write_text(TASK.format(imports=imports, code=code))
    before = compute()
    (folder / "zz_other.py").write_text("OTHER = 2\n")
    (folder / "zz_far.py").write_text("# a comment\n" + FAR.replace("    return 2", "    return  2  # two"))
    assert compute() == before
    (folder / "zz_far.py").write_text(FAR.replace("return 2", "return 3"))
    assert compute() != before
    assert {folder / "zz_far.py", folder / "mine.py"} <= compute(covered)
    assert folder / "zz_other.py" not in compute(covered)


def test_what_a_file_does_when_it_is_imported_counts(project):
    folder, compute = project
    seen = set()
    for code in ("", "torch.set_printoptions(precision=4)", "nn.Linear.extra = 1"):
        (folder / "mine.py").write_text(TASK.format(imports="", code=code))
        seen.add(compute())
    assert len(seen) == 3
    del sys.modules["torch"].nn.Linear.extra


def test_another_task_of_the_same_file_does_not_count(project):
    folder, compute = project
    (folder / "mine.py").write_text(TASK.format(imports="", code=""))
    before = compute()
    code = "def other_loss(output, target):\n    return output.sum()\n"
    code += "other = Task(model=network, train=(x, y), test=(x, y), loss=other_loss, metric=metric)"
    (folder / "mine.py").write_text(TASK.format(imports="", code=code))
    assert compute() == before


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("wrapped by the user's decorator", "return 1.0 *", "return 2.0 *"),
        ("kept in a cache", "return 3.0", "return 4.0"),
        ("of a property", "return 5.0", "return 6.0"),
        ("of a metaclass", "width = 7", "width = 8"),
        ("registered for a type", "return 9.0", "return 10.0"),
        ("wrapped by a library", "return 11.0", "return 12.0"),
    ],
)
def test_functions_within_functions_count(project, name, before, after):
    folder, compute = project
    code = """
def deco(f):
    @functools.wraps(f)
    def wrapper(*args):
        return 1.0 * f(*args)
    return wrapper

@functools.lru_cache
def cached():
    return 3.0

class Meta(type):
    width = 7

class Holder(metaclass=Meta):
    @functools.cached_property
    def value(self):
        return 5.0

@functools.singledispatch
def kind(x):
    return 0.0

@kind.register
def _(x: int):
    return 9.0

@torch.no_grad()
def quiet():
    return 11.0

cross_entropy = deco(nn.functional.cross_entropy)

def loss(output, target):
    return cross_entropy(output, target) * cached() * Holder().value * kind(1) * quiet()
"""
    (folder / "mine.py").write_text(TASK.format(imports="", code=code))
    first = compute()
    assert compute() == first
    assert before in code, name
    (folder / "mine.py").write_text(TASK.format(imports="", code=code.replace(before, after)))
    assert compute() != first


def test_transforms_within_a_data_set_count(project):
    folder, compute = project
    (folder / "zz_far.py").write_text("class Noise:\n    def __call__(self, x):\n        return x + 0\n")
    data = """
class Data(torch.utils.data.Dataset):
    transforms = ()
    def __len__(self): return 100
    def __getitem__(self, i): return x[i], y[i]
inner = Data()
inner.transforms = [zz_far.Noise()]
x_and_y = torch.utils.data.Subset(inner, list(range(100)))
"""
    source = TASK.format(imports="import zz_far", code=data).replace("train=(x, y)", "train=x_and_y")
    (folder / "mine.py").write_text(source)
    assert folder / "zz_far.py" in compute(covered)
    assert all(isinstance(path, Path) for path in compute(covered))

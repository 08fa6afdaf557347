"""Loading a task by name: what is found, and what each mistake is told."""

import sys
import textwrap
from pathlib import Path

import pytest

from normsmith.errors import TaskError
from normsmith.tasks import EMBEDDED, Task, check, digits_cnn, load, load_function
from normsmith.tasks.load import absolute

TASK = """
import torch
from torch import nn
from normsmith.tasks import Task, accuracy

x, y = torch.zeros(100, 3), torch.zeros(100, dtype=torch.long)

def make():
    return Task(model=lambda: nn.Linear(3, 2), train=(x, y), test=(x, y), loss=nn.CrossEntropyLoss(),
                metric=accuracy, name="mine")

task = make()
number = 3

def two(a, b): ...
"""


@pytest.fixture(autouse=True)
def _path_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(TASK)
    return path


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_names(name):
    assert load(name) is load(name)
    assert load(name).name == name
    assert EMBEDDED["digits-cnn"] is digits_cnn
    check(load(name))


def test_every_embedded_task_has_a_row_in_the_reference():
    page = Path(__file__).parents[2] / "docs" / "reference" / "tasks.md"
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == sorted(EMBEDDED)


def test_a_task_and_a_function_that_makes_one(file):
    assert load(f"{file}:task").name == "mine"
    made = load(f"{file}:make")
    assert isinstance(made, Task)
    assert load(f"{file}:make") is made


def test_relative_to_the_current_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert load("mine.py:task") is load(f"{file}:task")


def test_the_same_task_until_the_file_changes(file):
    first = load(f"{file}:task")
    assert load(f"{file}:task") is first
    file.write_text(TASK.replace('"mine"', '"yours"'))
    assert load(f"{file}:task").name == "yours"
    file.write_text(TASK)
    assert load(f"{file}:task") is first


def test_two_files_of_one_name_do_not_mix(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(TASK.replace('"mine"', f'"{name}"'))
    assert [load(f"{tmp_path / name / 'mine.py'}:task").name for name in ("a", "b")] == ["a", "b"]


def test_a_file_can_import_its_neighbour(file):
    (file.parent / "neighbour_of_mine.py").write_text("NAME = 'from next door'\n")
    file.write_text("from neighbour_of_mine import NAME\n" + TASK.replace('"mine"', "NAME"))
    assert load(f"{file}:task").name == "from next door"


def test_a_module_of_the_current_folder(file, monkeypatch):
    package = file.parent / "a_package_of_tasks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text(TASK)
    monkeypatch.chdir(file.parent)
    assert load("a_package_of_tasks.deep:task").name == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "digits",
            "no task 'digits'; expected breast-cancer, .*, digits-mlp, .*, file.py:name or package.module:name",
        ),
        ("nowhere.py", r"nowhere.py: no such file \(.*nowhere.py\)"),
        ("mine.py:", "no task 'mine.py:'"),
        ("mine.py:not a name", "no task"),
        ("nowhere.py:task", r"nowhere.py: no such file \(.*nowhere.py\)"),
        (".:task", "no task|cannot load"),
        ("a_module_nobody_has:task", "no module named a_module_nobody_has"),
        ("mine:task2", "mine has no attribute 'task2'; tasks there: task"),
        ("mine.py:task2", "mine.py has no attribute 'task2'; tasks there: task"),
        ("mine.py:number", "mine.py:number must be a Task or a function that returns one, got int"),
        ("mine.py:Task", "must be a Task or a function that returns one, got type"),
        ("mine.py:two", r"mine.py:two: TypeError: two\(\) missing"),
    ],
)
def test_mistakes_in_the_name(file, monkeypatch, name, words):
    monkeypatch.chdir(file.parent)
    with pytest.raises(TaskError, match=words) as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import torch\n\nx = 1 / 0\n", r"broken.py, line 3: ZeroDivisionError: division by zero"),
        ("def f():\n    return [][1]\n\nf()\n", r"broken.py, line 2: IndexError"),
        ("import torch\ntask = (\n", r"broken.py, line 2: SyntaxError"),
        ("import a_module_nobody_has\n", r"broken.py, line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", r"broken.py, line 2: SystemExit: 3"),
        ("from normsmith.tasks import load\n\nload('nothing')\n", r"broken.py, line 3: TaskError: no task 'nothing'"),
        ("class Odd(BaseException): ...\n\nraise Odd('!')\n", r"broken.py, line 3: Odd: !"),
        ("def task():\n    raise GeneratorExit\n", r"broken.py:task, line 2: GeneratorExit"),
        ("x = 1\n", "has no attribute 'task'; there is no Task in it"),
        ("def task():\n    raise KeyError('k')\n", r"broken.py:task, line 2: KeyError: 'k'"),
        ("def task():\n    return 3\n", r"broken.py:task\(\) must return a Task, got int"),
        ("\0", "broken.py.*(null bytes|source code)"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file(tmp_path, source, words):
    path = tmp_path / "broken.py"
    path.write_text(textwrap.dedent(source))
    for _ in range(2):  # a file that failed is not remembered as loaded
        with pytest.raises(TaskError, match=words) as caught:
            load(f"{path}:task")
        assert "\n" not in str(caught.value)


UNNAMED = TASK.replace(', name="mine"', "")


def test_a_task_without_a_name_has_that_by_which_it_was_found(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    file.write_text(UNNAMED)
    assert load("mine.py:task").name == "mine.py:task"
    assert load(f"{file}:make").name == "mine.py:make"
    assert load("mine.py:task").name == "mine.py:task"
    (file.parent / "a_module_with_a_task.py").write_text(UNNAMED)
    assert load("a_module_with_a_task:task").name == "a_module_with_a_task:task"


def test_the_only_task_of_a_file_needs_no_name(file):
    assert load(str(file)) is load(f"{file}:task")
    file.write_text(UNNAMED + "alias = task\n")
    assert load(str(file)).name in ("mine.py:task", "mine.py:alias")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TASK + "other = make()\n", "there are 2 tasks in it; write .*mine.py:other or .*mine.py:task$"),
        (
            TASK.replace("task = make()", ""),
            "there is no Task in it; write .*mine.py:make or .*mine.py:two, if that",
        ),
        ("x = 1\n", "there is no Task in it$"),
    ],
)
def test_a_file_alone_that_is_not_clear(file, source, words):
    file.write_text(source)
    with pytest.raises(TaskError, match=words):
        load(str(file))


def test_a_name_can_be_made_absolute(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    assert absolute("mine.py") == str(file)
    assert absolute("mine.py:task") == absolute(f"{file}:task") == f"{file}:task"
    assert absolute("mine:task") == "mine:task"
    assert absolute("digits-mlp") == "digits-mlp"


def test_a_function_is_loaded_from_a_file_or_a_module(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def double(x):\n    return 2 * x\n\nnumber = 3\n", encoding="utf-8")
    assert load_function(f"{file}:double")(4) == 8
    assert load_function("math:sqrt")(9.0) == 3.0
    for name, said in (
        ("double", "expected file.py:name"),
        (f"{file}:number", "not a function, but int"),
        (f"{file}:doubl", "double"),
    ):
        with pytest.raises(TaskError, match=said):
            load_function(name)

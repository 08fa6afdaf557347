"""`normsmith study`: what it prints where, what it leaves behind, and how it takes a mistake."""

import csv
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from normsmith.studies import StudyResult
from normsmith.studies.store import Record, Store

SMALL = ("-q", "fewer-steps", "--seeds", "2", "--jobs", "1")


def refused(ran, *words):
    """Exit code 2, one line on standard error with these words, no traceback, nothing on standard output."""
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err
    return ran.err


def test_a_study_leaves_verdicts_a_report_and_a_store(normsmith, tiny, tmp_path):
    ran = normsmith("study", tiny(), *SMALL)
    assert ran.code == 0
    assert "inconclusive" in ran.out
    assert "trials to run, about" in ran.err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    with Store("sqlite:///study.db") as store:
        assert store.count() > 0


def test_json_and_csv_are_alone_on_standard_output(normsmith, tiny, tmp_path):
    first = normsmith("study", tiny(), *SMALL, "--no-report", "--format", "json")
    result = StudyResult.model_validate_json(first.out)
    assert result.answers[0].question == "fewer-steps"
    assert not (tmp_path / "report.html").exists()
    second = normsmith("study", tiny(), *SMALL, "--no-report", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(second.out)))
    assert {row["question"] for row in rows} == {"fewer-steps"}
    assert "0 trials to run" in second.err
    assert "found in the store" in second.err


def test_the_password_of_a_store_is_not_in_the_report(normsmith, tiny, monkeypatch):
    import normsmith.cli.stores as module

    opened = []

    class Hidden(Store):
        def __init__(self, url):
            opened.append(url)
            super().__init__("sqlite://")
            self.url = "postgresql://me:***@host/db"

    monkeypatch.setattr(module, "Store", Hidden)
    ran = normsmith(
        "study",
        tiny(),
        *SMALL,
        "--no-report",
        "--format",
        "json",
        "--store",
        "postgresql://me:secret@host/db",
    )
    assert opened == ["postgresql://me:secret@host/db"]
    assert "secret" not in ran.out + ran.err
    assert "***" in StudyResult.model_validate_json(ran.out).command


def test_a_study_of_which_every_trial_raised_says_so_first_and_reports_it(normsmith, tiny, tmp_path):
    ran = normsmith("study", tiny("raising"), *SMALL)
    assert ran.code == 1
    said = "No trial came to its end, so this study says nothing"
    assert ran.out.startswith(said)
    assert "the loader is out of order" in " ".join(ran.out.split())
    page = (tmp_path / "report.html").read_text()
    assert page.index(said) < page.index("All hypotheses")


def test_a_study_of_which_every_trial_diverged_is_no_success(normsmith, tiny, tmp_path):
    ran = normsmith("study", tiny("hopeless"), *SMALL)
    assert ran.code == 1
    assert ran.out.startswith("No trial came to its end")
    assert "Smaller learning rates may help" in " ".join(ran.out.split())
    assert "No trial came to its end" in (tmp_path / "report.html").read_text()


def test_one_failed_arm_among_good_ones_is_exit_code_1(normsmith, tiny):
    ran = normsmith("study", tiny("half"), *SMALL, "--no-report")
    assert ran.code == 1
    assert "raised" in ran.out + ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no_such.py:task",), ("no_such.py", "no such file")),
        (("digits-mpl",), ("digits-mpl", "digits-mlp")),
        (("digits-mlp", "-q", "placment"), ("placment", "placement")),
        (("digits-mlp", "--seeds", "0"), ("--seeds",)),
        (("digits-mlp", "--jobs", "0"), ("--jobs",)),
        (("digits-mlp", "--timeout", "0"), ("timeout",)),
        (("digits-mlp", "--budget", "30"), ("budget", "90s, 30m, 2h", "'30'")),
        (("digits-mlp", "--budget", "9" * 30 + "h"), ("budget", "a year at most")),
        (("digits-mlp", "--budget", "1h", "--seeds", "5"), ("budget", "10 and at 20 seeds")),
        (("digits-mlp", "--again-with", "refrence"), ("refrence", "did you mean reference?")),
        (("digits-mlp", "--report", "no/such/folder/report.html"), ("no/such/folder",)),
        (("digits-mlp", "--store", "sqlite:///no/such/folder/s.db"), ("no/such/folder",)),
        (("digits-mlp", "--store", "nonsense"), ("nonsense",)),
    ],
)
def test_mistakes_are_one_line(normsmith, arguments, words, tmp_path):
    refused(normsmith("study", *arguments), *words)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "study.db").exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("loss=lambda o, t: o.sum() * float('nan')", ("loss is nan",)),
        ("batch_size=5000", ("5000",)),
        ("metric=lambda o, t: 1 / 0", ("metric", "division by zero")),
        ("metric=lambda o, t: float('nan')", ("metric is nan",)),
        ("model=lambda: 1 / 0", ("model", "division by zero")),
        ("forward=lambda m, b: (m(b[0][:, :3]), b[1])", ("forward",)),
        ("train=(x, y * 0)", ("at least two classes", "class 0", "100 samples")),
    ],
)
def test_a_task_that_cannot_work_is_refused_before_anything_is_written(normsmith, tmp_path, source, words):
    (tmp_path / "bad.py").write_text(
        "import torch\nfrom torch import nn\nfrom normsmith import Task, accuracy\n"
        "x, y = torch.randn(100, 6), torch.randint(3, (100,))\n"
        "fields = dict(model=lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)), train=(x, y),\n"
        "              validation=(x, y), test=(x, y), loss=nn.functional.cross_entropy, metric=accuracy)\n"
        f"task = Task(**{{**fields, **dict({source})}})\n"
    )
    before = b"an old report"
    (tmp_path / "report.html").write_bytes(before)
    said = refused(normsmith("study", "bad.py:task", *SMALL), *words)
    assert len(said.strip().splitlines()) == 1
    assert (tmp_path / "report.html").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} <= {"bad.py", "report.html", "__pycache__"}


def test_a_refusal_leaves_what_was_there_and_nothing_else(normsmith, tiny, tmp_path):
    questions = ("-q", "small-batches", "--seeds", "1")
    refused(normsmith("study", tiny("pairs"), *questions, "--sink", "tensorboard:runs"), "cannot be asked")
    assert not [*tmp_path.glob("study.db*"), *tmp_path.glob("runs")]
    Store("sqlite:///study.db").close()
    refused(normsmith("study", tiny("pairs"), *questions), "cannot be asked")
    assert (tmp_path / "study.db").exists()


def test_stores_that_are_not_ours_stay_as_they_were(normsmith, tiny, tmp_path):
    others = tmp_path / "others.db"
    with sqlite3.connect(others) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database at all")
    newer = tmp_path / "newer.db"
    Store(f"sqlite:///{newer}").close()
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE meta SET schema_version = 99")
    connection.close()
    for path, word in ((others, "another"), (text, "another"), (newer, "newer")):
        before = path.read_bytes()
        refused(normsmith("study", tiny(), *SMALL, "--store", f"sqlite:///{path}"), word)
        assert path.read_bytes() == before


def test_a_trial_that_was_changed_in_the_store_is_no_answer(normsmith, tiny, tmp_path):
    normsmith("study", tiny(), *SMALL, "--no-report")
    with sqlite3.connect(tmp_path / "study.db") as connection:
        (key,) = connection.execute("SELECT key FROM trials WHERE status = 'finished' LIMIT 1").fetchone()
        changed = "UPDATE trials SET measurements = replace(measurements, '0.', '0.9') WHERE key = ?"
        connection.execute(changed, (key,))
    connection.close()
    said = refused(normsmith("study", tiny(), *SMALL), key, "delete that row")
    assert said.count("error: ") == 1


def test_a_sample_is_run_again_on_another_backend(normsmith, tiny, tmp_path):
    small = ("-q", "fewer-steps", "--seeds", "1", "--steps", "5", "--jobs", "1", "--again-with", "aten")
    ran = normsmith("study", tiny(), *small)
    assert ran.code == 0
    words = "Run again with aten:"
    assert words in ran.out
    assert words in (tmp_path / "report.html").read_text()


@pytest.fixture
def interruptible():
    """Processes that a test starts react to interrupts, which a shell's background jobs are set to ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_keeps_what_is_finished(tiny, tmp_path):
    path = tmp_path / "study.db"
    running = subprocess.Popen(
        [
            sys.executable, "-m", "normsmith", "study", tiny("slow"), *SMALL,
            "--store", f"sqlite:///{path}", "--no-report",
        ],
        env={**os.environ, "TINY_SLEEP": "0.05"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while count(path) < 1 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    said = ""
    for _ in range(6):  # an interrupt that falls into a destructor is swallowed by Python: people press again
        os.killpg(running.pid, signal.SIGINT)
        try:
            _, said = running.communicate(timeout=20)
            break
        except subprocess.TimeoutExpired:
            continue
    assert running.returncode == 130, said
    assert "Traceback" not in said
    assert f"{count(path)} trials are kept" in " ".join(said.split())


def test_an_interrupted_study_in_memory_promises_nothing(normsmith, tiny, monkeypatch):
    import normsmith.cli.study as module

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_study", interrupted)
    ran = normsmith("study", tiny(), *SMALL, "--store", "sqlite://")
    assert ran.code == 130
    assert "nothing is kept, since the store sqlite:// is in memory" in " ".join(ran.err.split())


def test_a_study_that_is_asked_to_end_says_what_is_kept(normsmith, tiny, monkeypatch):
    import normsmith.cli.study as module

    def terminated(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(module, "run_study", terminated)
    ran = normsmith("study", tiny(), *SMALL)
    assert ran.code == 143
    assert "terminated: 0 trials are kept in sqlite:///" in " ".join(ran.err.split())


def count(path):
    """Committed trials; none while there is no store yet."""
    if not path.exists():
        return 0
    with Store(f"sqlite:///{path}") as store:
        return store.count()


def test_records_of_other_tasks_do_not_disturb(normsmith, tiny):
    with Store("sqlite:///study.db") as store:
        store.put(Record({}, "finished", "", {}, 1.0, {}))
    assert normsmith("study", tiny(), *SMALL, "--no-report").code == 0


@pytest.mark.parametrize(
    ("arguments", "asked", "budget"),
    [
        (("--recommend",), ["which-norm"], None),
        (("-q", "placement", "--recommend", "--budget", "1h30m"), ["placement", "which-norm"], 5400.0),
        (("--budget", "90s"), ["fewer-steps"], 90.0),  # among those of the profile
    ],
)
def test_a_recommendation_is_a_question_and_a_budget_a_setting(
    normsmith, tiny, monkeypatch, arguments, asked, budget
):
    import normsmith.cli.study as module

    seen = []

    def stopped(name, questions, store, settings, **more):
        seen.append(([question.name for question in questions], settings.budget))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_study", stopped)
    normsmith("study", tiny(), *arguments)
    ((names, seconds),) = seen
    assert set(asked) <= set(names)
    assert ("which-norm" in names) == ("--recommend" in arguments)
    assert seconds == budget


def test_sinks_get_the_trials_and_a_report_is_written_again(normsmith, tiny, tmp_path):
    ran = normsmith("study", tiny("one_rate"), *SMALL, "--steps", "5", "--sink", "tensorboard:runs")
    assert ran.code == 0
    runs = {path.parent for path in (tmp_path / "runs").rglob("events.*")}
    page = (tmp_path / "report.html").read_bytes()
    with Store("sqlite:///study.db") as store:
        assert len(runs) == store.count()
        assert "--sink tensorboard:" in store.studies.all()[0].asked.command
    assert normsmith("report", "study.db", "--report", "again.html").code == 0
    assert (tmp_path / "again.html").read_bytes() == page


def test_a_sink_that_there_is_not_is_refused_before_a_store_is_made(normsmith, tiny, tmp_path):
    refused(
        normsmith("study", tiny(), *SMALL, "--sink", "tensorbord:runs"),
        "expected a sink such as",
        "did you mean tensorboard?",
    )
    assert not (tmp_path / "study.db").exists()

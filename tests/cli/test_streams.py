"""Standard streams that nobody reads, or that are not there at all."""

import io
import os
import subprocess
import sys

import pytest

from normsmith.cli.streams import Unread, open_standard


def test_words_that_nobody_reads_go_nowhere(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        stream = Unread("stdout")
        for _ in range(3):
            stream.write("x" * 100_000)
            stream.flush()
        assert not stream.isatty()
        assert stream.fileno() == broken.fileno()


def test_a_stream_that_was_closed_from_the_start_takes_words_too(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    open_standard()
    with sys.stderr:
        assert Unread("stderr").write("lost") == 4
        assert not Unread("stderr").isatty()


def test_a_file_never_takes_the_place_of_standard_error(tmp_path):
    """In a process of its own, as the runner of tests needs its standard error."""
    code = "import os; os.close(2); from normsmith.cli.streams import open_standard; open_standard();"
    code += f"os.write(2, b'x'); print(open({str(tmp_path / 'data')!r}, 'w').fileno())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(ran.stdout) > 2
    assert ran.stderr == ""
    open_standard()  # all are open here: nothing to do


def test_words_that_somebody_reads_arrive(monkeypatch):
    read = io.StringIO()
    monkeypatch.setattr(sys, "stdout", read)
    Unread("stdout").write("words")
    assert read.getvalue() == "words"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A store with the trials of these studies, after the first of them."""
    return f"sqlite:///{tmp_path_factory.mktemp('shared')}/study.db"


@pytest.mark.parametrize(
    ("options", "redirection"),
    [
        ("--store {shared}", "| head -1"),
        ("--store {shared} --format json", "| head -1"),
        ("--store {shared} --format csv", "| true"),
        ("", "2>&1 | head -1"),  # it leaves while trials run
        ("--store {shared}", "2>&-"),
    ],
)
def test_a_study_whose_reader_leaves_is_a_study_that_succeeded(tiny, tmp_path, shared, options, redirection):
    command = (
        f"{sys.executable} -m normsmith study {tiny()} -q fewer-steps --seeds 1 --jobs 1 --steps 5 "
        f"{options.format(shared=shared)}"
    )
    shell = f"set -o pipefail; {command} {redirection}"
    ran = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "BrokenPipe" not in ran.stderr
    assert (tmp_path / "report.html").exists()

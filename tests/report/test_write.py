"""Where a report can be written is known before the study, and what is said where it cannot."""

import os
import sys

import pytest
from tests.report import samples

from normsmith.errors import ReportError
from normsmith.report.html import render_html, write_html
from normsmith.report.write import check_writable, write_text


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_file_holds_the_report_and_nothing_else_is_left(tmp_path):
    result = samples.one_seed()
    write_html(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_html(result)
    assert listing(tmp_path) == ["report.html"]


def test_a_report_that_cannot_be_written_says_where_and_why(tmp_path, monkeypatch):
    target = tmp_path / "r.html"
    target.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(
        ReportError, match=r"write the report at .*r\.html, got No space left on device\. Name"
    ):
        write_text("new", target)
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["r.html"]


def test_checking_touches_nothing(tmp_path):
    check_writable(tmp_path / "new.html")
    assert listing(tmp_path) == []
    (tmp_path / "old.html").write_text("old")
    check_writable(tmp_path / "old.html")
    assert (tmp_path / "old.html").read_text() == "old"
    assert listing(tmp_path) == ["old.html"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/r.html", "does not exist. Create it"),
        ("file/r.html", "which is a file"),
        ("folder", "which is a folder. Name a file in it"),
        ("x" * 300 + ".html", "File name too long"),
    ],
)
def test_where_a_report_cannot_be_is_said_before_the_study(tmp_path, path, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=message):
        check_writable(tmp_path / path)
    with pytest.raises(ReportError, match=message):
        write_html(samples.empty(), tmp_path / path)
    assert listing(tmp_path) == ["file", "folder"]


def test_a_folder_that_takes_no_file(tmp_path, monkeypatch):
    if os.access("/", os.W_OK) and sys.platform == "linux":
        folder = "/proc"  # takes no file, even from root
    else:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
    with pytest.raises(ReportError, match="expected to write the report at"):
        check_writable(f"{folder}/r.html")


def test_a_file_that_may_not_be_written(tmp_path, monkeypatch):
    target = tmp_path / "r.html"
    target.write_text("old")
    target.chmod(0o400)
    # root may write anything, so the answer to the question is the one others would get
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(ReportError, match="which may not"):
        check_writable(target)


def test_a_device_is_not_a_report():
    with pytest.raises(ReportError, match="expected the path of a file that may be written"):
        check_writable(os.devnull)

"""Files are written whole or not at all, on every path out of the block."""

import os
import stat

import pytest

from normsmith import _files
from normsmith.errors import InputError


def refused(reason):
    return InputError(f"cannot write: {reason}")


def write(text, path, how=_files.replacing):
    with how(path, refused) as temporary:
        temporary.write_text(text)


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def no_space(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path):
    old = os.umask(0o027)
    try:
        write("one", tmp_path / "replaced")
        write("one", tmp_path / "created", _files.creating)
    finally:
        os.umask(old)
    assert permissions(tmp_path / "replaced") == permissions(tmp_path / "created") == 0o640
    (tmp_path / "replaced").chmod(0o604)
    write("two", tmp_path / "replaced")
    assert permissions(tmp_path / "replaced") == 0o604
    assert (tmp_path / "replaced").read_text() == "two"


@pytest.mark.parametrize("how", [_files.replacing, _files.creating])
def test_a_link_stays_a_link_also_where_it_leads_nowhere_yet(tmp_path, how):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write("new", tmp_path / "link", how)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"
    assert listing(tmp_path / "real") == ["file"]
    write("newer", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "newer"


@pytest.mark.parametrize("broken", ["fsync", "replace", "chmod"])
def test_a_refusal_leaves_the_old_file_and_is_the_callers_error(tmp_path, monkeypatch, broken):
    target = tmp_path / "file"
    target.write_text("old")
    owner = os if broken == "fsync" else type(target)
    monkeypatch.setattr(owner, broken, no_space)
    with pytest.raises(InputError, match="cannot write: No space left on device"):
        write("new", target)
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize("how", [_files.replacing, _files.creating])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError, OSError])
def test_whatever_ends_the_block_early_leaves_nothing(tmp_path, how, raised):
    def begin_and_fail():
        with how(tmp_path / "file", refused) as temporary:
            temporary.write_text("half")
            raise raised

    with pytest.raises(InputError if raised is OSError else raised):
        begin_and_fail()
    assert listing(tmp_path) == []


def test_the_contents_are_on_the_disk_before_the_name(tmp_path, monkeypatch):
    target, steps = tmp_path / "file", []
    target.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: steps.append(target.read_text()))
    write("new", target)
    assert steps == ["old"]
    assert target.read_text() == "new"


def test_creating_leaves_a_file_that_somebody_else_has_made(tmp_path):
    with _files.creating(tmp_path / "file", refused) as temporary:
        temporary.write_text("mine")
        (tmp_path / "file").write_text("theirs")
    assert (tmp_path / "file").read_text() == "theirs"
    assert listing(tmp_path) == ["file"]


def test_creating_works_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(type(tmp_path), "hardlink_to", unsupported)
    write("new", tmp_path / "file", _files.creating)
    assert (tmp_path / "file").read_text() == "new"
    assert listing(tmp_path) == ["file"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="cannot write: No such file or directory"):
        write("new", tmp_path / "missing" / "file")
    assert listing(tmp_path) == []


@pytest.mark.parametrize("how", [_files.replacing, _files.creating])
def test_a_link_to_itself_and_a_name_that_no_file_has_are_refused(tmp_path, how):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", tmp_path / "nul\0byte"):
        with pytest.raises(InputError, match="cannot write"):
            write("new", path, how)
    assert listing(tmp_path) == ["loop"]

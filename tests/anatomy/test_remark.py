"""Remarks and refusals are plain data about a module."""

from normsmith.anatomy import Refusal, Remark


def test_a_remark_is_moved_to_a_path_and_stays_what_it_is():
    refusal = Refusal("", "it is lazy")
    moved = refusal.at("body.norm")
    assert moved == Refusal("body.norm", "it is lazy")
    assert type(moved) is Refusal
    assert type(Remark("", "frozen").at("a")) is Remark
    assert refusal.path == ""


def test_a_refusal_is_no_mere_remark():
    assert Refusal("a", "because") != Remark("a", "because")
    assert isinstance(Refusal("a", "because"), Remark)

"""The pieces of a drawing: escaped, stretching across, in pixels down."""

from normsmith.report import svg
from normsmith.report.axes import Axis

AXIS = Axis(0.0, 1.0, log=False, ticks=tuple((i / 5, str(i)) for i in range(6)))


def test_text_and_attributes_are_escaped():
    drawn = svg.element("text", "<b>&", data_name='"><script>')
    assert drawn == '<text data-name="&#34;&gt;&lt;script&gt;">&lt;b&gt;&amp;</text>'


def test_places_across_are_shares_and_places_down_are_pixels():
    assert (
        svg.line((0.25, 1), (3, 4), "grid") == '<line x1="25%" x2="100%" y1="3" y2="4" class="grid"></line>'
    )
    assert 'width="50%" height="10"' in svg.area((0.25, 0.75), (0, 10), "claimed")
    assert svg.mark("ring", 0.5, 3, "ink") == '<use href="#mark-ring" x="50%" y="3" class="ink"></use>'
    assert "<title>seed 1</title>" in svg.mark("ring", 0.5, 3, "ink", "seed 1")


def test_a_path_has_a_move_for_each_stretch_and_closes_areas():
    open_ = svg.path([[(0, 1), (0.5, 2)], [(1, 3)]], 10, class_="stroke")
    assert 'd="M0 1L500 2M1000 3"' in open_
    assert 'preserveAspectRatio="none"' in open_
    assert "Z" in svg.path([[(0, 1), (0.5, 2), (1, 3)]], 10, close=True, class_="band")


def test_every_second_label_may_go_where_there_are_many():
    assert svg.labels(AXIS, 10).count('class="tick odd"') == 3
    few = Axis(0.0, 1.0, log=False, ticks=AXIS.ticks[:3])
    assert "odd" not in svg.labels(few, 10)
    assert svg.grid(AXIS, 0, 10).count("<line") == 6

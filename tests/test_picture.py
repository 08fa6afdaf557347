"""The picture of the kernels' page: drawn from the results that are kept, against the best peer of each row."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from benchmarks import picture
from benchmarks.protocol import RESULTS

RESULT = """\
| bn · NCHW 4,3,2,2 · fp32 | fresh | 2 | step | 10.0 | 3 (2 to 4) | oneDNN 1.5 (1 to 2), torch NHWC 2 (1 to 3) |  | 9 |
| bn · 7,9 · fp32 | fresh | 2 | step | 10.0 | 0.8 (0.7 to 0.9) |  |  | 9 |
| bn · 7,9 · fp32 | fresh | 1 | step | 10.0 | 9 (9 to 9) |  |  | 9 |
| bn · 7,9 · bf16 | fresh | 2 | step | 10.0 | 9 (9 to 9) |  |  | 9 |
"""


def test_rows_are_those_of_the_best_peer() -> None:
    drawn = picture.rows(RESULT)
    assert drawn == [picture.Row("NCHW 4,3,2,2", 1.5, "oneDNN"), picture.Row("7,9", 0.8, "torch")]
    root = ET.fromstring(picture.svg(drawn))
    assert len(root.findall(".//{*}circle")) == 2
    assert picture._at(0.8) < picture._at(1) < picture._at(1.5)


def test_the_picture_is_that_of_the_results() -> None:
    drawn = picture.rows((RESULTS / "cpu.md").read_text(encoding="utf-8"))
    assert len(drawn) > 10
    assert picture.PICTURE.read_text(encoding="utf-8") == picture.svg(drawn)

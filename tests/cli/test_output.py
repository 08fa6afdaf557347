"""Results go to standard output as asked, what is said to standard error."""

from tests.report.samples import ordinary

from normsmith.cli.output import say, write_result
from normsmith.cli.study_options import Format
from normsmith.report import to_csv, to_json


def test_a_result_is_written_in_each_form(capfd):
    write_result(ordinary(), Format.JSON)
    assert capfd.readouterr().out == f"{to_json(ordinary())}\n"
    write_result(ordinary(), Format.CSV)
    assert capfd.readouterr().out == to_csv(ordinary())
    write_result(ordinary(), Format.TEXT)
    assert ordinary().answers[0].title in " ".join(capfd.readouterr().out.split())
    say("a word " * 40)
    assert capfd.readouterr() == ("", "a word " * 40 + "\n")

import io

import pytest
from rich.console import Console
from tests.report import samples

from normsmith.report import words
from normsmith.report.html import render_html
from normsmith.report.text import print_verdicts
from normsmith.studies import notation


def printed(result, width=80, encoding="utf-8", **options):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    print_verdicts(result, Console(file=stream, width=width, legacy_windows=False, **options))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.mark.parametrize("make", [samples.ordinary, samples.nasty, samples.one_seed, samples.empty])
@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_fits_the_terminal(make, width):
    assert max(len(line) for line in printed(make(), width).splitlines()) <= width


def test_says_every_verdict_effect_and_headline():
    text = " ".join(printed(samples.ordinary(), 140).split())
    for answer in samples.ordinary().answers:
        assert answer.question in text
        assert f"{answer.title} {answer.headline}" in text
        for effect in answer.effects:
            assert effect.name in text
    assert notation.estimate_and_interval(samples.fewer_steps().effects[1]) in text
    assert "2 of 8 censored" in text
    assert text.count("holds") >= 5
    assert "reversed" in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_word_is_broken_and_no_line_ends_in_blanks(width):
    lines = printed(samples.study(samples.fewer_steps(), samples.placement()), width).splitlines()
    words = {word for line in lines for word in line.split()}
    whole = {word for line in printed(samples.ordinary(), 1000).splitlines() for word in line.split()}
    assert words <= whole | {"\u2500" * n for n in range(width + 1)}
    assert width > 80 or not [line for line in lines if line != line.rstrip()]


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_gets_plain_text(width):
    text = printed(samples.ordinary(), width)
    assert "\u2500" not in text
    assert text.startswith("digits-mlp\n")


def test_every_verdict_has_its_reason_and_a_wide_table_its_arms():
    effects = samples.placement().effects
    for width in (40, 120):
        text = " ".join(printed(samples.ordinary(), width).split())
        for effect in effects:
            assert f"{effect.verdict.value}: {effect.name} {words.finding(effect)}" in text
    wide = printed(samples.ordinary(), 120)
    assert "treatment" in wide
    assert "control" in wide


def test_a_study_of_which_nothing_finished_says_so_first():
    failures = samples.failures()[:16]
    text = printed(samples.study(samples.placement(), failures=failures, trials_new=16, trials_reused=0))
    assert text.startswith("No trial came to its end")


def test_says_what_must_be_known_of_the_whole():
    noted = samples.ordinary().model_copy(update={"notes": ("2 trials ran <code> of yours.",)})
    assert "2 trials ran <code> of yours." in printed(noted)
    assert '<p class="notice">2 trials ran &lt;code&gt; of yours.</p>' in render_html(noted)


def test_says_what_did_not_finish_and_what_was_reused():
    text = printed(samples.ordinary())
    assert "16 trials diverged, 1 trial raised an error." in text
    assert "  tanh, bn, lr=0.5, seed 3: RuntimeError: the metric got an empty batch" in text
    assert "424 trials run in 2 min 14 s, 120 reused from the store." in text
    assert "Every trial ran to its last step." in printed(samples.one_seed())


def test_many_failures_are_cut_short():
    one = samples.failures()[-1]
    many = tuple(one.model_copy(update={"setting": f"lr={i}"}) for i in range(9))
    text = printed(samples.study(samples.placement(), failures=many))
    assert text.count("RuntimeError") == 5
    assert "and 4 more groups" in text


def test_colour_only_where_the_terminal_has_it():
    assert "\x1b[" not in printed(samples.ordinary())
    assert "\x1b[1;32m" in printed(samples.ordinary(), force_terminal=True, color_system="standard")


def test_an_ascii_terminal_gets_ascii():
    text = printed(samples.nasty(), 120, encoding="ascii")
    assert "0.707x" in text.replace("\n", "")
    minus = printed(samples.study(samples.small_batches()), 120, encoding="ascii")
    assert "-1.15" in minus


def test_a_name_cannot_steer_the_terminal_or_use_markup():
    result = samples.study(
        samples.placement().model_copy(update={"headline": "[red]x[/red] \x1b]0;owned\x07\x1b[2J"})
    )
    text = printed(result)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text


def test_skipped_questions_are_told():
    skipped = {"saturation": "no sigmoid", "own-norms": "no norms", "dropout": "no sigmoid"}
    text = printed(samples.study(samples.placement(), skipped=skipped))
    assert "Not asked: saturation, dropout: no sigmoid\n" in text
    assert "Not asked: own-norms: no norms" in text


def test_looks_and_the_recommendation_are_said_and_the_latter_comes_last():
    text = " ".join(printed(samples.budgeted()).split())
    assert "Judged at look 1 of 2, at 10 seeds, with 0.8 % of the 5 %." in text
    assert "Judged at look 2 of 2, at 20 seeds, with 4.2 % of the 5 %." in text
    assert text.endswith("The budget was 10 min. Use batch norm after the activation.")
    assert "look" not in printed(samples.ordinary())

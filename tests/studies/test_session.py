"""Questions go on together and share trials; what cannot be asked, fails, or is not covered is said."""

from dataclasses import replace

import pytest
from tests.studies.tiny import Unsequential, make, network
from torch import nn

from normsmith.errors import StudyError
from normsmith.studies import Settings, Store, run_study, select
from normsmith.studies.arms import AS_IS, Arm, edit, normalized
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.kept import AskedStudy, Asking
from normsmith.studies.lab import Lab
from normsmith.studies.progress import Silent
from normsmith.studies.question import Findings
from normsmith.studies.rehearsal import rehearse
from normsmith.studies.session import Session
from normsmith.studies.sinks import Sinks
from normsmith.studies.trial import Trial


def test_questions_share_their_trials(store, tiny):
    one = run_study(tiny(), select(("fewer-steps",)), store, Settings(seeds=2))
    both = run_study(tiny(), select(("fewer-steps", "placement")), store, Settings(seeds=2))
    assert both.trials_reused >= one.trials_new
    assert [answer.question for answer in both.answers] == ["fewer-steps", "placement"]


def test_arms_that_have_results_are_not_built_again(store, tiny, monkeypatch):
    first = run_study(tiny(), select(("fewer-steps",)), store, Settings(seeds=1, steps=5))
    built, build = [], Arm.build
    monkeypatch.setattr(Arm, "build", lambda arm, *rest: (built.append(arm.name), build(arm, *rest))[1])
    again = run_study(tiny(), select(("fewer-steps",)), store, Settings(seeds=1, steps=5))
    assert (again.trials_new, again.trials_reused) == (0, first.trials_new + first.trials_reused)
    assert set(built) == {
        "batch norm before activation"
    }  # to see on which side of an activation a norm may stand


def test_what_cannot_be_asked_is_skipped_with_its_reason(store, tiny):
    with pytest.raises(StudyError, match="placement cannot be asked"):
        run_study(tiny("flat"), select(("placement",)), store, Settings(seeds=2))
    assert store.count() == 0


def test_an_error_of_one_question_is_the_reason_why_that_one_is_skipped(store, tiny):
    def broken(lab):
        yield from _out_of_range(lab)

    def unbuilt(lab):
        yield [Trial(Arm("broken", data=(edit(_out_of_range),)), 0.1, 0, 5)]
        return Findings("it fits", ())

    (question,) = select(("placement",))
    for ask in (broken, unbuilt):
        with pytest.raises(StudyError, match=r"^other cannot be asked: IndexError: out of range$"):
            run_study(tiny("task"), [replace(question, name="other", ask=ask)], store, Settings(seeds=2))


def _out_of_range(task):
    raise IndexError("out of range")


def test_what_does_not_fit_the_network_is_said_before_anything_runs(store, tiny):
    """Also where a trial that fits is asked for first, and once for all questions that say the same."""

    def ask(lab):
        yield [Trial(AS_IS, 0.1, 0, 5)]
        yield [Trial(normalized(None), 0.1, 0, 5)]
        return Findings("it fits", ())

    questions = [replace(select(("placement",))[0], name=name, ask=ask) for name in ("one", "two")]
    with pytest.raises(StudyError, match=r"^one, two cannot be asked: .*activation"):
        run_study(tiny("flat"), questions, store, Settings(seeds=2))
    assert store.count() == 0


def test_failed_trials_are_named_and_tried_again(store, tiny):
    for _ in range(2):
        result = run_study(tiny("raising"), select(("fewer-steps",)), store, Settings(seeds=2))
        assert result.trials_new > 0
        assert result.nothing_finished
        assert result.answers == ()
        assert "ran to its end" in result.skipped["fewer-steps"]
    assert store.count() > 0


def test_failures_come_in_one_order_however_their_trials_ended(store, tiny):
    run_study(tiny("diverging"), select(("fewer-steps",)), store, Settings(seeds=1))
    grown = run_study(tiny("diverging"), select(("fewer-steps",)), store, Settings(seeds=2))
    with Store("sqlite://") as empty:
        fresh = run_study(tiny("diverging"), select(("fewer-steps",)), empty, Settings(seeds=2))
    assert len(fresh.failures) > 2
    assert grown.failures == fresh.failures


def test_what_ran_code_that_no_key_covers_is_not_stored(store, tiny, tmp_path, monkeypatch):
    (tmp_path / "chosen.py").write_text("WIDTH = 3\n")
    monkeypatch.setenv("TINY_IMPORT", str(tmp_path / "chosen.py"))
    for _ in range(2):
        result = run_study(tiny("loading"), select(("placement",)), store, Settings(seeds=1, steps=2))
        assert result.answers
        assert store.count() == result.trials_reused == 0
        (note,) = result.notes
        assert f"{result.trials_new} trials ran code of yours that no key covers" in note
        assert f": {tmp_path / 'chosen.py'}." in note
    monkeypatch.delenv("TINY_IMPORT")
    result = run_study(tiny("loading"), select(("placement",)), store, Settings(seeds=1, steps=2))
    assert store.count() == result.trials_new > 0
    assert result.notes == ()


class Attending(nn.Module):
    """A transformer of torch's, which reads the weights of its layer norms from outside of them."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(6, 1, 8, batch_first=True)
        self.encoder, self.last = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.encoder(x[:, None]).mean(1))


class Remembering(nn.Module):
    """A network whose activations are inside its recurrent layer."""

    def __init__(self):
        super().__init__()
        self.recurrent, self.last = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.recurrent(x[:, None])[0][:, -1])


def convolutions():
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)),
        nn.Conv1d(1, 4, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        # no norms: what others put in, one question has to find
        (network, {"own-norms": "it is about the batch norms that a network has, and Sequential has none"}),
        (convolutions, {}),
        (Remembering, {
            "own-norms": "it is about the batch norms that a network has, and Remembering has none",
            "saturation": "the activations of recurrent (LSTM) are inside it, where this question can change nothing",
        }),
        (Attending, {
            "own-norms": "it is about the batch norms that a network has, and Attending has none",
            "saturation": "its norms cannot be taken out (encoder.layers.0.norm1 and 3 more: the forward of "
            "TransformerEncoder encoder reads its bias, weight, which Identity does not have)",
        }),
        (Unsequential, {  # activations are functions
            "own-norms": "it is about the batch norms that a network has, and Unsequential has none",
            "saturation": "its activations cannot be replaced ((model): its forward calls the function relu; make it a "
            "module)",
        }),
    ],
)  # fmt: skip
def test_why_a_question_does_not_fit_a_network_is_one_plain_sentence(store, model, reasons):
    task = make("other", model=model)
    lab = Lab(task, (0,), "quick", 5)
    asking = Asking(store.studies, AskedStudy("other", "", 1.0, (), {}, {}))
    reference = TaskReference("unused", None, "", {}, frozenset())
    session = Session(lab, store, Settings(), reference, asking, Silent(), Sinks(()))
    questions = select(("own-norms", "saturation"))
    assert session.unfit({question.name: rehearse(question, lab) for question in questions}) == reasons

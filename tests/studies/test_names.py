"""Edits and probes have names that outlive their files: stores are full of them."""

import functools
import json

import cloudpickle
import pytest

from normsmith.errors import StudyError
from normsmith.studies import (
    arms,
    data_edits,
    initial_weights,
    inputs,
    landscape,
    noise,
    other_statistics,
    probes,
    recurrence,
    shifts,
)
from normsmith.studies.arms import AS_IS, Arm, edit, normalized
from normsmith.studies.executors.local import LocalWorkers
from normsmith.studies.executors.reference import TaskReference
from normsmith.studies.names import name_of, named
from normsmith.studies.trial import Trial
from normsmith.tasks import load

MODULES = (
    arms,
    data_edits,
    initial_weights,
    inputs,
    landscape,
    noise,
    other_statistics,
    probes,
    recurrence,
    shifts,
)
NAMES = {
    arms.strip_norm: "strip-norm",
    arms.strip_batch_norm: "strip-batch-norm",
    arms.insert_norm: "insert-norm",
    arms.swap_activation: "swap-activation",
    arms.set_norms: "set-norms",
    arms.fix_affine: "fix-affine",
    arms.insert_whitening: "insert-whitening",
    arms.insert_dropout: "insert-dropout",
    arms.convert_norm: "convert-norm",
    arms.move_norm: "move-norm",
    initial_weights.initialise: "initialise",
    initial_weights.scale_hidden_weights: "scale-hidden-weights",
    data_edits.batch_size: "batch-size",
    data_edits.label_noise: "label-noise",
    data_edits.few_samples: "few-samples",
    data_edits.few_classes: "few-classes",
    inputs.distort: "distort-inputs",
    inputs.correlate: "correlate-inputs",
    inputs.prepare: "prepare-inputs",
    inputs.norm_first: "norm-first",
    inputs.standardise_outside: "standardise-outside",
    landscape.smoothness_signals: "smoothness",
    landscape.shift_signals: "internal-covariate-shift",
    noise.noise_after_norms: "noise-after-norms",
    other_statistics.recalibrated_metric: "recalibrated-metric",
    other_statistics.largest_mismatch: "largest-mismatch",
    other_statistics.batch_mode_metric: "batch-mode-metric",
    probes.activation_signals: "activation-signals",
    probes.renorm_activity: "renorm-activity",
    probes.training_metric: "training-metric",
    probes.largest_variance_shift: "variance-shift",
    probes.noise_by_batch: "noise-by-batch",
    shifts.shift_test: "shift-test-inputs",
    shifts.shifted_metrics: "shifted-metrics",
    recurrence.norm_in_recurrence: "norm-in-recurrence",
}
"""As they are in stores. A name that changes here takes every stored trial with it: raise the schema version too."""


def of_my_own(model, task):
    return model


@named("test/other")
def another(model, task):
    return model


@pytest.mark.parametrize(("function", "name"), NAMES.items(), ids=NAMES.values())
def test_names_are_what_stores_hold(function, name):
    assert name_of(function) == name


def test_every_edit_and_probe_that_ships_is_named_and_no_name_comes_twice():
    names = [
        name_of(value)
        for module in MODULES
        for name, value in vars(module).items()
        if "study_name" in getattr(value, "__dict__", {}) and value.__module__ == module.__name__
    ]
    assert sorted(names) == sorted(NAMES.values())
    assert len(set(names)) == len(names)


def test_functions_without_a_name_go_by_their_import_path():
    assert name_of(of_my_own) == f"{__name__}:of_my_own"


def test_what_a_key_is_a_hash_of():
    """Written out, so that a change to it is seen: it would void every store."""
    arm = normalized("tanh", "renorm", "after", total_steps=9).but(
        "x", edit(initial_weights.scale_hidden_weights, gain=2.0)
    )
    trial = Trial(arm, learning_rate=0.1, seed=3, steps=9, stream=1)
    assert json.loads(json.dumps(trial.spec())) == {
        "arm": [
            {"edit": "strip-norm", "arguments": {}},
            {"edit": "swap-activation", "arguments": {"activation": "tanh"}},
            {"edit": "insert-norm", "arguments": {"norm": "renorm", "where": "after", "total_steps": 9}},
            {"edit": "scale-hidden-weights", "arguments": {"gain": 2.0}},
        ],
        "learning_rate": 0.1,
        "seed": 3,
        "stream": 1,
        "steps": 9,
        "detail": "curve",
        "probes": ["activation-signals", "renorm-activity"],
    }
    assert trial.key("task", {"torch": "1"}) == (
        "54a17d37e4052163756cb32102cfdef7f62828abf387cb192e5057091954e37d"
    )


def test_edits_of_the_data_are_named_in_the_key_where_there_are_any():
    plain = Trial(AS_IS, 0.1, 0, 9)
    edited = Trial(AS_IS.on("x", edit(data_edits.batch_size, size=4)), 0.1, 0, 9)
    assert "data" not in plain.spec()
    assert edited.spec() == plain.spec() | {"data": [{"edit": "batch-size", "arguments": {"size": 4}}]}
    assert edited.key("task", {}) != plain.key("task", {})


def test_a_function_that_moves_keeps_its_trials(monkeypatch):
    before = Trial(AS_IS.but("x", edit(another)), 0.1, 0, 9).key("task", {})
    monkeypatch.setattr(another, "__module__", "elsewhere")
    monkeypatch.setattr(another, "__qualname__", "renamed")
    assert Trial(AS_IS.but("x", edit(another)), 0.1, 0, 9).key("task", {}) == before


def test_a_name_travels_with_a_function_that_is_pickled_by_value():
    cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    try:
        copy = cloudpickle.loads(cloudpickle.dumps(another))
    finally:
        cloudpickle.unregister_pickle_by_value(__import__("sys").modules[__name__])
    assert name_of(copy) == "test/other"


def test_a_module_that_is_loaded_again_declares_its_names_again():
    assert name_of(named("test/other")(another)) == "test/other"


def test_a_name_that_is_taken_is_refused_with_its_owner():
    with pytest.raises(
        StudyError, match=r"'strip-norm' of .*test_names\.py:of_my_own belongs to .*arms\.py:strip_norm"
    ):
        named("strip-norm")(of_my_own)
    assert name_of(of_my_own) == f"{__name__}:of_my_own"


@pytest.mark.parametrize("name", ["", "Strip", "strip norm", "a:b", "-a", "a//b"])
def test_what_is_no_name(name):
    with pytest.raises(StudyError, match="expected a name of letters in lower case"):
        named(name)


FILE_OF_A_USER = """
from normsmith.studies.names import named

@named("mylab/as-it-is")
def as_it_is(model, task):
    return model
"""


def test_a_file_that_is_loaded_twice_keeps_its_names(tmp_path):
    """As a script and as a task, or again after it was changed."""
    file = tmp_path / "mylab.py"
    for module, text in (("one", FILE_OF_A_USER), ("other", f"{FILE_OF_A_USER}# changed")):
        code = compile(text, str(file), "exec")
        space = {"__name__": module}
        exec(code, space)
        assert name_of(space["as_it_is"]) == "mylab/as-it-is"


@pytest.mark.usefixtures("unchecked")
def test_functions_of_which_there_may_be_several_need_a_def_of_their_own():
    def inner(model, task):
        return model

    for several in (inner, lambda model, task: model, functools.partial(of_my_own), object()):
        with pytest.raises(StudyError, match="stands in a module by itself"):
            name_of(several)
        with pytest.raises(StudyError, match="stands in a module by itself"):
            named("test/several")(several)


@pytest.mark.usefixtures("unchecked")
def test_a_function_has_one_name_and_only_functions_have_one():
    with pytest.raises(StudyError, match="has the name 'strip-norm' already"):
        named("test/second")(arms.strip_norm)
    with pytest.raises(StudyError, match="written in Python"):
        named("test/builtin")(len)
    with pytest.raises(StudyError, match="letters in lower case"):
        named(of_my_own)


@named("tests/as-it-was")
def as_it_was(model, task):
    return model


def test_files_of_edits_of_ones_own_are_covered_by_their_names(tiny):
    """This file runs in the worker, and is in no fingerprint: that would keep the trial out of the store."""
    trial = Trial(Arm("mine", (edit(as_it_was),)), 0.1, 0, 2)
    outcomes = []
    with LocalWorkers(TaskReference.to(load(tiny()), tiny()), 1, 60.0) as runner:
        runner.run([trial], lambda trial, outcome: outcomes.append(outcome))
    assert [(outcome.status, outcome.uncovered) for outcome in outcomes] == [("finished", ())]

"""Search: for each activation the place of its norm, or the reason why it gets none."""

from tests.surgery.networks import images
from tests.surgery.small import Gated, Residual

from normsmith.surgery import trace
from normsmith.surgery.placement.search import hidden_activations


def test_hidden_activations_are_those_that_insert_is_for():
    found = hidden_activations(trace(Gated(), images(4, 1)()))
    assert [(event.name, event.path) for event in found] == [("ReLU", "act")]
    assert [event.name for event in hidden_activations(trace(Residual()))] == ["relu"] * 5

"""The domain of a forward: named or by index, nested, per thread, recomputed; what is refused."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from normsmith.errors import InputError
from normsmith.layers import ConditionalBatchNorm1d, DomainBatchNorm1d, use_domain
from normsmith.layers.domains import domain_names, some_domain

NAMES = ("clean", "adversarial")


def net(**options):
    return nn.Sequential(nn.Linear(3, 3), DomainBatchNorm1d(3, NAMES, **options))


def test_blocks_are_nested_and_give_back_what_was_there():
    model = net()
    layer = model[1]
    with use_domain(model, "clean"):
        with use_domain(model, 1):
            assert layer.domain == "adversarial"
        assert layer.domain == "clean"
        index = torch.tensor([0, 1])
        with use_domain(model, index):
            assert layer.domain is not None
            assert layer.domain.tolist() == [0, 1]
    with pytest.raises(KeyError), use_domain(model, 1):
        raise KeyError
    assert layer.domain is None


def test_a_block_is_of_its_thread_alone():
    model, seen = net(default="adversarial"), {}
    inside, go_on = threading.Event(), threading.Event()

    def other():
        with use_domain(model, "clean"):
            seen["its own"] = model[1].domain
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    seen["here"] = model[1].domain
    go_on.set()
    thread.join()
    assert seen == {"its own": "clean", "here": "adversarial"}


def test_copies_and_pickles_made_in_a_block_are_outside_of_it():
    model = net()
    with use_domain(model, "clean"):
        twins = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
        assert [twin[1].domain for twin in twins] == [None, None]
    with use_domain(twins[0], "clean"):
        assert model[1].domain is None


def test_outside_of_a_block_a_forward_is_an_error_unless_there_is_a_default():
    model = net()
    with pytest.raises(
        InputError, match=r"Sequential\.1: expected a domain out of clean, adversarial, got none"
    ):
        model(torch.randn(4, 3))
    assert net(default="clean")(torch.randn(4, 3)).shape == (4, 3)
    with some_domain(model):
        assert model[1].domain == "clean"
        with use_domain(model, "adversarial"), some_domain(model):
            assert model[1].domain == "adversarial"
    assert model[1].domain is None


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("adverserial", "expected one of clean, adversarial, got 'adverserial'; did you mean adversarial?"),
        (2, "expected one of clean, adversarial, got 2"),
        (True, "expected one of clean, adversarial, got True"),
        ([0, 1], r"got \[0, 1\]; an index for each sample is a tensor of whole numbers"),
        (torch.tensor([0, 2]), "expected numbers from 0 to 1, .* got 2 for sample 1"),
        (torch.tensor([0.0, 1.0]), "expected a whole number for each sample"),
        (torch.zeros(2, 2, dtype=torch.long), r"of shape \(2, 2\)"),
    ],
)
def test_unknown_domains_are_refused_and_nothing_is_chosen(domain, message, unchecked):
    model = net()
    with pytest.raises(InputError, match=message), use_domain(model, domain):
        pass
    assert model[1].domain is None


def test_a_domain_that_one_layer_lacks_is_refused_for_all():
    model = nn.Sequential(DomainBatchNorm1d(3, NAMES), ConditionalBatchNorm1d(3, ("cat", "dog")))
    with (
        pytest.raises(InputError, match=r"Sequential\.1: domain: expected one of cat, dog"),
        use_domain(model, "clean"),
    ):
        pass
    assert model[0].domain is None
    with use_domain(model, 1):
        assert [layer.domain for layer in model] == ["adversarial", "dog"]


def test_a_model_without_domains_is_refused():
    with (
        pytest.raises(
            InputError, match="use_domain: expected a model with norms per domain, got BatchNorm1d"
        ),
        use_domain(nn.BatchNorm1d(3), "clean"),
    ):
        pass


@pytest.mark.parametrize(
    "domains", ["clean", ("clean",), ("clean", "clean"), 1, ("a", "b.c"), ("a", ""), ("keys", "a"), True]
)
def test_names_that_cannot_be_are_refused(domains):
    with pytest.raises(InputError, match="domains: expected"):
        domain_names(domains)


def test_defaults_are_among_the_domains():
    with pytest.raises(InputError, match=r"default: expected .*, got 'Clean'; did you mean clean"):
        net(default="Clean")


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("domains", [("clean", "adversarial"), (torch.tensor([0, 1, 1, 0, 0]), "clean")])
def test_recomputed_forwards_are_in_the_domain_of_their_original(reentrant, domains):
    model = net(affine="own").double()
    twin = copy.deepcopy(model)
    batches = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    losses = []
    for x, domain in zip(batches, domains, strict=True):
        with use_domain(model, domain):
            losses.append(checkpoint(model, x, use_reentrant=reentrant).pow(3).sum())
        with use_domain(twin, domain):
            twin(x.detach()).pow(3).sum().backward()
    with use_domain(model, "adversarial"):  # another block than that of the first loss
        sum(losses).backward()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-10)
    for one, other in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(one, other)

"""Norms with statistics per domain: made of batch norms, taken apart again, and what verbs do with them."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from normsmith import layers
from normsmith.errors import InputError, SurgeryError
from normsmith.layers import ConditionalNorm, DomainNorm, use_domain
from normsmith.surgery import Plan, convert, fold, freeze, load_checkpoint, recalibrate, strip

NAMES = ("clean", "adversarial")


def network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3)
    )
    model.register_forward_hook(lambda *_: None)
    for _ in range(2):
        model(images())
    with torch.no_grad():
        for place in (1, 5):
            model[place].weight.uniform_(0.5, 2)
            model[place].bias.normal_()
    return model


def images(rows=6):
    return torch.randn(rows, 3, 6, 6)


def per_domain(affine="shared", model=None):
    return convert(network() if model is None else model, "domain", domains=NAMES, affine=affine).apply()


@pytest.mark.parametrize("affine", ["shared", "own", "embedding"])
def test_every_domain_begins_as_the_pretrained_network_was(affine):
    model = network()
    twin, x = copy.deepcopy(model).eval(), images()
    plan = convert(model, "domain", domains=NAMES, affine=affine)
    verified = plan.verify(x)
    assert (verified.expects.evaluation, verified.expects.training) == ("same", "same")
    changed = plan.apply().eval()
    assert [type(changed[place]) for place in (1, 5)] == [
        ConditionalNorm if affine == "embedding" else DomainNorm
    ] * 2
    for domain in (*NAMES, torch.tensor([0, 1, 1, 0, 1, 0])):
        with use_domain(changed, domain):
            torch.testing.assert_close(changed(x), twin(x))
    plan.revert()
    torch.testing.assert_close(model.eval()(x), twin(x))


def test_statistics_are_apart_and_affines_shared_or_not():
    for affine in ("shared", "own"):
        norms = per_domain(affine)[1].norms
        assert (norms["clean"].weight is norms["adversarial"].weight) == (affine == "shared")
        assert norms["clean"].running_mean is not norms["adversarial"].running_mean
        assert torch.equal(norms["clean"].running_mean, norms["adversarial"].running_mean)


def test_optimizers_averages_and_hooks_follow_and_come_back():
    model, calls = network(), []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    gamma = model[1].weight
    optimizer = torch.optim.SGD(
        [
            {"params": [model[1].weight, model[1].bias], "lr": 0.5},
            {"params": [model[0].weight, model[4].weight]},
        ],
        lr=0.1,
    )
    ema = AveragedModel(model)
    before = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    plan = convert(model, "domain", domains=NAMES, affine="own", only="1")
    plan.apply(optimizer=optimizer, ema=ema)
    own = [p for norm in model[1].norms.values() for p in norm.parameters()]
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in own}
    assert model[1].norms["clean"].weight is gamma
    with use_domain(model, "adversarial"):
        model(images()).square().sum().backward()
    optimizer.step()
    ema.update_parameters(model)
    assert isinstance(ema.module[1], DomainNorm)
    assert calls == [1]
    model.double()
    plan.revert()
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == before
    assert model[1].weight is gamma
    assert model[1].running_mean.dtype == torch.float64  # what was done to the model in between stays
    model(images().double())
    assert calls == [1, 1]


def test_renorm_and_fused_activations_stay_what_they_are():
    model = per_domain(model=network(lambda features: layers.BatchRenormAct2d(features, total_steps=10)))
    assert {type(norm) for norm in model[1].norms.values()} == {layers.BatchRenormAct2d}
    fused = network(layers.BatchNormAct2d)
    (refusal,) = convert(fused, "domain", domains=2, affine="embedding").refusals
    assert "fused with its activation, relu" in refusal.reason
    (lazy,) = convert(nn.Sequential(nn.LazyBatchNorm1d()), "domain", domains=2).refusals
    assert "run the model once" in lazy.reason


def test_norms_of_domains_are_converted_one_by_one_and_kept_where_they_are_that_already():
    model = per_domain()
    convert(model, "renorm", total_steps=10).apply()
    assert {type(norm) for norm in model[1].norms.values()} == {layers.BatchRenorm2d}
    assert model[1].norms["clean"].weight is model[1].norms["adversarial"].weight
    again = convert(model, "domain", domains=NAMES)
    assert (len(again.changes), len(again.kept)) == (0, 4)
    assert (
        'take one domain, convert(model, to="batch", domain="clean")'
        in convert(model, "torch").refusals[0].reason
    )


@pytest.mark.parametrize("affine", ["shared", "own", "embedding"])
@pytest.mark.parametrize("to", ["batch", "torch"])
def test_one_domain_becomes_a_plain_network(affine, to):
    model, x = per_domain(affine), images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for domain, scale in zip(NAMES, (1.0, 3.0), strict=True):
        with use_domain(model, domain):
            model(images() * scale).square().sum().backward()
    optimizer.step()
    plan = convert(model, to, domain="adversarial")
    plan.verify(x)
    text = plan.to_json()
    assert json.loads(text)["operation"]["arguments"]["domain"] == "adversarial"
    assert len(Plan.from_json(model, text).changes) == 2
    alone = plan.apply(copy=True).eval()
    with use_domain(model.eval(), "adversarial"):
        torch.testing.assert_close(alone(x), model(x))
    fresh = nn.Sequential(*(copy.deepcopy(part) for part in network()))
    fresh.load_state_dict(alone.state_dict())  # as a plain checkpoint
    torch.testing.assert_close(fresh.eval()(x), alone(x), rtol=1e-4, atol=1e-4)
    plan.apply()
    plan.revert()
    with use_domain(model, "clean"):
        model(x)


def test_freezing_reaches_every_domain_and_the_embeddings_of_classes():
    for affine, count in (("own", 4), ("embedding", 2)):
        model = per_domain(affine)
        plan = freeze(model)
        plan.apply()
        assert len(plan.changes) == count
        assert [p.requires_grad for layer in (model[1], model[5]) for p in layer.parameters()] == [
            False
        ] * 2 * count
        plan.revert()
        assert all(p.requires_grad for p in model.parameters())


def test_a_domain_is_folded_by_itself_and_never_all_at_once():
    model, x = per_domain("own"), images()
    with use_domain(model, "adversarial"):
        model(images() * 3)
        y = model.eval()(x)
        assert all("it is part of DomainNorm" in refusal.reason for refusal in fold(model, x).refusals)
    assert len(strip(model).refusals) == 4
    folded = fold(convert(model, "batch", domain="adversarial").apply(copy=True), x).apply().eval()
    assert [type(folded[place]) for place in (1, 5)] == [nn.Identity] * 2
    torch.testing.assert_close(folded(x), y, rtol=1e-4, atol=1e-4)


def test_a_domain_is_recalibrated_by_its_batches():
    model = per_domain().double()
    batches = [images().double() + 5 for _ in range(2)]
    before = copy.deepcopy(model.state_dict())
    with use_domain(model, "adversarial"):
        result = recalibrate(model, batches)
    assert [(kept.path, kept.reason) for kept in result.kept] == [
        (f"{place}.norms.clean", "no batch of its domain reached it") for place in (1, 5)
    ]
    result.apply()
    after = model.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {
        f"{place}.norms.adversarial.running_{what}" for place in (1, 5) for what in ("mean", "var")
    }
    measured = model[0](torch.cat(batches))
    torch.testing.assert_close(after["1.norms.adversarial.running_mean"], measured.mean((0, 2, 3)))
    torch.testing.assert_close(after["1.norms.adversarial.running_var"], measured.var((0, 2, 3)))


def test_checkpoints_load_both_ways(tmp_path):
    plain, x = network().eval(), images()
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pt")
    model = per_domain().eval()
    with torch.no_grad():
        model[1].norms["clean"].weight.add_(1)
    load_checkpoint(model, tmp_path / "plain.pt")
    with use_domain(model, "adversarial"):
        torch.testing.assert_close(model(x), plain(x))
    torch.save(model.state_dict(), tmp_path / "domains.pt")
    twin = per_domain().eval()
    load_checkpoint(twin, tmp_path / "domains.pt")
    with use_domain(twin, 1):
        torch.testing.assert_close(twin(x), plain(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "^convert to domain: expected domains, their names"),
        ({"domains": ("a",)}, "expected two different names at least"),
        ({"domains": 2, "affine": "owned"}, "affine: expected one of .*did you mean own"),
        ({"domains": ("a", "b"), "default": "c"}, "default: expected one of a, b, got 'c'"),
        ({"domains": 2, "num_groups": 3}, "convert to domain with .*num_groups"),
    ],
)
def test_options_that_cannot_be_are_errors(options, message):
    with pytest.raises(InputError, match=message):
        convert(network(), "domain", **options)


def test_unknown_domains_and_networks_without_are_errors():
    with pytest.raises(InputError, match=r"Sequential\.1: domain: expected one of .*; did you mean clean\?"):
        convert(per_domain(), "batch", domain="cleaner")
    with pytest.raises(InputError, match="convert: expected a model with norms per domain"):
        convert(network(), "batch", domain="clean")


def test_a_network_that_changed_after_the_plan_is_left_alone():
    model = network()
    plan = convert(model, "domain", domains=NAMES)
    model(images())
    with pytest.raises(SurgeryError):
        plan.apply()
    assert type(model[1]) is nn.BatchNorm2d

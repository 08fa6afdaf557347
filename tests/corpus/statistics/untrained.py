"""NS405 and NS202: statistics that were never updated, or too seldom to forget where they began."""

from __future__ import annotations

import copy

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import nn
from torch.optim.swa_utils import update_bn

WITH = "202 403 404 413"


def forget(model: nn.Module) -> nn.Module:
    """Set all running statistics to 0 and 1, the counter to 0."""
    for norm in networks.norms(model).values():
        norm.reset_running_stats()
    return model


@case("CNN", must="405", may=WITH, seen="load_state_dict(strict=False) of a checkpoint without buffers")
def weights_without_their_statistics() -> Given:
    """Trained parameters are loaded into a new network; buffers were not in the file and strict=False hid it."""
    parameters = {name: p.detach() for name, p in training.trained("cnn").model.named_parameters()}
    model = networks.Cnn()
    model.load_state_dict(parameters, strict=False)
    return training.around(model, "cnn")


@case(
    "Hugging Face",
    must="405",
    may=WITH,
    seen="reset_running_stats() before a recalibration that then ran in evaluation mode",
)
def reset_and_never_recomputed() -> Given:
    """Statistics were reset for a recalibration, which ran in evaluation mode and updated nothing."""
    given = training.trained("hf")
    forget(given.model).eval()
    training.mean_loss(given.model, given.batches or ())
    given.model.train()
    return given


@case(
    "RNN",
    must="405",
    may="202 403 404 309 210",
    seen="networks trained in evaluation mode from their first step",
)
def trained_in_evaluation_from_the_start() -> Given:
    """The norms have passed everything on as it came, by 0 and 1, while weights were trained around them."""
    model = networks.Gru().eval()
    training.train(model, training.epochs(training.samples("gru")[0]), 120, rate=1e-2)
    return training.around(model, "gru")


@case(
    "transformer-like",
    must="405",
    may=WITH,
    seen="parameters copied into a twin for inference by zip(parameters())",
)
def twin_for_inference() -> Given:
    """A twin for inference got the parameters of the trained network, one by one, and no buffers."""
    model = training.trained("transformer").model
    return training.around(forget(copy.deepcopy(model)), "transformer")


@case("MLP", must_not="405 202 404")
def counter_of_an_old_file() -> Given:
    """Good statistics, but the counter is 0: files from before torch 0.4.1, or from other frameworks, have none."""
    given = training.trained("mlp")
    for norm in networks.norms(given.model).values():
        norm.num_batches_tracked.zero_()
    return given


@case("CNN", must_not="405 404")
def normalised_before_the_norm() -> Given:
    """A norm on data of mean 0 and variance 1 has statistics close to 0 and 1, and rightly so."""
    model = nn.Sequential(nn.BatchNorm2d(1, affine=False), networks.Cnn(networks.group_norm))
    return training.fitted(model, "cnn")


@case("RNN", must_not="405 202 404")
def never_tracked() -> Given:
    """Group norms have no statistics that could be untrained."""
    return training.trained("gru", "group")


@case("transformer-like", must_not="405 404 210 309 305")
def identity_norms_of_a_folded_network() -> Given:
    """The statistics were folded into γ and β of frozen norms, which are left with mean 0 and variance 1 for good."""
    model = training.trained("words").model.eval()
    for norm in networks.norms(model).values():
        with torch.no_grad():
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.copy_(scale * (1 + norm.eps) ** 0.5)
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
    return training.around(networks.FrozenNorms(model), "words")


@case(
    "MLP",
    must="202",
    may="403 404 405",
    seen="short fine-tuning runs: ten steps at momentum 0.1 leave a third of 0 and 1",
)
def ten_steps_only() -> Given:
    """New norms after ten steps: 0.9¹⁰ = 35 % of each statistic is still its initial value."""
    given = training.trained("mlp")
    forget(given.model)
    return training.more(given, "mlp", steps=10)


@case(
    "CNN",
    must="202",
    may="403 404 405",
    seen="momentum 0.001 copied from another framework's 0.999, and a short run",
)
def momentum_of_a_thousandth() -> Given:
    """120 updates at momentum 0.001: 89 % of each statistic is still 0 or 1."""
    return training.trained("cnn", momentum=0.001)


@case(
    "Hugging Face",
    must="202",
    may="403 404 405",
    seen="MobileNet's momentum of 0.003 from TensorFlow, trained for an epoch",
)
def momentum_of_mobilenet() -> Given:
    """100 updates at 0.003: 74 % is left of 0 and 1, and evaluation is of no use."""
    model = networks.set_norms(networks.hf_resnet(), momentum=0.003)
    return training.fitted(model, "hf")


@case("MLP", must_not="202 404")
def cumulative_average_of_few_batches() -> Given:
    """momentum=None and five batches: a mean, with nothing of 0 and 1 in it."""
    given = training.trained("mlp")
    forget(networks.set_norms(given.model, momentum=None))
    with torch.no_grad():
        for x, _ in (given.batches or [])[:5]:
            given.model(x)
    return given


@case("CNN", must_not="202 404")
def recomputed_by_update_bn() -> Given:
    """update_bn leaves a counter of eight at momentum 0.1; the statistics are exact means all the same."""
    given = training.trained("resnet")
    update_bn(data.batches(training.samples("resnet")[0], most=8, size=128), given.model)
    return given


@case("Hugging Face", must_not="202 404")
def small_momentum_and_many_steps() -> Given:
    """Momentum 0.05 over 100 steps: 0.6 % is left of the initial values."""
    model = networks.set_norms(networks.hf_resnet(), momentum=0.05)
    return training.fitted(model, "hf")

"""NS404 and NS403: running statistics that are not those of the data, in networks that pay for it in evaluation."""

from __future__ import annotations

import copy

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

WITH = "202 405 408"
"""What else may be said of statistics that do not fit."""


def brighter(x: Tensor) -> Tensor:
    """An image of other brightness and contrast."""
    return 2.5 * x + 1.5


@case("CNN", must="403 404", may=WITH, seen="pipelines for training and serving that normalise differently")
def statistics_of_other_preprocessing() -> Given:
    """The network's statistics were gathered on images of another scale than those it is now trained and used on."""
    given = training.trained("cnn")
    with torch.no_grad():
        for _ in range(3):
            for x, _y in given.batches or ():
                given.model(brighter(x))
    return given


@case(
    "MLP",
    must="404",
    may=WITH + " 403",
    seen="model soups: weights averaged over runs, buffers of one of them",
)
def soup_of_two_runs() -> Given:
    """The weights are the mean of two fine-tuned copies, the statistics are those of one copy on other data."""
    first, second = training.trained("mlp").model, training.trained("mlp").model
    training.train(first, [(brighter(x), y) for x, y in data.batches(training.samples("mlp")[0])], 60)
    training.train(second, data.batches(training.samples("mlp")[0]), 60, rate=2e-2)
    with torch.no_grad():
        for mine, its in zip(first.parameters(), second.parameters(), strict=True):
            mine.lerp_(its, 0.7)
    return training.around(first, "mlp")


@case(
    "RNN",
    must="202 403 404",
    may="405 408",
    seen="momentum set so low that the average lags far behind the weights",
)
def average_that_lags() -> Given:
    """Momentum 0.002 and 120 steps: the average still holds the first steps' values."""
    return training.trained("gru", momentum=0.002)


@case(
    "transformer-like",
    must="403 404",
    may=WITH + " 309 210",
    seen="fine-tuning with pinned norms at a high learning rate",
)
def weights_that_left_their_statistics() -> Given:
    """The norms were pinned while everything before them was trained far away, and are used in training mode again."""
    given = training.trained("transformer")
    model = given.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name or "mlp.2" in name or "out" in name:
                parameter.mul_(2.0)
    model.eval()
    training.train(model, training.epochs(training.samples("transformer")[0]), 30, rate=1e-3)
    return training.around(model, "transformer")


@case(
    "Hugging Face",
    must="403 404",
    may=WITH,
    seen="quantised or pruned weights with the statistics of the dense network",
)
def pruned_without_recalibration() -> Given:
    """Six tenths of each convolution's weights are set to 0; what reaches the norms is another thing now."""
    given = training.trained("hf")
    with torch.no_grad():
        for module in given.model.modules():
            if isinstance(module, nn.Conv2d):
                weight = module.weight
                weight.mul_(weight.abs() > weight.abs().flatten().kthvalue(int(0.6 * weight.numel())).values)
    return given


def accurate(name: str) -> nn.Module:
    """A trained base after an exact computation of its statistics."""
    model = training.trained(name).model
    torch.optim.swa_utils.update_bn(data.batches(training.samples(name)[0]), model)
    return model


@case("MLP", must_not="403 404 405 202")
def healthy_gap_of_a_tiny_loss() -> Given:
    """Trained until the loss is almost 0: in evaluation it is another small number, several times as large or small."""
    return training.trained("mlp", steps=400)


@case("CNN", must_not="403 404 405 202")
def few_batches_of_a_healthy_network() -> Given:
    """Four batches of 64 are not the data set: channels differ by sampling alone."""
    given = training.trained("cnn")
    return training.around(given.model, "cnn", batches=data.batches(training.samples("cnn")[0], most=4))


@case("RNN", must_not="403 404 405 202")
def recalibrated_statistics() -> Given:
    """update_bn has computed the statistics exactly; its counter says 21 batches, and that is enough."""
    return training.around(accurate("gru"), "gru")


@case("Hugging Face", must_not="403 404 405 202 201")
def momentum_of_a_detector() -> Given:
    """Momentum 0.03 over enough steps, as detectors have it."""
    return training.more(slow("hf"), "hf", steps=140)


def slow(name: str) -> Given:
    """A trained base whose norms have momentum 0.03."""
    given = training.trained(name)
    networks.set_norms(given.model, momentum=0.03)
    return given


@case("MLP", must_not="403")
def dropout_after_the_last_norm() -> Given:
    """Dropout before the head alone: worse in training than in evaluation, as dropout is meant."""
    model = networks.mlp()
    model.insert(6, nn.Dropout(0.5))
    return training.fitted(model, "mlp", steps=200)


@case("MONAI", must_not="403 404 405")
def healthy_segmentation() -> Given:
    """MONAI's UNet, trained, with its statistics of training."""
    return training.trained("monai")


@case(
    "CNN",
    must="404",
    may="202 403 405 408",
    seen="statistics loaded from another run of the same architecture",
)
def statistics_of_another_run() -> Given:
    """Buffers of a run on inverted images stand beside these weights."""
    given = training.trained("resnet")
    other = copy.deepcopy(given.model)
    inverted = [(-x, y) for x, y in data.batches(training.samples("resnet")[0])]
    training.train(other, inverted, 60, rate=5e-3)
    state = {name: value for name, value in other.state_dict().items() if "running" in name}
    given.model.load_state_dict(state, strict=False)
    return given


@case("MLP", must_not="403 404")
def shifted_channels_that_nobody_reads() -> Given:
    """The running means of six channels in 48 are off by a deviation, but no later weight reads these channels."""
    given = training.trained("mlp")
    norm = given.model[4]
    with torch.no_grad():
        norm.running_mean[:6] += norm.running_var[:6].sqrt()
        given.model[6].weight[:, :6] = 0
    return given

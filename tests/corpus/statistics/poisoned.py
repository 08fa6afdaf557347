"""NS410 and NS411: statistics that are not finite, and channels that say nothing."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import nn

MAY = "403 404 408"


@case(
    "CNN",
    must="410",
    may=MAY,
    seen="a batch with NaN in evaluation: losses are fine, validation is NaN for ever",
)
def one_batch_with_nan() -> Given:
    """One image with NaN went through in training mode; its step was skipped, the statistics were not."""
    given = training.trained("cnn")
    x = training.samples("cnn")[0][0][:64].clone()
    x[3, 0, 4, 4] = float("nan")
    with torch.no_grad():
        given.model(x)
    return given


@case(
    "MLP",
    must="410",
    may=MAY + " 411 203",
    seen="overflow in float16 under autocast leaves inf in running_var",
)
def overflow_in_one_norm() -> Given:
    """A value overflowed once; the running variance of one norm is infinite."""
    given = training.trained("mlp")
    list(networks.norms(given.model).values())[1].running_var[5] = float("inf")
    return given


@case("Hugging Face", must="410", may=MAY, seen="merged checkpoints of which one had diverged")
def nan_in_one_channel() -> Given:
    """One channel's running mean is NaN, somewhere in the middle of the network."""
    given = training.trained("hf")
    list(networks.norms(given.model).values())[2].running_mean[0] = float("nan")
    return given


@case(
    "RNN",
    must="410",
    may=MAY,
    seen="exploding recurrences: running statistics overflow before the loss is looked at",
)
def exploded_recurrence() -> Given:
    """The running variance of a recurrent network's outputs is infinite, the mean NaN."""
    given = training.trained("gru")
    (norm,) = networks.norms(given.model).values()
    norm.running_var.fill_(float("inf"))
    norm.running_mean.fill_(float("nan"))
    return given


class WithMask(networks.Transformer):
    """A transformer with a buffer that holds -inf where attention may not look."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((8, 8), float("-inf")).triu(1))


@case("transformer-like", must_not="410")
def infinite_mask() -> Given:
    """-inf in the buffer of an attention mask: no statistic."""
    return training.fitted(WithMask(), "transformer")


@case("MLP", may="503 504 505 506", must_not="410 203")
def large_but_finite_statistics() -> Given:
    """The layer before the norm has weights of thousands: variances of 1e8, and they are right."""
    given = training.trained("mlp")
    with torch.no_grad():
        given.model[0].weight.mul_(1e4)
    norm = given.model[1]
    norm.running_mean.mul_(1e4)
    norm.running_var.mul_(1e8)
    return given


@case("CNN", must_not="410")
def nan_kept_out() -> Given:
    """A batch with NaN went through norms that keep it out of their statistics."""
    from normsmith.layers import BatchNorm2d

    given = training.fitted(networks.Cnn(lambda channels, _: BatchNorm2d(channels)), "cnn")
    x = training.samples("cnn")[0][0][:64].clone()
    x[3] = float("nan")
    with torch.no_grad():
        given.model(x)
    return given


# Channels that say nothing.


@case("CNN", must="411", may="203 402 501 507", seen="filters that weight decay or pruning has set to zero")
def filters_of_zero() -> Given:
    """A third of the second convolution's filters is 0; what reaches the norm there has no variance."""
    given = training.trained("cnn")
    return kept_at_zero(given, "cnn", [given.model.conv2.weight], 8, steps=220)


def kept_at_zero(given: Given, base: str, parameters: list[nn.Parameter], rows: int, steps: int) -> Given:
    """Set the first rows of parameters to 0 and train on without them."""
    with torch.no_grad():
        for parameter in parameters:
            parameter[:rows] = 0
    zero = torch.zeros(())
    hooks = [p.register_hook(lambda grad: torch.cat((zero * grad[:rows], grad[rows:]))) for p in parameters]
    training.more(given, base, steps=steps)
    for hook in hooks:
        hook.remove()
    return given


@case(
    "MLP", must="411", may="203 401 402 405", seen="tables with constant columns and batch norm on the input"
)
def constant_columns_into_a_norm() -> Given:
    """Ten of 64 inputs never change; the input's norm divides by the root of eps there."""
    model = nn.Sequential(nn.BatchNorm1d(64), *networks.mlp(networks.group_norm))
    given = training.trained("mlp")
    for x, _ in given.batches or ():
        x[:, :10] = 0.5
    training.train(model, given.batches or (), 220)
    return training.around(model, "mlp", batches=given.batches, validate=None)


@case(
    "Hugging Face", must="411", may="203", seen="sparsity penalties on γ that killed channels nobody pruned"
)
def scales_of_zero() -> Given:
    """γ and β are 0 in half of a norm's channels after training with a penalty."""
    given = training.trained("hf")
    norm = list(networks.norms(given.model).values())[1]
    return kept_at_zero(given, "hf", [norm.weight, norm.bias], 4, steps=40)


@case("CNN", must_not="411 405 504")
def residual_with_scale_of_zero() -> Given:
    """A residual network as training begins: γ of each block's last norm is 0, so that blocks begin as identities."""
    model = networks.ResNet()
    for block in model.blocks:
        nn.init.zeros_(block.bn2.weight)
    with torch.no_grad():
        for x, _ in data.batches(training.samples("resnet")[0]) * 3:
            model(x)
    return training.around(model, "resnet")


@case("MLP", must_not="411")
def small_scales() -> Given:
    """γ of 0.05 in some channels, with weights after them that are as much larger."""
    given = training.trained("mlp")
    with torch.no_grad():
        factor = 0.05 / given.model[4].weight[:6]
        given.model[4].weight[:6] *= factor
        given.model[4].bias[:6] *= factor
        given.model[6].weight[:, :6] /= factor.abs()
    return given


@case("RNN", must_not="411 203")
def alive_channels() -> Given:
    """Every channel of a recurrent network's norm has a variance and a scale."""
    return training.trained("gru")

"""Networks to prune, and what the pruned one must compute: the network with the γ of what goes set to 0."""

from __future__ import annotations

import copy

import torch
from tests.surgery.small import Net
from torch import nn
from torch.nn import functional as F


def lived_in(model, seed=0):
    """Norms as after training, γ and β of both signs; in float64 and evaluation."""
    torch.manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_var"):
            for tensor in (module.running_mean, module.weight, module.bias):
                if tensor is not None:
                    nn.init.uniform_(tensor, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.double().eval()


def zeroed(model, plan):
    """A copy in which γ is 0 where the plan removes a channel."""
    model = copy.deepcopy(model)
    for path, indices in plan.operation.arguments["removed"].items():
        weight = model.get_submodule(path).weight
        if weight is not None:
            weight.data[indices] = 0
    return model


def difference(model, plan, x, **options):
    """How far the pruned copy's outputs are from those of the zeroed one, as a share of the largest."""
    with torch.no_grad():
        expected = zeroed(model, plan)(x)
        got = plan.apply(copy=True, **options)(x)
    return float((got - expected).abs().max() / expected.abs().max())


def chain(norm=nn.BatchNorm2d, act=nn.SiLU, padding=0, bias=False):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=padding), norm(8), act(),
        nn.Conv2d(8, 6, 3, padding=padding, bias=bias), norm(6), act(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


def block(net, x):
    """A residual block with a projection, then one without: three norms write what the last layer takes."""
    y = F.relu(net.proj_bn(net.proj(x)) + net.bn2(net.conv2(F.relu(net.bn1(net.conv1(x))))))
    y = F.relu(y + net.bn4(net.conv4(F.relu(net.bn3(net.conv3(y))))))
    return net.fc(y.mean((2, 3)))


def residual():
    return Net(
        block,
        conv1=nn.Conv2d(3, 5, 1), bn1=nn.BatchNorm2d(5), conv2=nn.Conv2d(5, 6, 1), bn2=nn.BatchNorm2d(6),
        proj=nn.Conv2d(3, 6, 1), proj_bn=nn.BatchNorm2d(6),
        conv3=nn.Conv2d(6, 5, 1), bn3=nn.BatchNorm2d(5), conv4=nn.Conv2d(5, 6, 1), bn4=nn.BatchNorm2d(6),
        fc=nn.Linear(6, 2),
    )  # fmt: skip


def inverted(net, x):
    """A mobile block: expansion, a padded depthwise convolution, squeeze and excitation, projection."""
    y = F.silu(net.bn1(net.expand(x)))
    y = F.relu(net.bn2(net.depthwise(y)))
    gate = torch.sigmoid(net.excite(F.relu(net.squeeze(F.adaptive_avg_pool2d(y, 1)))))
    return net.project(y * gate).mean((2, 3))


def mobile():
    return Net(
        inverted,
        expand=nn.Conv2d(3, 8, 1), bn1=nn.BatchNorm2d(8), depthwise=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        bn2=nn.BatchNorm2d(8), squeeze=nn.Conv2d(8, 2, 1), excite=nn.Conv2d(2, 8, 1), project=nn.Conv2d(8, 4, 1),
    )  # fmt: skip


def dense(net, x):
    """Concatenation: what goes before it leaves out columns in the middle of what comes after it."""
    one = net.bn1(net.conv1(x)).relu()
    two = net.bn2(net.conv2(one)).relu()
    return net.last(torch.cat([two, x, one], 1)).mean((2, 3))


def concatenated():
    return Net(
        dense,
        conv1=nn.Conv2d(3, 5, 1), bn1=nn.BatchNorm2d(5), conv2=nn.Conv2d(5, 4, 1), bn2=nn.BatchNorm2d(4),
        last=nn.Conv2d(12, 3, 1),
    )  # fmt: skip


def preactivation(net, x):
    """The stream itself goes on: norms read it, and a channel is dead once all who read it are."""
    y = net.stem(x)
    y = y + net.conv1(F.silu(net.bn1(y)))
    y = y + net.conv2(F.silu(net.bn2(y)))
    return net.fc(F.silu(net.bn3(y)).mean((2, 3)))


def streamed():
    return Net(
        preactivation,
        stem=nn.Conv2d(3, 6, 1), bn1=nn.BatchNorm2d(6), conv1=nn.Conv2d(6, 6, 1), bn2=nn.BatchNorm2d(6),
        conv2=nn.Conv2d(6, 6, 1), bn3=nn.BatchNorm2d(6), fc=nn.Linear(6, 2),
    )  # fmt: skip

"""Small networks of the families that people train: as torchvision, timm and papers have them, written anew."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tests.surgery.networks import BatchNormAct2d as TimmBatchNormAct2d
from tests.surgery.networks import lived_in
from tests.surgery.small import Net
from torch import Tensor, nn
from torch.nn import functional as F

from normsmith.layers import BatchNormAct2d

Act = Callable[[], nn.Module]


@dataclass(frozen=True)
class Family:
    """How to make a network from its hidden activation, which activation that is, and a batch's shape."""

    make: Callable[[Act], nn.Module]
    shape: tuple[int, ...]
    act: Act = lambda: nn.ReLU(inplace=True)

    def model(self, act: Act | None = None) -> nn.Module:
        """The same weights at every call, in float64 and training, norms as after training."""
        torch.manual_seed(0)
        return lived_in(self.make(act or self.act).double()).train()

    def without_norms(self) -> nn.Module:
        """By hand: an identity, or the activation of a fused layer, for every norm; nothing in place."""
        return by_hand(self.model(), lambda norm: nn.Identity())

    def batch(self, number: int = 0) -> Tensor:
        """One of several batches, whose means and variances are not those of the others."""
        draw = torch.Generator().manual_seed(number)
        x = torch.randn(self.shape, dtype=torch.float64, generator=draw)
        return x * (1 + number) + number


def is_a_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.batchnorm._BatchNorm, BatchNormAct2d))


def by_hand(model: nn.Module, new: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy in which something else stands for each norm, fused activations kept, and nothing is in place."""
    model = copy.deepcopy(model)
    for path, module in list(model.named_modules()):
        if is_a_norm(module):
            act = nn.ReLU() if hasattr(module, "activation") or hasattr(module, "act") else nn.Identity()
            model.set_submodule(path, nn.Sequential(new(module), act))
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return model


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1, **options: Any) -> nn.Module:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False, **options)


def norm(features: int) -> nn.Module:
    return nn.BatchNorm2d(features)


# Residual networks.


def pre_activation(act: Act) -> nn.Module:
    """ResNet V2: the second block's shortcut is a convolution of what its first activation puts out."""

    def plain(net: Any, x: Tensor) -> Tensor:
        y = net.conv1(net.act1(net.norm1(x)))
        return x + net.conv2(net.act2(net.norm2(y)))

    def projecting(net: Any, x: Tensor) -> Tensor:
        x = net.act1(net.norm1(x))
        return net.shortcut(x) + net.conv2(net.act2(net.norm2(net.conv1(x))))

    def block(body: Any, width: int, **parts: nn.Module) -> nn.Module:
        return Net(
            body, norm1=norm(4), act1=act(), conv1=conv(4, width), norm2=norm(width), act2=act(),
            conv2=conv(width, width), **parts,
        )  # fmt: skip

    blocks = block(plain, 4), block(projecting, 6, shortcut=conv(4, 6, 1))
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    return nn.Sequential(conv(3, 4), *blocks, norm(6), act(), *end)


def shared_activation(act: Act) -> nn.Module:
    """torchvision's basic block: one activation, called twice, and `out += identity`."""

    def body(net: Any, x: Tensor) -> Tensor:
        out = net.bn2(net.conv2(net.relu(net.bn1(net.conv1(x)))))
        out += net.downsample(x)
        return net.relu(out)

    def block(inputs: int, outputs: int, downsample: nn.Module) -> nn.Module:
        return Net(
            body, conv1=conv(inputs, outputs), bn1=norm(outputs), relu=act(), conv2=conv(outputs, outputs),
            bn2=norm(outputs), downsample=downsample,
        )  # fmt: skip

    blocks = block(4, 4, nn.Identity()), block(4, 6, nn.Sequential(conv(4, 6, 1), norm(6)))
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    return nn.Sequential(conv(3, 4), norm(4), act(), *blocks, *end)


def fused(make_norm: Callable[[int], nn.Module]) -> Callable[[Act], nn.Module]:
    """Norm and activation in one layer, with a convolution around which the result goes too."""

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.first(x)
        return net.head(net.pool(x + net.second(x)).flatten(1))

    def make(act: Act) -> nn.Module:
        first = nn.Sequential(conv(3, 4), make_norm(4), conv(4, 4), make_norm(4))
        return Net(
            body, first=first, second=nn.Sequential(conv(4, 4), make_norm(4), conv(4, 4)),
            pool=nn.AdaptiveAvgPool2d(1), head=nn.Linear(4, 3),
        )  # fmt: skip

    return make


def branches(act: Act) -> nn.Module:
    """RepVGG in training: 3×3, 1×1 and the identity, each with its norm, summed."""

    def body(net: Any, x: Tensor) -> Tensor:
        return net.act(net.dense(x) + net.pointwise(x) + net.same(x))

    def block() -> nn.Module:
        return Net(
            body, dense=nn.Sequential(conv(4, 4), norm(4)), pointwise=nn.Sequential(conv(4, 4, 1), norm(4)),
            same=norm(4), act=act(),
        )  # fmt: skip

    return nn.Sequential(
        conv(3, 4), norm(4), act(), block(), block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def mobile(act: Act) -> nn.Module:
    """MobileNet V3: expansion, depthwise, squeeze and excitation, projection without an activation."""

    def excite(net: Any, x: Tensor) -> Tensor:
        return x * net.gate(net.up(net.act(net.down(x.mean((2, 3), keepdim=True)))))

    def residual(net: Any, x: Tensor) -> Tensor:
        return x + net.body_(x)

    gate = Net(excite, down=nn.Conv2d(8, 2, 1), act=nn.ReLU(), up=nn.Conv2d(2, 8, 1), gate=nn.Hardsigmoid())
    block = nn.Sequential(
        conv(4, 8, 1), norm(8), act(), conv(8, 8, groups=8), norm(8), act(), gate, conv(8, 4, 1), norm(4)
    )
    stem, end = (conv(3, 4, stride=2), norm(4), act()), (conv(4, 8, 1), norm(8), act())
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6), act(), nn.Dropout(0.2), nn.Linear(6, 3)
    return nn.Sequential(*stem, Net(residual, body_=block), *end, *head)


def dense(act: Act) -> nn.Module:
    """DenseNet: every layer takes all that came before it, side by side."""

    def body(net: Any, x: Tensor) -> Tensor:
        maps = [x]
        for layer in net.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return torch.cat(maps, 1)

    layers = [nn.Sequential(norm(n), act(), conv(n, 4, 1), norm(4), act(), conv(4, 2)) for n in (4, 6)]
    transition = norm(8), act(), conv(8, 4, 1), nn.AvgPool2d(2)
    end = norm(4), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return nn.Sequential(conv(3, 4), Net(body, layers=nn.ModuleList(layers)), *transition, *end)


def inception(act: Act) -> nn.Module:
    """GoogLeNet as torchvision has it: a convolution, a norm and a function in place, in branches."""

    def basic(net: Any, x: Tensor) -> Tensor:
        return F.relu(net.bn(net.conv(x)), inplace=True)

    def unit(inputs: int, outputs: int, size: int) -> nn.Module:
        return Net(basic, conv=conv(inputs, outputs, size), bn=nn.BatchNorm2d(outputs, eps=1e-3))

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = torch.cat((net.one(x), net.three(x), net.pooled(F.max_pool2d(x, 3, 1, 1))), 1)
        return net.head(net.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))

    return Net(
        body, stem=unit(3, 4, 3), one=unit(4, 2, 1), three=nn.Sequential(unit(4, 2, 1), unit(2, 4, 3)),
        pooled=unit(4, 2, 1), drop=nn.Dropout(0.2), head=nn.Linear(8, 3),
    )  # fmt: skip


# Others.


def siamese(act: Act) -> nn.Module:
    """One tower, called for both halves of a pair."""

    def body(net: Any, x: Tensor) -> Tensor:
        one, other = x[:, :3], x[:, 3:]
        return net.head((net.tower(one) - net.tower(other)).abs())

    tower = nn.Sequential(
        conv(3, 4), norm(4), act(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 6, bias=False),
        nn.BatchNorm1d(6), act(), nn.Linear(6, 4),
    )  # fmt: skip
    return Net(body, tower=tower, head=nn.Linear(4, 1))


def causal(act: Act) -> nn.Module:
    """A temporal network: dilated convolutions padded on both sides, whose end is cut off, and residuals."""

    def cut(net: Any, x: Tensor) -> Tensor:
        return x[:, :, : -net.size].contiguous()

    def chomp(size: int) -> nn.Module:
        net = Net(cut)
        net.size = size
        return net

    def body(net: Any, x: Tensor) -> Tensor:
        return net.act(net.branch(x) + net.shortcut(x))

    def block(inputs: int, dilation: int) -> nn.Module:
        layers: list[nn.Module] = []
        for channels in (inputs, 6):
            layers.append(nn.Conv1d(channels, 6, 3, padding=2 * dilation, dilation=dilation))
            layers += [chomp(2 * dilation), nn.BatchNorm1d(6), act(), nn.Dropout(0.1)]
        shortcut = nn.Identity() if inputs == 6 else nn.Conv1d(inputs, 6, 1)
        return Net(body, branch=nn.Sequential(*layers), shortcut=shortcut, act=act())

    return nn.Sequential(block(3, 1), block(6, 2), nn.Conv1d(6, 2, 1))


def transformer(act: Act) -> nn.Module:
    """For time series: attention and a feed-forward part, each with a residual and then batch norm over channels."""

    def over_channels(net: Any, x: Tensor) -> Tensor:
        return net.bn(x.transpose(1, 2)).transpose(1, 2)

    def attend(net: Any, x: Tensor) -> Tensor:
        q, k, v = net.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return net.out(y)

    def body(net: Any, x: Tensor) -> Tensor:
        x = net.norm1(x + net.attention(x))
        return net.norm2(x + net.second(net.drop(net.act(net.first(x)))))

    def block() -> nn.Module:
        return Net(
            body, attention=Net(attend, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)), first=nn.Linear(8, 12),
            norm1=Net(over_channels, bn=nn.BatchNorm1d(8)), act=act(), drop=nn.Dropout(0.1),
            second=nn.Linear(12, 8), norm2=Net(over_channels, bn=nn.BatchNorm1d(8)),
        )  # fmt: skip

    def pooled(net: Any, x: Tensor) -> Tensor:
        return net.head(net.blocks(net.embed(x)).mean(1))

    blocks = nn.Sequential(block(), block())
    return Net(pooled, embed=nn.Linear(3, 8), blocks=blocks, head=nn.Linear(8, 2))


def generator(act: Act) -> nn.Module:
    """DCGAN's: transposed convolutions from a vector to an image."""

    def up(inputs: int, outputs: int, stride: int) -> nn.Module:
        return nn.ConvTranspose2d(inputs, outputs, 4, stride, stride - 1, bias=False)

    return nn.Sequential(
        up(5, 8, 1), norm(8), act(), up(8, 6, 2), norm(6), act(), up(6, 4, 2), norm(4), act(), up(4, 3, 2), nn.Tanh()
    )  # fmt: skip


def discriminator(act: Act) -> nn.Module:
    """DCGAN's: strided convolutions, no norm in the first layer."""

    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)

    return nn.Sequential(
        down(3, 4), act(), down(4, 6), norm(6), act(), down(6, 8), norm(8), act(),
        nn.Conv2d(8, 1, 2, bias=False), nn.Sigmoid(), nn.Flatten(),
    )  # fmt: skip


def face(act: Act) -> nn.Module:
    """ArcFace's: blocks that begin and end with a norm, and a head of norm, dropout, flatten, linear layer, norm."""

    def body(net: Any, x: Tensor) -> Tensor:
        return x + net.residual(x)

    residual = nn.Sequential(norm(4), conv(4, 4), norm(4), act(), conv(4, 4), norm(4))
    head = norm(4), nn.Dropout(0.4), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6)
    stem = conv(3, 4), norm(4), act(), nn.MaxPool2d(2)
    return nn.Sequential(*stem, Net(body, residual=residual), *head)


def u_net(act: Act) -> nn.Module:
    """Down and up again, with what was on the way down beside it."""

    def double(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            conv(inputs, outputs), norm(outputs), act(), conv(outputs, outputs), norm(outputs), act()
        )

    def body(net: Any, x: Tensor) -> Tensor:
        one = net.down1(x)
        two = net.down2(net.pool(one))
        two = net.up2(torch.cat((two, net.up3(net.down3(net.pool(two)))), 1))
        return net.out(net.end(torch.cat((one, net.up1(two)), 1)))

    return Net(
        body, pool=nn.MaxPool2d(2), down1=double(3, 4), down2=double(4, 6), down3=double(6, 8),
        up3=nn.ConvTranspose2d(8, 6, 2, 2), up2=double(12, 6), up1=nn.ConvTranspose2d(6, 4, 2, 2), end=double(8, 4),
        out=nn.Conv2d(4, 2, 1),
    )  # fmt: skip


def leaky() -> nn.Module:
    return nn.LeakyReLU(0.2, inplace=True)


IMAGES = (4, 3, 8, 8)
FAMILIES = {
    "pre-activation": Family(pre_activation, IMAGES),
    "shared activation": Family(shared_activation, IMAGES),
    "fused, ours": Family(fused(lambda n: BatchNormAct2d(n, activation="relu")), IMAGES),
    "fused, timm's": Family(fused(lambda n: TimmBatchNormAct2d(n, nn.ReLU(inplace=True))), IMAGES),
    "branches": Family(branches, IMAGES),
    "mobile": Family(mobile, IMAGES, lambda: nn.Hardswish(inplace=True)),
    "dense": Family(dense, IMAGES),
    "inception": Family(inception, IMAGES),
    "siamese": Family(siamese, (4, 6, 8, 8)),
    "causal": Family(causal, (4, 3, 10)),
    "transformer": Family(transformer, (4, 5, 3), nn.GELU),
    "generator": Family(generator, (4, 5, 1, 1)),
    "discriminator": Family(discriminator, (4, 3, 16, 16), leaky),
    "face": Family(face, IMAGES, nn.PReLU),
    "u-net": Family(u_net, IMAGES),
}

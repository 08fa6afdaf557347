"""The networks that cases begin with: one of each kind, with the norm of choice; nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int, int], nn.Module]
"""A norm for so many channels of inputs with so many dimensions beside samples and channels: 0, 1 or 2."""


def batch_norm(channels: int, dimensions: int, **options: Any) -> nn.Module:
    """torch's batch norm."""
    return (nn.BatchNorm2d if dimensions == 2 else nn.BatchNorm1d)(channels, **options)


def group_norm(channels: int, dimensions: int, groups: int = 1) -> nn.Module:
    """Group norm, by default of one group: layer norm for images."""
    return nn.GroupNorm(groups, channels)


def no_norm(channels: int, dimensions: int) -> nn.Module:
    """Nothing in place of a norm."""
    return nn.Identity()


NORMS: dict[str, Callable[..., nn.Module]] = {"batch": batch_norm, "group": group_norm, "none": no_norm}


def options(norm: str, **given: Any) -> Norm:
    """A norm by its name, with options such as `momentum`."""
    return partial(NORMS[norm], **given)


def mlp(norm: Norm = batch_norm, inputs: int = 64, width: int = 48, outputs: int = 10) -> nn.Sequential:
    """Two hidden layers, a norm before each ReLU."""
    return nn.Sequential(
        nn.Linear(inputs, width, bias=False),
        norm(width, 0),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
        norm(width, 0),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )


class Cnn(nn.Module):
    """Two convolutions with norms, global average pooling, a linear head."""

    def __init__(self, norm: Norm = batch_norm, width: int = 12, outputs: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.bn1 = norm(width, 2)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = norm(2 * width, 2)
        self.head = nn.Linear(2 * width, outputs)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Block(nn.Module):
    """A basic residual block: norm before the addition, ReLU after it."""

    def __init__(self, width: int, norm: Norm = batch_norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = norm(width, 2)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class ResNet(nn.Module):
    """A stem and two residual blocks on half the resolution."""

    def __init__(self, norm: Norm = batch_norm, width: int = 12, outputs: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, stride=2, padding=1, bias=False)
        self.bn = norm(width, 2)
        self.blocks = nn.Sequential(Block(width, norm), Block(width, norm))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(F.relu(self.bn(self.stem(x)))).mean((2, 3)))


class OverTime(nn.Module):
    """A norm of channels for sequences (samples, steps, channels)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Gru(nn.Module):
    """A GRU over sequences; its outputs are normalised over samples and steps, and averaged for the head."""

    def __init__(self, norm: Norm = batch_norm, inputs: int = 8, width: int = 32, outputs: int = 10) -> None:
        super().__init__()
        self.rnn = nn.GRU(inputs, width, batch_first=True)
        self.bn = OverTime(norm(width, 1))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.rnn(x)[0])).mean(1))


class Attention(nn.Module):
    """Self-attention of two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """A transformer's block, normalised before each branch."""

    def __init__(self, width: int, norm: Norm = batch_norm) -> None:
        super().__init__()
        self.norm1, self.norm2 = OverTime(norm(width, 1)), OverTime(norm(width, 1))
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Two blocks over the rows of an image, averaged for the head."""

    def __init__(self, norm: Norm = batch_norm, inputs: int = 8, width: int = 32, outputs: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.position = nn.Parameter(0.1 * torch.randn(1, 8, width))
        self.blocks = nn.Sequential(Encoder(width, norm), Encoder(width, norm))
        self.norm = OverTime(norm(width, 1))
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)).mean(1))


class Words(nn.Module):
    """Embedded words, a convolution over time and a norm; padding (0) is left out of the mean for the head."""

    def __init__(self, norm: Norm = batch_norm, width: int = 32, outputs: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(21, width, padding_idx=0)
        self.conv = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.bn = norm(width, 1)
        self.head = nn.Linear(width, outputs)

    def forward(self, words: Tensor) -> Tensor:
        valid = (words > 0)[:, None]
        x = F.relu(self.bn(self.conv(self.embed(words).transpose(1, 2))))
        return self.head((x * valid).sum(2) / valid.sum(2).clamp(min=1))


class Logits(nn.Module):
    """A Hugging Face classifier of images that returns its logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).logits


def hf_resnet(**settings: Any) -> Logits:
    """Hugging Face's ResNet with two small stages and random weights."""
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    config = ResNetConfig(num_channels=1, num_labels=10, **(sizes | settings))
    return Logits(ResNetForImageClassification(config))


def monai_unet(norm: Any = "batch", **settings: Any) -> nn.Module:
    """MONAI's UNet of two levels and random weights."""
    from monai.networks.nets import UNet

    return UNet(2, 1, 1, channels=(8, 16), strides=(2,), norm=norm, **settings)


class FrozenNorms(nn.Module):
    """A network whose batch norms are frozen for good: no gradients, and evaluation mode whatever is called."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for norm in norms(network).values():
            norm.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        for norm in norms(self).values():
            norm.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def norms(model: nn.Module) -> dict[str, nn.Module]:
    """The batch norms of a model by their paths."""
    kind = nn.modules.batchnorm._BatchNorm
    return {path: module for path, module in model.named_modules() if isinstance(module, kind)}


def set_norms(model: nn.Module, **attributes: Any) -> nn.Module:
    """Set attributes of all batch norms of a model, such as `momentum`."""
    for norm in norms(model).values():
        for name, value in attributes.items():
            setattr(norm, name, value)
    return model

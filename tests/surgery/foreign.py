"""Norms as other libraries and people write them, and fixed scales and shifts: each by its name, with what it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def per_channel(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(-1, *(1,) * (x.dim() - 2))


class Sb3BatchRenorm1d(nn.Module):
    """Tensors, settings and arithmetic of sb3-contrib's `BatchRenorm1d`."""

    def __init__(self, features: int, affine: bool = True, warmup_steps: int = 100_000) -> None:
        super().__init__()
        self.register_buffer("ra_mean", torch.zeros(features))
        self.register_buffer("ra_var", torch.ones(features))
        self.register_buffer("steps", torch.tensor(0))
        self.scale, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.affine, self.eps, self.momentum, self.num_features = affine, 1e-3, 0.01, features
        self.rmax, self.dmax, self.warmup_steps = 3.0, 5.0, warmup_steps

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.ra_mean, self.ra_var
        if self.training:
            batch_mean, batch_var = x.mean(0), x.var(0)
            mean, var = batch_mean, batch_var
            if self.steps > self.warmup_steps:
                deviation = (self.ra_var + self.eps).sqrt()
                r = ((batch_var + self.eps).sqrt() / deviation).detach().clamp(1 / self.rmax, self.rmax)
                d = ((batch_mean - self.ra_mean) / deviation).detach().clamp(-self.dmax, self.dmax)
                mean, var = batch_mean - d * batch_var.sqrt() / r, batch_var / r**2
            self.ra_mean += self.momentum * (batch_mean.detach() - self.ra_mean)
            self.ra_var += self.momentum * (batch_var.detach() - self.ra_var)
            self.steps += 1
        y = (x - mean) / (var + self.eps).sqrt()
        return self.scale * y + self.bias if self.affine else y


class TorchrlBatchRenorm1d(nn.Module):
    """Tensors, settings and arithmetic of torchrl's `BatchRenorm1d`."""

    def __init__(self, features: int, warmup_steps: int = 10_000, smooth: bool = False) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = features, 1e-5, 0.01
        self.max_r, self.max_d, self.warmup_steps, self.smooth = 3.0, 5.0, warmup_steps, smooth
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        deviation = per_channel((self.running_var + self.eps).sqrt(), x)
        if not self.training:
            y = (x - per_channel(self.running_mean, x)) / deviation
            return per_channel(self.weight, x) * y + per_channel(self.bias, x)
        over = [i for i in range(x.dim()) if i != 1]
        mean, var = x.mean(over), x.var(over, unbiased=False)
        std = (var + self.eps).sqrt()
        r = (std.detach() / (self.running_var + self.eps).sqrt()).clamp(1 / self.max_r, self.max_r)
        d = ((mean.detach() - self.running_mean) / (self.running_var + self.eps).sqrt()).clamp(
            -self.max_d, self.max_d
        )
        ratio = self.num_batches_tracked / self.warmup_steps
        factor = ratio if self.smooth else ratio.floor()
        r, d = 1 + (r - 1) * factor, d * factor
        y = (x - per_channel(mean, x)) / per_channel(std, x) * per_channel(r, x) + per_channel(d, x)
        self.running_mean += self.momentum * (mean.detach() - self.running_mean)
        self.running_var += self.momentum * (var.detach() * len(x) / (len(x) - 1) - self.running_var)
        self.num_batches_tracked += 1
        return per_channel(self.weight, x) * y + per_channel(self.bias, x)


class MovingAverages(nn.Module):
    """A batch norm whose buffers have names of their own, and whose class has no "Norm" in its name."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("moving_mean", torch.zeros(features))
        self.register_buffer("moving_std", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.moving_mean, self.moving_std
        if self.training:
            over = [i for i in range(x.dim()) if i != 1]
            mean, std = x.mean(over), (x.var(over, unbiased=False) + 1e-5).sqrt()
            with torch.no_grad():
                self.moving_mean += 0.1 * (mean - self.moving_mean)
                self.moving_std += 0.1 * (std - self.moving_std)
        y = (x - per_channel(mean, x)) / per_channel(std, x)
        return per_channel(self.gain, x) * y + per_channel(self.offset, x)


class AlwaysRunning(nn.Module):
    """Running statistics that training neither updates nor goes by."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        y = (x - per_channel(self.running_mean, x)) / per_channel((self.running_var + 1e-3).sqrt(), x)
        return per_channel(self.weight, x) * y + per_channel(self.bias, x)


class RootMeanSquare(nn.Module):
    """As language models have it, in float32 inside."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


class OverChannels(nn.Module):
    """Layer norm over the channels of images, as ConvNeXt has it."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias).movedim(-1, 1)


class ByTheBatch(nn.Module):
    """Batch statistics in evaluation too."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        over = [i for i in range(x.dim()) if i != 1]
        y = (x - x.mean(over, keepdim=True)) / (x.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return y * per_channel(self.weight, x)


class ActNorm(nn.Module):
    """A scale and shift where channels come last, or second of two dimensions."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.s, self.b = nn.Parameter(torch.rand(features) + 0.5), nn.Parameter(torch.randn(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.s + self.b


class ImageAffine(nn.Module):
    """A scale and shift of images' channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        shape = (1, features, 1, 1)
        self.alpha, self.beta = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.beta, self.alpha, x)


class LayerScale(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(features) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Scale(nn.Module):
    """One number for all channels, as in Fixup networks."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class DataDependentActNorm(nn.Module):
    """A scale and shift that the first training batch decides, as in Glow."""

    def __init__(self, features: int, initialised: bool) -> None:
        super().__init__()
        self.loc, self.scale = nn.Parameter(torch.zeros(features)), nn.Parameter(torch.ones(features))
        self.register_buffer("initialised", torch.tensor(int(initialised)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialised:
            with torch.no_grad():
                self.loc.copy_(-x.mean(0))
                self.scale.copy_(1 / x.std(0))
                self.initialised.fill_(1)
        return (x + self.loc) * self.scale


class LearnedSlope(nn.Module):
    """An activation with a number for each channel: no norm, and no scale."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((features,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * per_channel(self.weight, x))


class Signs(nn.Module):
    """A binarisation with a scale for each channel, to which the size of the input makes no difference either."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * per_channel(self.weight, x)


class NoisyScale(nn.Module):
    """A scale that training disturbs."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        y = x * per_channel(self.weight, x)
        return y + torch.randn_like(y) if self.training else y


class NormThenRelu(MovingAverages):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def used(module: nn.Module) -> nn.Module:
    """The module with values as training leaves them, other in each channel; counters aside."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=draw))
    return module.eval()


KINDS = {
    "sb3-contrib's renorm": (lambda: Sb3BatchRenorm1d(6), "running"),
    "torchrl's renorm": (lambda: TorchrlBatchRenorm1d(6), "running"),
    "a batch norm of other names": (lambda: MovingAverages(6), "running"),
    "statistics that never change": (lambda: AlwaysRunning(6), "fixed"),
    "RMS norm": (lambda: RootMeanSquare(6), "own"),
    "layer norm over channels": (lambda: OverChannels(6), "own"),
    "batch statistics in evaluation": (lambda: ByTheBatch(6), "own"),
    "scale and shift": (lambda: ActNorm(6), "fixed"),
    "scale and shift of images": (lambda: ImageAffine(6), "fixed"),
    "layer scale": (lambda: LayerScale(6), "fixed"),
    "one scale": (Scale, "fixed"),
    "one shift": (Shift, "fixed"),
    "a first batch to come": (lambda: DataDependentActNorm(6, False), "first batch"),
    "a first batch that was": (lambda: DataDependentActNorm(6, True), "fixed"),
    "an activation": (lambda: LearnedSlope(6), None),
    "signs": (lambda: Signs(6), None),
    "noise in training": (lambda: NoisyScale(6), None),
    "a norm and its activation": (lambda: NormThenRelu(6), None),
}

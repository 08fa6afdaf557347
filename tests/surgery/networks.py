"""Networks that surgery is tried on: real ones in small, and the hard cases made by hand. Each row says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


@dataclass(frozen=True)
class Network:
    """How to make a model, and a batch for it (a tensor, or a dict of named arguments)."""

    make: Callable[[], nn.Module]
    batch: Callable[[], Any]
    why: str

    def model(self) -> nn.Module:
        """The same weights at every call, none of the norms at its initial values, in evaluation mode."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries' own making
            model = self.make()
        return lived_in(model).eval()


def lived_in(model: nn.Module) -> nn.Module:
    """Statistics and affine as after some training, all of them different."""
    with torch.no_grad():
        for module in model.modules():
            tensors = {**module._parameters, **module._buffers}
            if tensors.get("running_var") is None or tensors["running_var"].is_meta:
                continue
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point():
                    tensor.copy_(
                        torch.rand_like(tensor.float()) + (0.0 if name in ("bias", "running_mean") else 0.5)
                    )
                elif name == "num_batches_tracked":
                    tensor.fill_(7)
    return model


def images(size: int = 32, channels: int = 3) -> Callable[[], Tensor]:
    return lambda: torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def pixels(size: int = 32) -> Callable[[], dict[str, Tensor]]:
    return lambda: {"pixel_values": images(size)()}


def hf_resnet() -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic", num_labels=3)
    )


def hf_regnet() -> nn.Module:
    from transformers import RegNetConfig, RegNetForImageClassification

    return RegNetForImageClassification(
        RegNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], groups_width=4, num_labels=3)
    )


def hf_mobilenet_v2() -> nn.Module:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    return MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=32, depth_multiplier=0.1, num_labels=3, classifier_dropout_prob=0.0)
    )


def hf_efficientnet() -> nn.Module:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    return EfficientNetForImageClassification(
        EfficientNetConfig(
            image_size=32, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320, num_labels=3,
            dropout_rate=0.0, drop_connect_rate=0.0,
        )
    )  # fmt: skip


def hf_levit() -> nn.Module:
    from transformers import LevitConfig, LevitForImageClassification

    return LevitForImageClassification(
        LevitConfig(
            image_size=32, hidden_sizes=[16, 16, 16], num_attention_heads=[2, 2, 2], depths=[1, 1, 1],
            key_dim=[8, 8, 8], mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2], num_labels=3,
            down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 2, 4, 2, 2], [""]],
        )
    )  # fmt: skip


def monai_unet() -> nn.Module:
    from monai.networks.nets import UNet

    return UNet(
        spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2,
        norm="batch",
    )  # fmt: skip


def monai_densenet() -> nn.Module:
    from monai.networks.nets import DenseNet

    return DenseNet(
        spatial_dims=2, in_channels=1, out_channels=3, init_features=8, growth_rate=4, block_config=(2, 2)
    )


REAL = {
    "hf-resnet": Network(hf_resnet, pixels(), "residual blocks, projection shortcuts"),
    "hf-regnet": Network(hf_regnet, pixels(), "grouped convolutions, squeeze and excitation"),
    "hf-mobilenet-v2": Network(
        hf_mobilenet_v2, pixels(), "depthwise convolutions, padding computed in forward"
    ),
    "hf-efficientnet": Network(
        hf_efficientnet, pixels(), "eps and momentum of its own, zero padding modules"
    ),
    "hf-levit": Network(
        hf_levit, pixels(), "norms after linear layers of 3-D inputs, reshaped around the norm"
    ),
    "monai-unet": Network(
        monai_unet, images(channels=1), "skip connections, MONAI's Norm factory, ADN blocks"
    ),
    "monai-densenet": Network(monai_densenet, images(channels=1), "norm before convolution, concatenation"),
}


class SharedNorm(nn.Module):
    """One norm under two names, and its convolution under one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.again = self.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(F.relu(self.norm(self.first(x)))))


class UsedTwice(nn.Module):
    """One block, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.block(self.block(x))


class ByIndex(nn.Module):
    """Lists that the forward picks from by number, the norms apart from their convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x: Tensor) -> Tensor:
        for index in range(2):
            x = F.relu(self.norms[index](self.convolutions[index](x)))
        return x


class FunctionalResidual(nn.Module):
    """Activations and addition as functions; in place, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        return F.relu(x + self.norm(self.conv(x)), inplace=True)


class Conditional(nn.Module):
    """What is called depends on the data; symbols cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.one, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.one(x) if x.shape[0] > 2 and x.mean().item() < 100 else self.other(x)


class PlainList(nn.Module):
    """The forward goes by a plain Python list of modules that are registered elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.order = [self.conv, self.norm]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.order:
            x = layer(x)
        return x


class OwnForward(nn.BatchNorm2d):
    """A subclass that does more than its parent."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class BatchNormAct2d(nn.BatchNorm2d):
    """The way timm fuses batch norm, dropout and activation."""

    def __init__(self, features: int, act: nn.Module) -> None:
        super().__init__(features)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )  # fmt: skip
        return self.act(self.drop(x))


class FrozenBatchNorm2d(nn.Module):
    """The way detectron2 freezes batch norm: buffers only."""

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = features, eps
        self.register_buffer("weight", torch.ones(features))
        self.register_buffer("bias", torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features) - eps)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        bias = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)


def tied() -> nn.Module:
    """Two norms of their own statistics that share γ, and two linear layers that share a weight."""
    model = nn.Sequential(
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )
    model[3].weight = model[0].weight
    model[4].weight = model[1].weight
    return model


def hooked() -> nn.Module:
    """A norm with one of every kind of hook; they count in `model.seen`."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    model.seen = []
    norm = model[1]
    norm.register_forward_pre_hook(lambda *_: model.seen.append("pre"))
    norm.register_forward_pre_hook(lambda *_: model.seen.append("pre kwargs"), with_kwargs=True)
    norm.register_forward_hook(lambda *_: model.seen.append("forward"))
    norm.register_forward_hook(lambda *_: model.seen.append("forward kwargs"), with_kwargs=True)
    norm.register_forward_hook(lambda *_: model.seen.append("always"), always_call=True)
    norm.register_full_backward_pre_hook(lambda *_: model.seen.append("backward pre"))
    norm.register_full_backward_hook(lambda *_: model.seen.append("backward"))
    norm.register_state_dict_pre_hook(lambda *_: model.seen.append("state pre"))
    norm.register_state_dict_post_hook(lambda *_: model.seen.append("state"))
    norm.register_load_state_dict_pre_hook(lambda module, *_: model.seen.append(("load pre", module)))
    norm.register_load_state_dict_post_hook(lambda module, *_: model.seen.append(("load", module)))
    return model


def parametrized() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(),
        parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4),
    )  # fmt: skip


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and in use
        model = nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU())
    with torch.no_grad():
        model(torch.zeros(1, 3, 4, 4))  # the weight it computes is a leaf now, which can be copied
    return model


def in_a_dict() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleDict(
                {"stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())}
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.parts["stem"](x)

    return Net()


def plain(*, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
    ).to(dtype)


def volumes_and_sequences() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 4, (1, 3, 3)), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(2), nn.BatchNorm1d(4, eps=1e-3), nn.Tanh(),
        nn.Flatten(), nn.Linear(144, 6), nn.BatchNorm1d(6, momentum=None, affine=False),
    )  # fmt: skip


HARD = {
    "shared norm": Network(SharedNorm, images(8), "one module under two names"),
    "used twice": Network(UsedTwice, images(8), "one module called twice"),
    "by index": Network(ByIndex, images(8), "ModuleLists, functional ReLU"),
    "functional": Network(FunctionalResidual, images(8), "functions in place, a residual"),
    "conditional": Network(Conditional, images(8), "a forward that symbols cannot follow"),
    "hooked": Network(hooked, images(8), "hooks of every kind"),
    "parametrized": Network(parametrized, images(8), "parametrized convolutions beside the norms"),
    "old weight norm": Network(old_weight_norm, images(8), "weights computed by hooks"),
    "tied": Network(tied, lambda: torch.randn(5, 8), "parameters that several modules hold"),
    "in a dict": Network(in_a_dict, images(8), "nn.Sequential inside nn.ModuleDict"),
    "double": Network(lambda: plain(dtype=torch.float64), lambda: images(8)().double(), "float64"),
    "bfloat16": Network(
        lambda: plain(dtype=torch.bfloat16), lambda: images(8)().bfloat16(), "half precision"
    ),
    "dimensions": Network(
        volumes_and_sequences,
        lambda: torch.randn(4, 3, 1, 8, 8),
        "1-D and 3-D norms, no affine, cumulative average",
    ),
}
"""All of them can be changed by an operation on their norms."""

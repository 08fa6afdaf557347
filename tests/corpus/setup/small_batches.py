"""NS301: too few values per channel, counted with positions, as batch norm counts them."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

NOISY = "403 404 405 202 506"
"""What statistics of few values may bring along."""


@case("MLP", must="301", may=NOISY, seen="per-device batches of 4 because the model would not fit")
def mlp_in_batches_of_four() -> Given:
    """Batch norm after linear layers sees four values per channel in every step."""
    return training.fitted(networks.mlp(), "mlp", size=4, steps=300)


class ImagePooling(nn.Module):
    """DeepLab's branch that pools the whole image to one position, normalises it and spreads it again."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv2d(width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.bn(self.conv(self.pool(x)))).expand_as(x)


def segmenter() -> nn.Sequential:
    """A small network for masks with an image pooling branch in the middle."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        ImagePooling(8), nn.Conv2d(8, 1, 1),
    )  # fmt: skip


@case(
    "CNN",
    must="301",
    may=NOISY,
    seen="DeepLab's ASPP pooling branch: 'Expected more than 1 value per channel'",
)
def image_pooling_in_batches_of_two() -> Given:
    """All norms but one see hundreds of positions; the one after the global pool sees two values per channel."""
    return training.fitted(segmenter(), "monai", size=2, steps=120)


@case(
    "CNN",
    must="301",
    may="202 403 404 405",
    seen="the same network trained image by image, and the same error",
)
def image_pooling_in_batches_of_one() -> Given:
    """The norm after the global pool gets one value per channel, which torch refuses in training."""
    given = training.fitted(segmenter(), "monai", size=8, steps=60)
    single = data.batches(training.samples("monai")[0], 1, most=8)
    return training.around(given.model, "monai", batches=single, runs_in_training=False)


@case(
    "Hugging Face",
    must="301",
    may=NOISY,
    seen="small inputs in a network made for 224 × 224, whose last map is 1 × 1",
)
def hf_resnet_on_tiny_maps_in_batches_of_four() -> Given:
    """Five halvings make 1 × 1 maps of 16 × 16 images; a batch of four is four values per channel there."""
    model = networks.hf_resnet(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1])
    return training.fitted(model, "hf", size=4, steps=100)


class Pooled(networks.Gru):
    """Batch norm on the last state of a GRU, one value per sample and channel."""

    def forward(self, x: Tensor) -> Tensor:
        state = self.rnn(x)[1][-1]
        return self.head(torch.relu(self.bn.norm(state)))


@case(
    "RNN",
    must="301",
    may=NOISY,
    seen="recurrent encoders with a batch norm on the last hidden state, batch size 8",
)
def last_state_in_batches_of_eight() -> Given:
    """The norm of the last hidden state sees eight values per channel, whatever the length of the sequence."""
    return training.fitted(Pooled(networks.batch_norm), "gru", size=8, steps=200)


@case("CNN", must_not="301")
def convolutions_in_batches_of_two() -> Given:
    """Two images, but 32 to 128 positions and more: each channel has plenty of values."""
    return training.fitted(segmenter_without_pooling(), "monai", size=2, steps=150)


def segmenter_without_pooling() -> nn.Sequential:
    return nn.Sequential(*(layer for layer in segmenter() if not isinstance(layer, ImagePooling)))


@case("CNN", must_not="301")
def image_pooling_in_large_batches() -> Given:
    """Batch norm after a global pool, but with 64 images in a batch: 64 values per channel."""
    return training.fitted(segmenter(), "monai", steps=60)


@case("MLP", must_not="301 303")
def group_norm_in_batches_of_two() -> Given:
    """Group norm does not look beyond the sample; batches of two cost it nothing."""
    return training.fitted(networks.mlp(networks.group_norm), "mlp", size=2, steps=300)


@case("transformer-like", may="403", must_not="301")
def batch_norm_over_time_in_batches_of_eight() -> Given:
    """Eight sequences of eight steps: 64 values per channel."""
    return training.fitted(networks.Transformer(), "transformer", size=8, steps=200)


@case("CNN", must_not="301 302")
def instance_norm_one_image_at_a_time() -> Given:
    """Instance norm over 16 × 16 positions with single images, as in style transfer."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )
    return training.fitted(model, "monai", size=1, steps=200)

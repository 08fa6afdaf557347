"""Faults of structure and near misses in networks of Hugging Face and MONAI, as these libraries build them."""

from __future__ import annotations

from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
"""A text network of two small layers."""


@case("Hugging Face", must="105", seen="BERT and all that followed it: LayerNorm(x + f(x))")
def hf_bert_normalises_its_stream() -> Given:
    """Every block of BERT normalises the sum of its input and its branch."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=21, max_position_embeddings=16, pad_token_id=0, num_labels=2, **SMALL)
    return training.fitted(networks.Logits(BertForSequenceClassification(config)), "words", steps=80)


@case(
    "MONAI",
    must="102",
    may="403 404 202",
    seen="MONAI's `dropout=` argument: norm, dropout, activation, next convolution and norm",
)
def monai_dropout_in_every_block() -> Given:
    """MONAI's blocks put dropout after the norm, and so before the norm of the next block."""
    return training.fitted(networks.monai_unet(dropout=0.5), "monai", steps=80)


@case("MONAI", must_not="102")
def monai_dropout_with_instance_norm() -> Given:
    """The same blocks with instance norm, which takes its statistics anew for every sample."""
    return training.fitted(networks.monai_unet("instance", dropout=0.3), "monai", steps=80)


@case(
    "MONAI",
    must="111",
    may="203 411 501 502 503 504 505 506",
    seen="as many groups as channels, and a bottleneck of 1 × 1",
)
def monai_single_channels_in_the_bottleneck() -> Given:
    """Groups of one channel, and maps of 1 × 1 at the bottom of the U: what it says is β."""
    from monai.networks.nets import UNet

    model = UNet(2, 1, 1, channels=(8, 8, 8), strides=(4, 4), norm=("group", {"num_groups": 8}))
    return training.fitted(model, "monai", steps=60)


@case("Hugging Face", must_not="106 412 304")
def hf_albert_shares_its_layers() -> Given:
    """ALBERT applies one layer several times, layer norms and all: they keep no statistics."""
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        vocab_size=21, embedding_size=16, max_position_embeddings=16, pad_token_id=0, num_labels=2, **SMALL
    )
    return training.fitted(networks.Logits(AlbertForSequenceClassification(config)), "words", steps=80)


@case("Hugging Face", must="104", seen="a norm put behind a pretrained classifier 'to calibrate it'")
def hf_classifier_with_a_norm_on_its_logits() -> Given:
    """Batch norm on the logits of a Hugging Face classifier."""
    return training.fitted(nn.Sequential(networks.hf_resnet(), nn.BatchNorm1d(10)), "hf", steps=80)


class TwoHeads(nn.Module):
    """A Hugging Face backbone whose pooled features go through one norm for both of two heads."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.backbone = networks.hf_resnet().model.resnet
        self.norms = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(1 if shared else 2))
        self.lift = nn.Linear(16, 16)
        self.heads = nn.ModuleList(nn.Linear(16, 10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.backbone(x).pooler_output.flatten(1)
        inputs = (pooled, 3 * self.lift(pooled) + 2)
        pairs = enumerate(zip(inputs, self.heads, strict=True))
        first, second = (head(self.norms[i % len(self.norms)](y)) for i, (y, head) in pairs)
        return first + second


@case(
    "Hugging Face",
    must="106",
    may="202 304 403 404 412",
    seen="multi-task heads that share a norm of the backbone's features",
)
def hf_norm_shared_by_two_heads() -> Given:
    """One norm serves the features and a projection of them, whose statistics differ."""
    return training.fitted(TwoHeads(shared=True), "hf", steps=80)


@case("Hugging Face", must_not="106 412")
def hf_norm_of_each_head() -> Given:
    """The same heads, each with its own norm."""
    return training.fitted(TwoHeads(shared=False), "hf", steps=80)

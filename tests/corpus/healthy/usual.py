"""Known-good networks of the usual kinds, trained for a while: no warning and no error may come."""

from __future__ import annotations

import torch
from tests.corpus import data, networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


@case("MLP")
def healthy_mlp() -> Given:
    """Two hidden layers with batch norm on digits."""
    return training.trained("mlp", steps=200)


@case("CNN")
def healthy_cnn() -> Given:
    """Two convolutions with batch norm, global average pooling."""
    return training.trained("cnn", steps=200)


@case("CNN")
def healthy_resnet() -> Given:
    """A residual network, handed over in evaluation mode."""
    given = training.trained("resnet", steps=200)
    given.model.eval()
    return given


@case("CNN")
def healthy_resnet_that_began_as_identity() -> Given:
    """A residual network whose last norms began with γ = 0, after training."""
    model = networks.ResNet()
    for block in model.blocks:
        nn.init.zeros_(block.bn2.weight)
    return training.fitted(model, "resnet", steps=200)


@case("RNN")
def healthy_gru() -> Given:
    """A GRU with batch norm over samples and steps."""
    return training.trained("gru", steps=200)


class Lstm(nn.Module):
    """An LSTM with layer norm on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 32, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.rnn(x)[1][0][-1]))


@case("RNN")
def healthy_lstm() -> Given:
    """An LSTM with layer norm before its head."""
    return training.fitted(Lstm(), "gru", steps=150)


@case("transformer-like")
def healthy_transformer_with_batch_norm() -> Given:
    """A transformer for series with batch norm over time."""
    return training.trained("transformer", steps=150)


class Encoder(nn.Module):
    """torch's own encoder, normalised before its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
        self.position = nn.Parameter(0.1 * torch.randn(1, 8, 32))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.position).mean(1))


@case("transformer-like")
def healthy_transformer_of_torch() -> Given:
    """torch's TransformerEncoder with layer norm and a little dropout."""
    return training.fitted(Encoder(), "transformer", steps=150)


@case("transformer-like")
def healthy_text_network() -> Given:
    """Embedded words of full length, a convolution over time, batch norm."""
    return training.trained("words", steps=120)


@case("Hugging Face")
def healthy_hf_resnet() -> Given:
    """Hugging Face's ResNet on digits of 16 × 16."""
    return training.trained("hf", steps=120)


@case("Hugging Face")
def healthy_hf_bert() -> Given:
    """Hugging Face's BERT of two small layers on sentences of full length."""
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=21, max_position_embeddings=16, pad_token_id=0, num_labels=2, **sizes)
    model = networks.Logits(BertForSequenceClassification(config))
    return training.fitted(model, "words", steps=80)


@case("Hugging Face")
def healthy_hf_convnext() -> Given:
    """Hugging Face's ConvNeXt, whose norms are layer norms over channels."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(
        num_channels=1, patch_size=2, num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], num_labels=10,
        layer_scale_init_value=0.1,
    )  # fmt: skip
    return training.fitted(networks.Logits(ConvNextForImageClassification(config)), "hf", steps=100)


@case("MONAI")
def healthy_monai_unet() -> Given:
    """MONAI's UNet with batch norm, segmenting rectangles."""
    return training.trained("monai", steps=80)


@case("MONAI")
def healthy_monai_unet_with_instance_norm() -> Given:
    """MONAI's UNet with instance norm, as it is by default, in batches of two."""
    return training.fitted(networks.monai_unet("instance"), "monai", size=2, steps=150)


@case("MONAI")
def healthy_monai_densenet() -> Given:
    """MONAI's DenseNet with few layers on digits."""
    from monai.networks.nets import DenseNet

    model = DenseNet(2, 1, 10, init_features=8, growth_rate=4, block_config=(2, 2), bn_size=2)
    return training.fitted(model, "hf", steps=100)


def tabular(name: str, model: nn.Module, loss: training.Loss, size: int = 32, steps: int = 150) -> Given:
    """A model trained on a scaled table of scikit-learn, handed over with a loader."""
    (x, y), held_out = data.split(data.table(name))
    training.train(model, training.epochs((x, y), size), steps, loss=loss, rate=3e-3)
    loader = DataLoader(TensorDataset(x, y), batch_size=size, drop_last=True)
    validate = training.validation(held_out, loss)
    return Given(model, loader, loss=loss, optimizer=training.adam, validate=validate)


@case("MLP")
def healthy_table_network() -> Given:
    """A scaled table, batch norm, two classes, a loader that drops its remainder."""
    return tabular("breast_cancer", networks.mlp(inputs=30, width=24, outputs=2), F.cross_entropy)


@case("MLP")
def healthy_regression() -> Given:
    """Regression on scikit-learn's diabetes table."""
    return tabular("diabetes", networks.mlp(inputs=10, width=16, outputs=1), F.mse_loss, steps=100)


class Autoencoder(nn.Module):
    """Convolutions down and up again, with batch norms, linear output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        )  # fmt: skip
        self.up = nn.Sequential(
            nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.ConvTranspose2d(12, 1, 4, stride=2, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@case("CNN")
def healthy_autoencoder() -> Given:
    """A convolutional autoencoder on digits."""
    x, _ = training.samples("cnn")[0]
    model = training.train(Autoencoder(), training.epochs((x, x)), 150, loss=F.mse_loss, rate=1e-2)
    return Given(model, data.batches((x, x), most=10), loss=F.mse_loss, optimizer=training.adam)

"""NS103, NS104, NS105, NS109: norms after norms, on outputs, after additions, and about activations."""

from __future__ import annotations

import torch
from tests.corpus import networks, training
from tests.corpus.case import Given, case
from torch import Tensor, nn
from torch.nn import functional as F

# Two norms with nothing between.


@case("MLP", must="103", seen="a norm at the end of one block and another at the start of the next")
def two_batch_norms_in_a_row() -> Given:
    """A block ends with batch norm, the next begins with one."""
    model = networks.mlp()
    model.insert(2, nn.BatchNorm1d(48))
    return training.fitted(model, "mlp")


class DoubleCnn(networks.Cnn):
    """Group norm, then batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(4, 24)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.gn(self.conv2(x))))


@case("CNN", must="103", seen="a norm added to a network that already had one")
def group_norm_then_batch_norm() -> Given:
    """Group norm's output goes straight into batch norm."""
    return training.fitted(DoubleCnn(), "cnn")


class NormedHead(networks.Transformer):
    """A head that begins with layer norm after the encoder's last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.head = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.position))).mean(1)


@case(
    "transformer-like",
    must="103",
    seen="classification heads with a LayerNorm of their own on an encoder with a final one",
)
def head_with_a_second_layer_norm() -> Given:
    """The encoder's last layer norm and the head's first one have nothing between them."""
    return training.fitted(NormedHead(), "transformer")


@case("MLP", must_not="103")
def activation_between_two_norms() -> Given:
    """Norm, ReLU, norm: the second sees something else than the first."""
    model = networks.mlp()
    model.insert(3, nn.BatchNorm1d(48))
    return training.fitted(model, "mlp")


class TwoPaths(networks.Cnn):
    """Instance norm for half of the channels, batch norm for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.instance, self.batch = nn.InstanceNorm2d(12, affine=True), nn.BatchNorm2d(12)
        del self.bn2

    def features(self, x: Tensor) -> Tensor:
        half, other = self.conv2(F.relu(self.bn1(self.conv1(x)))).chunk(2, 1)
        return F.relu(torch.cat((self.instance(half), self.batch(other)), 1))


@case("CNN", must_not="103")
def instance_and_batch_norm_side_by_side() -> Given:
    """IBN-Net's block: two norms beside each other, none after the other."""
    return training.fitted(TwoPaths(), "cnn")


@case("Hugging Face", must_not="103 104 105")
def one_norm_for_each_convolution() -> Given:
    """A residual network as it is meant."""
    return training.trained("hf")


# A norm on the output.


@case("MLP", must="104", seen="a loop that puts Linear, BatchNorm after every layer, the last one too")
def batch_norm_on_logits() -> Given:
    """The logits are normalised over the batch."""
    return training.fitted(nn.Sequential(*networks.mlp(), nn.BatchNorm1d(10)), "mlp")


class NormedCnn(networks.Cnn):
    """Layer norm on the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.LayerNorm(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


@case("CNN", must="104", seen="a norm added 'for stability' after the classifier")
def layer_norm_on_logits() -> Given:
    """The logits of each sample are brought to mean 0 and deviation 1."""
    return training.fitted(NormedCnn(), "cnn")


class Denoiser(nn.Module):
    """A recurrent network that predicts a sequence, normalised at its end."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 32, batch_first=True)
        self.norm = networks.OverTime(nn.BatchNorm1d(32))
        self.out = nn.Linear(32, 8)
        self.last = networks.OverTime(nn.BatchNorm1d(8)) if last else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.out(F.relu(self.norm(self.rnn(x)[0]))))


def denoised(*, last: bool) -> Given:
    """The denoiser trained to give the rows of digits from noisy ones."""
    x, _ = training.samples("gru")[0]
    noisy = x + 0.5 * torch.randn(x.shape)
    model = training.train(Denoiser(last=last), training.epochs((noisy, x)), 120, loss=F.mse_loss)
    batches = training.data.batches((noisy, x), most=10)
    return Given(model, batches, loss=F.mse_loss, optimizer=training.adam)


@case("RNN", must="104", seen="regression with a norm as last layer: targets out of reach, scale lost")
def batch_norm_on_a_regression() -> Given:
    """A sequence is predicted, and its values are normalised at the end."""
    return denoised(last=True)


@case("RNN", must_not="104")
def regression_without_a_last_norm() -> Given:
    """The same network with a linear output."""
    return denoised(last=False)


class Autoencoder(nn.Sequential):
    """A norm in the bottleneck, none on the output."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(),
            nn.Linear(32, 8, bias=False), nn.BatchNorm1d(8),
            nn.Linear(8, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64),
        )  # fmt: skip


@case("MLP", must_not="104 103")
def norm_in_the_bottleneck() -> Given:
    """An autoencoder whose code is normalised, and whose output is not."""
    x, _ = training.samples("mlp")[0]
    model = training.train(Autoencoder(), training.epochs((x, x)), 150, loss=F.mse_loss)
    return Given(model, training.data.batches((x, x), most=10), loss=F.mse_loss, optimizer=training.adam)


@case("transformer-like", must_not="104")
def last_norm_before_the_head() -> Given:
    """The last norm of a transformer stands before its head."""
    return training.trained("transformer")


# A norm after an addition.


class PostNorm(nn.Module):
    """A transformer's block, normalised after each addition."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = networks.Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


@case("transformer-like", must="105", seen="transformers after the first paper: warm-up or divergence")
def layer_norm_after_each_addition() -> Given:
    """norm(x + f(x)): the stream itself is normalised in each block."""
    model = networks.Transformer()
    model.blocks, model.norm = nn.Sequential(PostNorm(), PostNorm()), nn.Identity()
    return training.fitted(model, "transformer")


class AfterAddition(networks.Block):
    """A residual block with its second norm after the addition."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(x + self.conv2(F.relu(self.bn1(self.conv1(x))))))


@case("CNN", must="105", seen="residual blocks written from memory, the norm one line too late")
def batch_norm_after_the_addition() -> Given:
    """The second norm of each block comes after the addition, on the stream."""
    model = networks.ResNet()
    model.blocks = nn.Sequential(AfterAddition(12), AfterAddition(12))
    return training.fitted(model, "resnet")


class ResidualRnn(nn.Module):
    """Recurrent layers with residual connections, normalised after each addition."""

    def __init__(self, *, after: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.rnns = nn.ModuleList(nn.GRU(32, 32, batch_first=True) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))
        self.after = after
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for rnn, norm in zip(self.rnns, self.norms, strict=True):
            x = norm(x + rnn(x)[0]) if self.after else x + rnn(norm(x))[0]
        return self.head(x.mean(1))


@case("RNN", must="105", seen="stacked recurrent layers with skip connections and a norm after each sum")
def layer_norm_after_recurrent_additions() -> Given:
    """Three recurrent layers, each added to its input and normalised after that."""
    return training.fitted(ResidualRnn(after=True), "gru", steps=60)


@case("RNN", must_not="105")
def layer_norm_before_recurrent_branches() -> Given:
    """The same network with the norm at the start of each branch."""
    return training.fitted(ResidualRnn(after=False), "gru", steps=60)


@case("transformer-like", must_not="105")
def norms_inside_the_branches() -> Given:
    """Norms before attention and MLP; the last norm before the head ends the stream, it does not cut it."""
    return training.fitted(networks.Transformer(networks.group_norm), "transformer")


class PreActivation(networks.Block):
    """Norm and ReLU first; the addition is left alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))


@case("CNN", must_not="105")
def pre_activation_blocks() -> Given:
    """A norm reads the sum at the start of each branch, while the sum itself goes on past it."""
    model = networks.ResNet()
    model.blocks = nn.Sequential(PreActivation(12), PreActivation(12))
    return training.fitted(model, "resnet")


# Norms and activations.


@case(
    "MLP",
    must="109",
    may="502",
    seen="batch norm before tanh, or after ReLU: both are asked for again and again",
)
def batch_norm_before_tanh() -> Given:
    """Norms stand before s-shaped activations."""
    model = networks.mlp()
    model[2], model[5] = nn.Tanh(), nn.Tanh()
    return training.fitted(model, "mlp")


class NormAfterRelu(networks.Cnn):
    """Convolution, ReLU, norm."""

    def features(self, x: Tensor) -> Tensor:
        return self.bn2(F.relu(self.conv2(self.bn1(F.relu(self.conv1(x))))))


@case("CNN", must="109", seen="convolution, ReLU, norm: the order that some prefer")
def batch_norm_after_relu() -> Given:
    """Norms stand after ReLU."""
    return training.fitted(NormAfterRelu(), "cnn")


class GatedGru(networks.Gru):
    """The normalised outputs of a GRU gate themselves."""

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x)[0]
        return self.head((states * torch.sigmoid(self.bn(states))).mean(1))


@case("RNN", must="109", may="502", seen="gates with a norm before their sigmoid")
def batch_norm_before_a_gate() -> Given:
    """A norm stands before a sigmoid."""
    return training.fitted(GatedGru(networks.batch_norm), "gru")


@case("MLP", must_not="109")
def batch_norm_before_relu() -> Given:
    """Linear, norm, ReLU: the usual order."""
    return training.trained("mlp")


@case("transformer-like", must_not="109")
def norms_before_linear_layers() -> Given:
    """Norms before attention and linear layers, no activation beside them."""
    return training.trained("transformer")


@case("Hugging Face", must_not="109")
def usual_order_in_a_residual_network() -> Given:
    """Convolution, norm, ReLU; before the addition a norm without activation."""
    return training.trained("hf")

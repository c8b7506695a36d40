"""Small networks, one for each way in which layers depend on each other, to try compression on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

SHAPE = (3, 8, 8)


class Computes(nn.Module):
    """Layers by name and a function of them and the input: the shortest way to write a network."""

    def __init__(self, compute: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.compute(self, x)
        return y


def convolution(
    inputs: int, outputs: int, kernel: int = 3, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        same = inputs == outputs and stride == 1
        self.first = convolution(inputs, outputs, stride=stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = functional.relu(self.second(self.first(x)) + self.shortcut(x))
        return y


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, 8, 1)
        self.up = nn.Conv2d(8, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        means = x.mean((2, 3), keepdim=True)
        y: torch.Tensor = x * functional.hardsigmoid(self.up(functional.relu(self.down(means))))
        return y


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, squeeze: bool = True) -> None:
        super().__init__()
        self.adds = inputs == outputs and stride == 1
        middle = 2 * inputs
        self.layers = nn.Sequential(
            convolution(inputs, middle, 1),
            convolution(middle, middle, 3, stride=stride, groups=middle),
            SqueezeExcite(middle) if squeeze else nn.Identity(),
            nn.Sequential(nn.Conv2d(middle, outputs, 1, bias=False), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.adds else y


class Attention(nn.Module):
    """A transformer layer with one head, before which all channels of a position are normalised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.after = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.before(x)
        weights = (self.query(y) @ self.key(y).transpose(1, 2)).softmax(-1)
        x = x + self.out(weights @ self.value(y))
        y = x + self.after(x)
        return y


class Heads(nn.Module):
    """Attention with several heads, as it is written by hand: queries, keys and values from one layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.each).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.each**-0.5).softmax(-1)
        y: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
        return y


class TorchHeads(nn.Module):
    """The same by PyTorch's own layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.attention(x, x, x, need_weights=False)[0]
        return y


class Encoder(nn.Module):
    """A transformer layer with several heads."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__()
        self.before, self.attention = nn.LayerNorm(width), attention
        self.after = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.before(x))
        y: torch.Tensor = x + self.after(x)
        return y


class Transformer(nn.Module):
    """A vision transformer: patches, a class token and positions that are bare parameters, two layers."""

    def __init__(self, make: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 5, 16) * 0.1)
        self.encoder = nn.Sequential(Encoder(16, make(16, 2)), Encoder(16, make(16, 2)))
        self.norm, self.out = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y: torch.Tensor = self.out(self.norm(self.encoder(x))[:, 0])
        return y


class Scaled(nn.Module):
    """A residual block whose channels are scaled by a bare parameter."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(channels, 32, 1), nn.Conv2d(32, channels, 1))
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.scale * self.layers(x)
        return y


def chain() -> nn.Module:
    return nn.Sequential(convolution(3, 16), convolution(16, 24), convolution(24, 16), head(16))


def residual() -> nn.Module:
    return nn.Sequential(
        convolution(3, 16), Residual(16, 16), Residual(16, 16), Residual(16, 32, 2), head(32)
    )


def mobile() -> nn.Module:
    blocks = [InvertedResidual(16, 16), InvertedResidual(16, 24, 2), InvertedResidual(24, 24, squeeze=False)]
    return nn.Sequential(convolution(3, 16), nn.Sequential(*blocks), convolution(24, 32, 1), head(32))


def concatenated() -> nn.Module:
    def compute(net: Any, x: torch.Tensor) -> Any:
        x = net.stem(x)
        return net.head(net.join(torch.cat([net.left(x), x, net.right(x)], 1)))

    return Computes(
        compute,
        stem=convolution(3, 16),
        left=convolution(16, 8, 1),
        right=convolution(16, 24),
        join=convolution(48, 32, 1),
        head=head(32),
    )


def flattened() -> nn.Module:
    return nn.Sequential(
        convolution(3, 16, stride=2), nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 5)
    )


def grouped() -> nn.Module:
    return nn.Sequential(convolution(3, 32), convolution(32, 64, groups=4), convolution(64, 32, 1), head(32))


def transposed() -> nn.Module:
    up = nn.ConvTranspose2d(16, 24, 2, stride=2)
    return nn.Sequential(convolution(3, 16, stride=2), up, nn.PReLU(24), convolution(24, 16), head(16))


def normalised() -> nn.Module:
    stem = nn.Conv2d(3, 16, 4, 4)

    def compute(net: Any, x: torch.Tensor) -> Any:
        x = functional.relu(net.norm(net.stem(x))).flatten(2).transpose(1, 2)
        return net.out(net.layers(x).mean(1))

    layers = nn.Sequential(Attention(16), Attention(16))
    return Computes(compute, stem=stem, norm=nn.GroupNorm(2, 16), layers=layers, out=nn.Linear(16, 5))


def group_normed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.SiLU(),
        nn.Conv2d(32, 16, 3, padding=1), nn.GroupNorm(16, 16), nn.SiLU(), head(16),
    )  # fmt: skip


def transposed_in_slices() -> nn.Module:
    up = nn.ConvTranspose2d(16, 16, 2, stride=2, groups=4)
    return nn.Sequential(convolution(3, 16, stride=2), up, nn.ReLU(), convolution(16, 32), head(32))


def scaled() -> nn.Module:
    return nn.Sequential(convolution(3, 16), Scaled(16), Scaled(16), head(16))


def transformer() -> nn.Module:
    return Transformer(Heads)


def torch_transformer() -> nn.Module:
    return Transformer(TorchHeads)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    f.__name__: f for f in (chain, residual, mobile, concatenated, flattened, grouped, transposed, normalised)
}
HARDER: dict[str, Callable[[], nn.Module]] = {
    f.__name__: f for f in (group_normed, transposed_in_slices, scaled, transformer, torch_transformer)
}
"""Networks of which not everything can be pruned."""


def trained(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """The network in evaluation mode with weights and statistics as lively as if it had been trained."""
    torch.manual_seed(seed)
    model = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    return model.eval()

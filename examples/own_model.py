"""A network of your own, compressed instead of searched for: pruned, quantised, retrained, certified.

    python examples/own_model.py

A network that is trained already is given as it is, `model=net`, and counts as trained. In an experiment file the
same is `model: examples/own_model.py:Net`, the path being seen from where nasflow is started, and weights are a file:
`model: {name: examples/own_model.py:Net, weights: net.pt}`.
"""

import torch
from torch import nn

import nasflow


class Net(nn.Module):
    """A small residual network for grey images of 8x8 pixels."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = layer(1, width)
        self.blocks = nn.ModuleList(nn.Sequential(layer(width, width), layer(width, width)) for _ in range(3))
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def main() -> None:
    result = nasflow.fit("digits", model=Net, epochs=10, folder="runs/own-model", notify=print)
    for step in result.summary["compression"]:
        print(f"{step['name']}, {'kept' if step['accepted'] else 'refused'}: {step['reason']}")
    best = result.best()
    print(f"{best.name} ships: {best.certificate['test_error']:.2%} wrong on test images; {result.report()}")


if __name__ == "__main__":
    main()

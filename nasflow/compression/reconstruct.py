"""What the layers behind a pruned one can make up for, without training: their weights fitted anew by least squares.

He et al., 2017 (Channel Pruning, arXiv:1707.06168), as AMC (arXiv:1802.03494) uses it to judge a policy: a layer that
loses inputs gets those weights with which its outputs, on sampled places of some images, come closest to what they
were. What the whole network gave each layer is looked at once; every policy after that is a small system of equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasflow.compression.criteria import BATCH_NORM
from nasflow.compression.groups import PruneError, Removed, Traced, readers

IMAGES = 32  # looked at together, at the same places
RIDGE = 1e-4


@dataclass(frozen=True)
class Reconstruction:
    """What a network's layers were given: `moments`, for each by name the mean products (inputs + 1, inputs + 1) of
    all that its kernel covers at a place and of a last input that is 1; `norms`, the batch normalisation right behind.

    Given to prune.apply as `compensate` it fits every layer that reads channels which go, each on its own, as AMC's
    authors do. Staying near the old weights is rewarded a little (RIDGE), so that no fit is worse on the images than
    these weights would be. What is missing on average goes to the layer's bias or to the normalisation's mean. Layers
    that are grouped or transposed stay as they are.
    """

    moments: Mapping[str, Tensor]
    norms: Mapping[str, str]

    def __call__(self, traced: Traced, shape: Sequence[int], removed: Removed) -> None:
        modules = dict(traced.model.named_modules())
        names = {module: name for name, module in modules.items()}
        for module, channels in readers(traced, removed).items():
            name = names[module]
            if name in self.moments:
                norm = (
                    modules.get(self.norms[name]) if name in self.norms else None
                )  # it may be in a block that went
                _fit(module, channels, self.moments[name], norm)


def reconstruction(model: nn.Module, images: Tensor, *, points: int = 10, seed: int = 0) -> Reconstruction:
    """Look at what `model`'s layers are given for `images` (n, channels, height, width), preprocessed; at `points`
    places of each output, drawn anew for every few images, or at all where there are no more.

    A layer takes the square of what its kernel covers in memory: 2.7 MB for 64 inputs and 3 x 3, 170 MB for 512.
    """
    if points < 1 or len(images) < 1:
        raise PruneError(f"expected images and at least one point of each, got {len(images)} and {points}")
    rng = np.random.default_rng(seed)
    moments: dict[str, Tensor] = {}
    places: dict[str, int] = {}
    made: dict[str, Tensor] = {}
    norms: dict[str, str] = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[module]
        made[name] = output
        rows = _rows(module, given[0].detach(), output, points, rng).double()
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        moments[name] = moments.get(name, 0) + rows.T @ rows
        places[name] = places.get(name, 0) + len(rows)

    def behind(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        norms.update({name: names[module] for name, output in made.items() if output is given[0]})

    hooks = [m.register_forward_hook(note) for m in model.modules() if _fits(m)]
    hooks += [m.register_forward_pre_hook(behind) for m in model.modules() if isinstance(m, BATCH_NORM)]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(images), IMAGES):
                model(images[start : start + IMAGES])
                made.clear()
    finally:
        for hook in hooks:
            hook.remove()
        for module, was in training.items():
            module.training = was
    return Reconstruction({name: total / places[name] for name, total in moments.items()}, norms)


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _rows(module: nn.Module, given: Tensor, made: Tensor, points: int, rng: np.random.Generator) -> Tensor:
    """What the kernel covers at sampled places: (places, inputs x kernel), the channels outermost."""
    if isinstance(module, nn.Linear):
        tokens = given.reshape(len(given), -1, given.shape[-1])
        chosen = torch.from_numpy(rng.permutation(tokens.shape[1])[:points])
        return tokens[:, chosen].flatten(0, 1)
    assert isinstance(module, nn.Conv2d)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = functional.pad(given, module._reversed_padding_repeated_twice, mode)
    height, width = made.shape[2:]
    sizes = list(zip(module.stride, module.kernel_size, module.dilation, strict=True))
    patches = []
    for place in rng.permutation(height * width)[:points]:
        rows, columns = (
            slice(at * stride, at * stride + (kernel - 1) * dilation + 1, dilation)
            for at, (stride, kernel, dilation) in zip(divmod(int(place), width), sizes, strict=True)
        )
        patches.append(padded[:, :, rows, columns].flatten(1))
    return torch.cat(patches)


def _fit(module: nn.Module, gone: Tensor, moments: Tensor, norm: nn.Module | None) -> None:
    """Change the weights of the inputs that stay to what makes up best for those that go, in place."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    covered = weight[0, 0].numel()  # by the kernel
    stays = torch.ones(weight.shape[1], dtype=torch.bool)
    stays[gone] = False
    columns = stays.repeat_interleave(covered)
    bias = module.bias if isinstance(module.bias, Tensor) else None
    mean = getattr(norm, "running_mean", None)
    keep = torch.cat([columns, torch.tensor([bias is not None or mean is not None])])
    leave = torch.cat([~columns, torch.tensor([False])])
    if not keep.any():
        return
    with torch.no_grad():
        old = weight.flatten(1).double()
        system = moments[keep][:, keep]
        system = system + RIDGE * system.diagonal().mean() * torch.eye(len(system), dtype=system.dtype)
        missing = moments[keep][:, leave] @ old[:, ~columns].T
        change = torch.linalg.solve(system, missing).T.to(weight.dtype)
        fitted = weight.flatten(1)
        fitted[:, columns] += change[:, : int(columns.sum())]
        weight.copy_(fitted.reshape(weight.shape))
        if bias is not None:
            bias += change[:, -1]
        elif mean is not None:
            mean -= change[:, -1]

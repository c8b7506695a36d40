"""A device that answers by a formula, and networks so small that it has to look at them."""

from dataclasses import dataclass, field

import onnx
from torch import nn

from nasflow.hardware import DeviceError, Unreachable, timing
from nasflow.study import Trial

ENVIRONMENT = {"date": "2026-11-22T00:00:00Z", "cpu": "a test"}


@dataclass(frozen=True)
class Linear:
    """Points are the widths of a tiny network."""

    shape: tuple[int, int, int] = (1, 4, 4)

    def build(self, point):
        if point["width"] == 13:
            raise RuntimeError("no network has thirteen")
        return nn.Sequential(nn.Flatten(), nn.Linear(16, point["width"]))


def made_up(ms):
    samples = [[[int(1e6 * ms)] * 3] * 2] * 4
    return timing.latency(samples, samples, ENVIRONMENT)


@dataclass
class Fake:
    """A device whose milliseconds are the width of the network; it dislikes some widths."""

    name: str = "board"
    dislikes: tuple[int, ...] = ()
    away: bool = False
    asked: list = field(default_factory=list)

    def check(self):
        pass

    def latency(self, file):
        return self.latencies([file])[0]

    def latencies(self, files):
        if self.away:
            raise Unreachable(f"{self.name} does not answer")
        self.asked.append([file.parent.name for file in files])
        widths = [onnx.load(file).graph.output[0].type.tensor_type.shape.dim[1].dim_value for file in files]
        bad = [width for width in widths if width in self.dislikes]
        if bad:
            raise DeviceError(f"{self.name}: cannot run {bad[0]}")
        return [made_up(width) for width in widths]

    def compare(self, a, b, watch=None):
        raise NotImplementedError


def trial(number, width):
    return Trial(number, {"width": width})

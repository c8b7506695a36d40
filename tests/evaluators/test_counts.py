"""What counting promises."""

import copy
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasflow.evaluators.counts import (
    Counts,
    Operation,
    compute_intensity,
    flops,
    most_live,
    params,
    peak_memory_kb,
    size_kb,
    sparsity,
    training_memory_mb,
)
from nasflow.spaces import mobile, training

torch.set_num_threads(1)

SMALL = (1, 8, 8)


class Digits:
    """The mobile space for 8x8 images; counts how many networks it built."""

    shape = SMALL

    def __init__(self):
        self.built = 0

    def build(self, point):
        assert not any(name.startswith("train.") for name in point)
        self.built += 1
        return mobile.build(point, self.shape, 10)


def points(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def mobilenet_v1():
    """Howard et al., 2017 (arXiv:1704.04861), table 1."""

    def convolution(inputs, outputs, stride, groups=1, kernel=3):
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    layers, width = convolution(3, 32, 2), 32
    for outputs, stride in [
        (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1),
    ]:  # fmt: skip
        layers += convolution(width, width, stride, groups=width) + convolution(width, outputs, 1, kernel=1)
        width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


def torch_flops(model, shape):
    """Multiply-adds by torch's own counter, which counts both as operations of their own."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


def test_mobilenet_v1_costs_what_was_published():
    model = mobilenet_v1()
    assert flops(model, (3, 224, 224)) == 568_740_352
    assert params(model) == 4_231_976


@pytest.mark.parametrize("shape", [SMALL, (3, 16, 16), (3, 32, 32)])
def test_flops_agree_with_torchs_own_counter(shape):
    for point in points(mobile.space(shape, 10), 4):
        model = mobile.build(point, shape, 10)
        assert flops(model, shape) == torch_flops(model, shape)


class Attention(nn.Module):
    def __init__(self, written_out):
        super().__init__()
        self.projections = nn.Linear(16, 3 * 16)
        self.written_out = written_out

    def forward(self, x):
        q, k, v = self.projections(x.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in (q, k, v))
        if self.written_out:
            mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.flatten(1)


def test_attention_counts_whichever_way_it_is_written():
    tokens = 6 * 6
    expected = tokens * 16 * 48 + 2 * tokens * tokens * 16
    for written_out in (False, True):
        assert flops(Attention(written_out), (16, 6, 6)) == expected
    assert torch_flops(Attention(True), (16, 6, 6)) == expected


def test_attention_of_torchs_own_layers_counts():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(2).transpose(1, 2)).mean(1)

    tokens = 6 * 6
    expected = tokens * (16 * 48 + 16 * 16 + 2 * 16 * 32) + 2 * tokens * tokens * 16
    assert flops(Transformer(), (16, 6, 6)) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, w: x.flatten(1) @ w, 64 * 5),
        (lambda x, w: torch.einsum("bchw,bcwv->bchv", x, x), 8 * 8 * 8),
        (lambda x, w: torch.addmm(torch.zeros(5), x.flatten(1), w), 64 * 5),
        (lambda x, w: torch.bmm(x[:, 0], x[:, 0]), 8 * 8 * 8),
        (lambda x, w: torch.baddbmm(torch.zeros(1, 8, 8), x[:, 0], x[:, 0]), 8 * 8 * 8),
        (lambda x, w: x[0, 0] @ w[:8, 0], 8 * 8),
        (lambda x, w: torch.ones(3, 8) @ x[:, 0], 3 * 8 * 8),
        (lambda x, w: functional.max_pool2d(x.relu() + 1, 2), 0),
    ],
)
def test_matrix_products_count_whatever_their_shapes(function, expected):
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(64, 5))

        def forward(self, x):
            return function(x, self.w)

    assert flops(Product(), SMALL) == expected


@pytest.mark.parametrize(
    ("model", "shape", "macs", "numbers"),
    [
        # macs, then numbers read and written: inputs + outputs + weights (+ biases)
        (nn.Conv2d(1, 4, 3), SMALL, 36 * 4 * 9, 64 + 36 * 4 + 36 + 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), (8, 5, 5), 200 * 9, 200 + 200 + 72),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), SMALL, 640, 64 + 10 + 640 + 10),
        (nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU()), SMALL, 128, 64 + 128 + 2 + 2),
    ],
)
def test_compute_intensity_is_multiply_adds_per_byte_of_what_they_read_and_write(model, shape, macs, numbers):
    assert compute_intensity(model, shape) == macs / (4 * numbers)
    assert flops(model, shape) == macs


def test_compute_intensity_counts_every_operand_of_products_and_attention():
    class Products(nn.Module):
        def forward(self, x):
            return torch.einsum("bchw,bcwv->bchv", x, x) + x @ x

    assert compute_intensity(Products(), SMALL) == 2 * 8 * 8 * 8 / (4 * 2 * 3 * 64)
    tokens, width = 6 * 6, 16
    products = 2 * tokens * tokens * width
    moved = 4 * (tokens * 16 + tokens * 48 + 16 * 48 + 48 + 4 * tokens * width)
    assert compute_intensity(Attention(False), (16, 6, 6)) == (tokens * 16 * 48 + products) / moved


def test_a_network_without_multiply_adds_has_no_intensity():
    assert compute_intensity(nn.Flatten(), SMALL) == 0


def test_depthwise_convolutions_are_less_intense_than_full_ones():
    depthwise, full = (nn.Conv2d(32, 32, 3, padding=1, groups=groups) for groups in (32, 1))
    assert compute_intensity(depthwise, (32, 16, 16)) < compute_intensity(full, (32, 16, 16)) / 10


def test_size_is_that_of_32_bit_floats_whatever_the_network_is_in():
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4))
    assert params(model) == 36 + 8
    assert size_kb(model) == (36 + 8 + 8) * 4 / 1024
    assert size_kb(model.half()) == (36 + 8 + 8) * 4 / 1024


def test_shared_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert (params(model), size_kb(model)) == (16, 64 / 1024)


KB = 8 * 8 * 4 / 1024  # one map of 8x8 floats


def activations_kb(model, batch=1, shape=SMALL):
    return peak_memory_kb(model, shape, batch) - size_kb(model)


def test_a_chain_needs_the_two_neighbours_that_are_largest_together():
    model = nn.Sequential(*(nn.Conv2d(a, b, 1) for a, b in [(1, 4), (4, 6), (6, 2), (2, 3)]))
    assert activations_kb(model) == (4 + 6) * KB
    assert activations_kb(model, batch=3) == 3 * (4 + 6) * KB


def test_normalisation_and_activations_need_nothing_of_their_own():
    plain = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1))
    for activation in (nn.ReLU, nn.Hardswish, nn.SiLU, nn.GELU, nn.Hardsigmoid):
        full = nn.Sequential(
            plain[0], nn.BatchNorm2d(4), activation(), plain[1], nn.BatchNorm2d(6), activation()
        )
        assert activations_kb(full) == activations_kb(plain) == 10 * KB


def test_what_a_shortcut_carries_stays_until_it_is_added():
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.widen, self.narrow = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = self.first(x)
            return x + self.narrow(self.widen(x).relu())

    assert activations_kb(Shortcut()) == (4 + 8 + 4) * KB


def test_views_are_not_copies_and_what_nobody_reads_is_not_kept():
    class Views(nn.Module):
        def forward(self, x):
            functional.max_pool2d(x, 2)
            return x.flatten(1).view(-1, 8, 8)

    assert activations_kb(Views()) == KB


def test_the_answer_and_the_question_count():
    assert activations_kb(nn.Conv2d(1, 9, 1)) == (1 + 9) * KB
    assert activations_kb(nn.Identity()) == KB


def test_most_live_by_hand():
    steps = [
        Operation({0: 10}, {1: 30}, False),  # 0 is read again at the end: 10 + 30
        Operation({1: 30}, {2: 30}, True),  # takes the place of 1
        Operation({2: 30}, {3: 20, 9: 1000}, False),  # 9 is never read; 10 + 30 + 20
        Operation({3: 20, 0: 10}, {4: 20}, True),
    ]
    assert most_live(steps, {0: 10}, {4}) == 60
    in_between = [*steps[:3], Operation({3: 20, 0: 10, 1: 30}, {4: 20}, True)]
    assert most_live(in_between, {0: 10}, {4}) == 10 + 30 + 30 + 20


def test_training_memory_grows_with_batch_and_optimizer():
    model = mobile.build(points(mobile.space(SMALL, 10), 1)[0], SMALL, 10)
    mb = [training_memory_mb(model, SMALL, batch) for batch in (32, 64, 96)]
    assert mb[2] - mb[1] == pytest.approx(mb[1] - mb[0])
    weights = size_kb(model) / 1024
    assert mb[0] - training_memory_mb(model, SMALL, 32, averages=1) == pytest.approx(weights)
    assert training_memory_mb(model, SMALL, 0) == pytest.approx(4 * weights)


def test_training_memory_by_hand():
    """Kept of a convolution: what it reads; of a ReLU: what it gives; of the last layer: what it reads, again."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    kept = (1 + 4 + 2 * 4) * KB * 5
    assert training_memory_mb(model, SMALL, 5) == pytest.approx((4 * size_kb(model) + kept) / 1024)


MEASURE = """
import sys, psutil, torch
from torch.nn.functional import cross_entropy
sys.path.insert(0, sys.argv[1])
from test_counts import mobile, points, training_memory_mb
torch.set_num_threads(1)
shape, batch = (3, 32, 32), 256
model = mobile.build(points(mobile.space(shape, 10), 1)[0], shape, 10)
optimizer = torch.optim.AdamW(model.parameters())
def step(batch):
    optimizer.zero_grad()
    cross_entropy(model(torch.randn(batch, *shape)), torch.zeros(batch, dtype=torch.long)).backward()
    optimizer.step()
step(2)
before = psutil.Process().memory_info().rss
step(batch)
step(batch)
# Not getrusage's: that of a young process begins with what the one that started it held.
(peak,) = (int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(training_memory_mb(model, shape, batch), (peak - before) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's highest memory")
def test_training_memory_is_near_what_a_process_takes():
    folder = __file__.rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True)
    estimate, real = map(float, done.stdout.split())
    assert real / 2.5 < estimate < real * 2.5


def test_counting_changes_neither_network_nor_random_state():
    model = mobile.build(points(mobile.space(SMALL, 10), 1)[0], SMALL, 10)
    model.train()
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1)
    random = torch.get_rng_state()
    Counts(Digits()).of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())


def test_sparsity_is_the_share_of_weights_that_are_gone_or_zero():
    original = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 64, 5))
    narrow = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 64, 5))
    whole = 3 * 8 + 8 * 64 * 5
    assert sparsity(original, original) == 0.0
    gone = whole - (3 * 6 + 6 * 64 * 5)
    assert sparsity(narrow, original) == pytest.approx(gone / whole)
    with torch.no_grad():
        narrow[3].weight[:, :64] = 0
        narrow[0].bias.zero_()
    assert sparsity(narrow, original) == pytest.approx((gone + 64 * 5) / whole)
    assert sparsity(original, narrow) == 0.0
    assert sparsity(nn.Flatten(), nn.Flatten()) == 0.0


def test_sparsity_of_a_point_is_against_its_original():
    architecture = Digits()
    (point,) = points(mobile.space(SMALL, 10), 1)
    assert Counts(architecture)(point)["sparsity"] == 0.0
    wide = nn.Linear(1000, 1000, bias=False)
    found = Counts(architecture, original=lambda given: wide if given == point else nn.Flatten())(point)
    weights = sum(p.numel() for p in architecture.build(point).parameters() if p.ndim > 1)
    assert found["sparsity"] == pytest.approx(1 - weights / 1e6)
    assert Counts(architecture).of(nn.Conv2d(1, 10, 1), nn.Conv2d(1, 40, 1))["sparsity"] == 0.75


def test_counts_are_finite_and_named_with_their_units():
    counts = Counts(Digits())
    for point in points(mobile.space(SMALL, 10), 3):
        metrics = counts(point)
        assert set(metrics) == {
            "flops", "compute_intensity", "params", "size_kb", "peak_memory_kb", "training_memory_mb", "sparsity",
        }  # fmt: skip
        assert all(type(value) is float and 0 <= value < 1e9 for value in metrics.values())
        assert all(value > 0 for name, value in metrics.items() if name != "sparsity")
        assert metrics == counts.of(mobile.build(point, SMALL, 10))


def test_a_point_is_counted_once_and_its_metrics_are_the_callers():
    digits = Digits()
    counts = Counts(digits)
    point = points(mobile.space(SMALL, 10), 1)[0]
    first = dict(counts(point))
    counts(point).clear()
    assert counts(dict(reversed(point.items()))) == first
    assert digits.built == 1


def test_what_the_point_says_about_training_moves_training_memory_only():
    space = mobile.space(SMALL, 10) * training.space()
    counts, point = Counts(Digits()), points(space, 1)[0]
    adamw, larger, sgd = (
        counts(point | {"train.batch_size": batch, "train.optimizer": optimizer})
        for batch, optimizer in ((32, "adamw"), (64, "adamw"), (32, "sgd"))
    )
    memory = "training_memory_mb"
    assert sgd[memory] < adamw[memory] < larger[memory]
    assert {**adamw, memory: 0} == {**larger, memory: 0} == {**sgd, memory: 0}
    assert Counts(Digits(), batch=8)(training.without(point))[memory] < adamw[memory]


def test_counting_a_small_network_takes_hundredths_of_a_second():
    counts, tried = Counts(Digits()), points(mobile.space(SMALL, 10), 6)
    counts(tried[0])  # the first one loads what counts
    start = time.process_time()
    for point in tried[1:]:
        counts(point)
    assert (time.process_time() - start) / 5 < 0.3

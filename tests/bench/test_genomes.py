"""Genomes of EvoXBench and the points that they mean."""

from __future__ import annotations

import numpy as np
import pytest

from nasflow.bench import BenchError
from nasflow.bench.genomes import ENCODINGS, WIDE, Genome, encoding
from nasflow.space import Space
from nasflow.spaces import darts, nasbench101, nasbench201, nats

CIFAR = ((3, 32, 32), 10)
SPACES: dict[str, Space] = {
    "nasbench101": nasbench101.space(*CIFAR),
    "nasbench201": nasbench201.space(*CIFAR),
    "nats-size": nats.space(*CIFAR),
    "darts": darts.space(*CIFAR),
    "ofa-mobilenetv3": WIDE,
}


def written_once(space: str, genome: Genome) -> bool:
    """Whether a genome is the one that `encode` gives for what it means."""
    if space == "darts":
        return all(a < b for a, b in zip(genome[1::4], genome[3::4], strict=True))
    if space == "ofa-mobilenetv3":
        return not any(third == 0 < fourth for third, fourth in zip(genome[3::4], genome[4::4], strict=True))
    return True


@pytest.mark.parametrize("space", ENCODINGS)
def test_genomes_and_points_are_one_to_one(space: str) -> None:
    found, rng = encoding(space), np.random.default_rng(0)
    genomes: list[Genome] = []
    while len(genomes) < 1_000:
        genome = found.sample(rng)
        if space == "darts":  # eight pairs of inputs are rarely all in order
            for place in range(0, 32, 4):
                last = found.high[place + 1]
                inputs = sorted(rng.choice(last + 1, 2, replace=False).tolist())
                genome = (*genome[: place + 1], inputs[0], genome[place + 2], inputs[1], *genome[place + 4 :])
        if written_once(space, genome):
            genomes.append(genome)
    points = [found.decode(genome) for genome in genomes]
    assert [found.encode(point) for point in points] == genomes
    assert all(point in SPACES[space] for point in points)


@pytest.mark.parametrize("space", ENCODINGS)
def test_every_point_has_a_genome(space: str) -> None:
    of, found, rng = SPACES[space], encoding(space), np.random.default_rng(1)
    for _ in range(50):
        point = of.sample(rng)
        assert of.key(found.decode(found.encode(point))) == of.key(point)


def test_genomes_that_mean_the_same() -> None:
    one = (0, 0, 3, 1) * 8
    other = (3, 1, 0, 0) * 8
    assert encoding("darts").decode(one) == encoding("darts").decode(other)
    mobile = encoding("ofa-mobilenetv3")
    skipped, moved = (4, *(9, 5, 0, 2) * 5), (4, *(9, 5, 2, 0) * 5)
    assert mobile.decode(skipped) == mobile.decode(moved)
    assert mobile.encode(mobile.decode(skipped)) == moved


def test_a_genome_says_what_it_should() -> None:
    assert nasbench201.arch_string(encoding("nasbench201").decode([0, 1, 2, 3, 4, 0])) == (
        "|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|"
    )
    bits = [1] + [0] * 20
    bits[6 + 4] = 1  # vertex 1 to the output: the last of its five edges
    point = encoding("nasbench101").decode([*bits, 2, 0, 0, 0, 0])
    assert nasbench101.module(point) == nasbench101.Module(((0, 1), (1, 2)), ("maxpool3x3",))
    wide = encoding("ofa-mobilenetv3").decode([4, *(9, 4, 0, 0) * 5])
    assert (wide["width"], wide["resolution"], wide["stage5.depth"]) == (1.2, 1.0, 2)
    assert (wide["stage1.block1.expansion"], wide["stage1.block1.kernel"]) == (6, 7)
    assert (wide["stage1.block2.expansion"], wide["stage1.block2.kernel"]) == (4, 3)


def test_mistakes_are_explained() -> None:
    with pytest.raises(BenchError, match="5 whole numbers from"):
        encoding("nats-size").decode([0, 0, 0, 0, 8])
    with pytest.raises(BenchError, match="two different inputs, got 1 twice"):
        encoding("darts").decode((0, 1, 0, 1) * 8)
    with pytest.raises(BenchError, match="did you mean 'darts'"):
        encoding("dart")
    with pytest.raises(BenchError, match=r"width1 has no gene unless it is one of \[8, 16"):
        encoding("nats-size").encode({"width1": 9})

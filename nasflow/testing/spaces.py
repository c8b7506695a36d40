"""What every space promises, as tests; and, for spaces of networks, what their `build` promises."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasflow.record import open_record
from nasflow.space import Choice, Point, Real, Space
from nasflow.study import Objective, Proposal, Study
from nasflow.testing import elsewhere

SAMPLES = 50
LARGEST_DIFFERENCE = 1e-4  # between a logit of torch and one of the exported file


@dataclass(frozen=True)
class SpaceUnderTest:
    """A space and what gives its points their meaning: `build(point)`, which raises if a point has none.

    For networks `build` gives a `torch.nn.Module`; `shape` (channels, height, width) and `classes` are what it
    takes and gives. Keep them small: some hundred networks are built.
    """

    space: Space
    build: Callable[[Point], Any]
    shape: Sequence[int] = ()
    classes: int = 0

    def samples(self, count: int = SAMPLES, seed: int = 0) -> list[Point]:
        rng = np.random.default_rng(seed)
        return [self.space.sample(rng) for _ in range(count)]

    @property
    def corners(self) -> tuple[Point, Point]:
        """The point of all first options and lower bounds, and the one of all last options and upper bounds."""
        first = {p.name: p.options[0] if isinstance(p, Choice) else p.low for p in self.space.parameters}
        last = {p.name: p.options[-1] if isinstance(p, Choice) else p.high for p in self.space.parameters}
        return first, last

    def every_option(self) -> list[Point]:
        """Points among which each option of each choice appears, beside the last options of all others."""
        _, last = self.corners
        return [
            {**last, p.name: option}
            for p in self.space.parameters
            if isinstance(p, Choice)
            for option in p.options[:-1]
        ]


class SpaceContract:
    """Subclass it and override the fixture `under_test`."""

    @pytest.fixture
    def under_test(self) -> SpaceUnderTest:
        raise NotImplementedError("override this fixture: return a SpaceUnderTest")

    def test_samples_belong_and_are_repeatable(self, under_test: SpaceUnderTest) -> None:
        points = under_test.samples()
        for point in (*points, *under_test.corners, *under_test.every_option()):
            under_test.space.check(point)
            assert point in under_test.space
        assert points == under_test.samples()
        assert points != under_test.samples(seed=1)

    def test_sampling_reaches_every_option_and_both_halves_of_every_range(
        self, under_test: SpaceUnderTest
    ) -> None:
        points = under_test.samples(400)
        for p in under_test.space.parameters:
            values = [point[p.name] for point in points]
            if isinstance(p, Choice):
                assert set(values) == set(p.options), p.name
            else:
                assert {p.position(float(value or 0)) < 0.5 for value in values} == {True, False}, p.name

    def test_mutating_changes_exactly_one_choice_and_in_time_each(self, under_test: SpaceUnderTest) -> None:
        space, rng, changed = under_test.space, np.random.default_rng(0), set()
        free = {p.name for p in space.parameters if isinstance(p, Real) or len(p.options) > 1}
        for point in under_test.samples(20 * len(free)):
            before = copy.deepcopy(point)
            child = space.mutate(point, rng)
            assert point == before, "it changed the point it was given"
            assert child in space
            names = [name for name in point if child[name] != point[name]]
            assert len(names) == 1, f"{names} changed at once"
            p = space[names[0]]
            if isinstance(p, Choice) and p.ordered:
                assert abs(p.index(child[p.name]) - p.index(point[p.name])) == 1
            changed.add(names[0])
        assert changed == free

    def test_children_take_every_choice_from_a_parent(self, under_test: SpaceUnderTest) -> None:
        rng = np.random.default_rng(0)
        for a, b in zip(under_test.samples(), under_test.samples(seed=1), strict=True):
            child = under_test.space.crossover(a, b, rng)
            assert child in under_test.space
            assert all(child[name] in (a[name], b[name]) for name in child)

    def test_folding_keeps_to_the_space_and_folds_once(self, under_test: SpaceUnderTest) -> None:
        space = under_test.space
        for point in (*under_test.samples(), *under_test.corners):
            before = copy.deepcopy(point)
            canonical = space.canonical(point)
            assert point == before, "it changed the point it was given"
            assert canonical in space
            assert space.canonical(canonical) == canonical
            assert space.key(point) == space.key(canonical)

    def test_is_the_same_in_another_process(self, under_test: SpaceUnderTest) -> None:
        points = [*under_test.samples(), *under_test.corners]
        ended = elsewhere.call(
            functools.partial(_print_keys, under_test.space, json.dumps(points)), PYTHONHASHSEED="12345"
        )
        assert ended.returncode == 0, ended.stderr.decode()
        told = json.loads(ended.stdout)
        assert told["points"] == points, "JSON changed a point"
        assert told["keys"] == [under_test.space.key(point) for point in points]
        assert told["samples"] == under_test.samples()

    def test_points_come_back_from_a_record_as_they_went(
        self, under_test: SpaceUnderTest, tmp_path: Path
    ) -> None:
        points = [*under_test.samples(10), *under_test.corners]
        space, objectives = under_test.space, [Objective("error")]
        study = Study(space, objectives, open_record(tmp_path / "study.journal", "it", space, objectives))
        study.add([Proposal(point) for point in points], len(points))
        again = Study(space, objectives, open_record(tmp_path / "study.journal", "it", space, objectives))
        assert json.dumps([trial.point for trial in again.trials]) == json.dumps(points)

    def test_can_be_searched_together_with_another_space(self, under_test: SpaceUnderTest) -> None:
        both = under_test.space * Space((Choice("another", (0, 1)),))
        for point in under_test.samples(10):
            assert {**point, "another": 1} in both
            assert both.canonical({**point, "another": 1}) == {
                **under_test.space.canonical(point),
                "another": 1,
            }
            under_test.build({**point, "another": 1})

    def test_every_point_means_something(self, under_test: SpaceUnderTest) -> None:
        for point in (*under_test.samples(), *under_test.corners, *under_test.every_option()):
            before = copy.deepcopy(point)
            under_test.build(point)
            assert point == before, "building changed the point"


class NetworkSpaceContract(SpaceContract):
    """A space whose `build` gives networks: subclass it and override the fixture `under_test`."""

    @pytest.fixture(autouse=True)
    def one_thread_and_own_randomness(self) -> Iterator[None]:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        with torch.random.fork_rng():
            yield
        torch.set_num_threads(threads)

    def test_every_point_means_something(self, under_test: SpaceUnderTest) -> None:
        """That is: an ordinary module that gives finite logits, for training and for use."""
        import torch

        x = torch.randn(2, *under_test.shape, generator=torch.Generator().manual_seed(0))
        for point in (*under_test.samples(), *under_test.corners, *under_test.every_option()):
            before = copy.deepcopy(point)
            model = under_test.build(point)
            assert point == before, "building changed the point"
            assert isinstance(model, torch.nn.Module)
            with torch.no_grad():
                logits = model.eval()(x)
            assert logits.shape == (2, under_test.classes), point
            assert torch.isfinite(logits).all(), point

    def test_every_weight_of_a_network_gets_a_gradient(self, under_test: SpaceUnderTest) -> None:
        import torch

        x = torch.randn(4, *under_test.shape, generator=torch.Generator().manual_seed(0))
        for point in (*under_test.samples(5), *under_test.corners):
            model = under_test.build(point).train()
            model(x).square().sum().backward()
            idle = [name for name, weight in model.named_parameters() if weight.grad is None]
            assert not idle, f"nothing depends on {idle} in {point}"

    def test_points_that_mean_the_same_are_the_same_network(self, under_test: SpaceUnderTest) -> None:
        import torch

        x = torch.randn(2, *under_test.shape, generator=torch.Generator().manual_seed(0))

        def answer(point: Point) -> Any:
            torch.manual_seed(0)
            with torch.no_grad():
                return under_test.build(point).eval()(x)

        space = under_test.space
        folded = [point for point in under_test.samples(200) if space.canonical(point) != point][:10]
        for point in (*folded, *under_test.samples(3)):
            assert torch.equal(answer(point), answer(space.canonical(point))), point

    def test_exported_files_agree_with_torch(self, under_test: SpaceUnderTest, tmp_path: Path) -> None:
        from nasflow.export import parity, to_onnx

        x = np.random.default_rng(0).normal(size=(8, *under_test.shape)).astype(np.float32)
        for number, point in enumerate((*under_test.samples(2), *under_test.corners)):
            model = under_test.build(point)
            to_onnx(model, under_test.shape, tmp_path / f"{number}.onnx")
            parity(model, tmp_path / f"{number}.onnx", x).check(LARGEST_DIFFERENCE)


def _print_keys(space: Space, points: str) -> None:
    """What another process makes of points that came as JSON."""
    rng, read = np.random.default_rng(0), json.loads(points)
    told = {
        "points": read,
        "keys": [space.key(point) for point in read],
        "samples": [space.sample(rng) for _ in range(SAMPLES)],
    }
    print(json.dumps(told))

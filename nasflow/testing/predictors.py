"""What every predictor of latency promises, as tests, and small files to try one on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from nasflow.hardware.predictor import CannotPredict, Predictor
from nasflow.testing.devices import Simulated

KNOWN, NEW = range(40), range(40, 60)  # seeds of networks that a predictor is fitted on, and not


@dataclass(frozen=True)
class PredictorUnderTest:
    """`make(device, files)` builds a predictor of a simulated device that may learn from these files.

    `within` is the mean error that is allowed on other files of the kind, as a share. One that knows `everything`,
    such as a roofline, has an answer for operators that it was not built with.
    """

    make: Callable[[Simulated, Sequence[Path]], Predictor]
    within: float = 0.1
    everything: bool = False


class PredictorContract:
    """Subclass it and override the fixture `predictor`."""

    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> PredictorUnderTest:
        raise NotImplementedError("override this fixture: return a PredictorUnderTest")

    @pytest.fixture(scope="class")
    @classmethod
    def files(cls, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
        folder = tmp_path_factory.mktemp("networks")
        return [chain(folder / f"{seed}.onnx", seed) for seed in (*KNOWN, *NEW)]

    @pytest.fixture(scope="class")
    @classmethod
    def device(cls) -> Simulated:
        return Simulated()

    @pytest.fixture(scope="class")
    @classmethod
    def built(cls, predictor: PredictorUnderTest, device: Simulated, files: list[Path]) -> Predictor:
        return predictor.make(device, files[: len(KNOWN)])

    @pytest.fixture
    def new(self, files: list[Path]) -> list[Path]:
        return files[len(KNOWN) :]

    def test_files_that_it_was_not_shown_are_predicted(
        self, predictor: PredictorUnderTest, built: Predictor, device: Simulated, new: list[Path]
    ) -> None:
        off = [
            abs(one.p50_ms / device.true_ms(file) - 1)
            for file, one in zip(new, built.predict(new), strict=True)
        ]
        assert float(np.mean(off)) <= predictor.within

    def test_predictions_are_positive_and_finite_and_own_up_to_errors(
        self, built: Predictor, new: list[Path]
    ) -> None:
        for one in built.predict(new):
            assert 0 < one.p50_ms < math.inf
            assert 0 <= one.deviation_ms < math.inf
            assert all(ms >= 0 for _, ms in one.parts)

    def test_a_file_is_predicted_alike_alone_and_among_others(
        self, built: Predictor, new: list[Path]
    ) -> None:
        assert [built.predict([file])[0] for file in new] == built.predict(new)
        assert built.predict([]) == []

    def test_it_is_the_same_after_json(self, built: Predictor, new: list[Path]) -> None:
        back = type(built).from_json(json.loads(json.dumps(built.to_json(), allow_nan=False)))
        assert back.kind == built.kind
        assert back.predict(new) == built.predict(new)

    def test_it_is_the_same_after_json_when_refitted(self, built: Predictor, new: list[Path]) -> None:
        refitted = built.refitted(
            [(file, one.p50_ms * 1.3) for file, one in zip(new, built.predict(new), strict=True)]
        )
        back = type(built).from_json(json.loads(json.dumps(refitted.to_json(), allow_nan=False)))
        assert back.predict(new) == refitted.predict(new)

    def test_refitting_moves_it_towards_what_was_measured(self, built: Predictor, new: list[Path]) -> None:
        before = built.predict(new)
        for factor in (0.5, 2.0):
            measured = [(file, factor * one.p50_ms) for file, one in zip(new, before, strict=True)]
            after = built.refitted(measured[:10]).predict(new[10:])
            ratios = [now.p50_ms / then.p50_ms for now, then in zip(after, before[10:], strict=True)]
            assert abs(math.log(float(np.median(ratios)) / factor)) < 0.2

    def test_refitting_on_nothing_changes_nothing(self, built: Predictor, new: list[Path]) -> None:
        assert built.refitted([]).predict(new) == built.predict(new)

    def test_refitting_leaves_the_one_it_came_from_as_it_was(self, built: Predictor, new: list[Path]) -> None:
        before = built.predict(new)
        built.refitted([(file, 100.0) for file in new])
        assert built.predict(new) == before

    def test_what_it_does_not_know_is_named_and_never_free(
        self, predictor: PredictorUnderTest, built: Predictor, tmp_path: Path
    ) -> None:
        odd = chain(tmp_path / "odd.onnx", 0, activation="Softplus")
        if predictor.everything:
            assert built.predict([odd])[0].p50_ms > 0
        else:
            with pytest.raises(CannotPredict, match="Softplus"):
                built.predict([odd])

    def test_what_is_no_network_cannot_be_predicted(self, built: Predictor, tmp_path: Path) -> None:
        file = tmp_path / "broken.onnx"
        file.write_bytes(b"no network")
        with pytest.raises(CannotPredict, match=r"broken\.onnx"):
            built.predict([file])

    @pytest.mark.parametrize("value", [{}, {"format": 1}])
    def test_json_of_something_else_is_refused(self, built: Predictor, value: dict[str, object]) -> None:
        with pytest.raises((ValueError, KeyError, TypeError)):
            type(built).from_json(value)


def chain(file: Path, seed: int, activation: str = "Relu") -> Path:
    """Write a random chain of convolutions, each with an activation, that ends in a linear layer; some kilobytes."""
    draw = np.random.default_rng(seed)
    side, channels = int(draw.choice((8, 16, 32))), int(draw.choice((8, 16, 32)))
    images: list[str | int | None] = ["batch", channels, side, side]
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []

    def weight(*shape: int) -> str:
        values = np.full(math.prod(shape), 0.01, dtype=np.float32)
        weights.append(
            helper.make_tensor(f"w{len(weights)}", TensorProto.FLOAT, shape, values.tobytes(), raw=True)
        )
        return str(weights[-1].name)

    last = "input"
    for number in range(int(draw.integers(2, 7))):
        out, kernel, depthwise = (
            int(draw.choice((8, 16, 32))),
            int(draw.choice((1, 3, 5))),
            bool(draw.integers(2)),
        )
        out, groups = (channels, channels) if depthwise else (out, 1)
        inputs = [last, weight(out, channels // groups, kernel, kernel)]
        last = f"positive{number}"
        nodes += [
            helper.make_node("Conv", inputs, [f"map{number}"], group=groups, pads=[kernel // 2] * 4),
            helper.make_node(activation, [f"map{number}"], [last]),
        ]
        channels = out
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
        helper.make_node("Gemm", ["vector", weight(channels, 10)], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, images)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(model.SerializeToString())
    return file

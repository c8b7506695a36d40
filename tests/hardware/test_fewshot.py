import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nasflow.hardware.fewshot import Affine, Known, Posterior, Transfer, choose, encoded, transfer
from nasflow.hardware.predictor import CannotPredict

SIZES = np.arange(1.0, 31.0)
ENCODINGS = np.stack([SIZES, SIZES % 3], axis=1)
OTHERS = np.stack([2 * SIZES + 1, SIZES + 4 * (SIZES % 3) + 2])
NEW = 3 * SIZES + 2 * (SIZES % 3) + 5
MEASURED = {n: float(NEW[n]) for n in (0, 4, 11, 18, 29)}


def network(file, channels, activation="Relu"):
    """A convolution to so many channels, and an activation."""
    weights = np.zeros((channels, 3, 3, 3), dtype=np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
            helper.make_node(activation, ["c"], ["y"]),
        ],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, 8, 8])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), file)
    return file


@pytest.fixture
def files(tmp_path):
    return [network(tmp_path / f"{channels}.onnx", channels) for channels in (2, 4, 8, 12, 16, 24, 32, 48)]


def predictor(files):
    work = np.array([2.0, 4, 8, 12, 16, 24, 32, 48])
    return Transfer.of(files, [work + 1, 2 * work + 3], {0: 3.0, 3: 8.0, 7: 26.0})


def test_more_measurements_leave_less_error_and_less_doubt():
    few = transfer(ENCODINGS, OTHERS, {0: MEASURED[0], 29: MEASURED[29]}).predict(ENCODINGS)
    many = transfer(ENCODINGS, OTHERS, MEASURED).predict(ENCODINGS)
    assert np.abs(many[0] - NEW).mean() < np.abs(few[0] - NEW).mean()
    assert np.abs(many[0] - NEW).max() < 0.1 * NEW.max()
    known = Known.of(ENCODINGS, OTHERS)
    at = ENCODINGS[list(MEASURED)]
    alike = Posterior(known, at, np.array(list(MEASURED.values())))
    assert alike.predict(ENCODINGS)[1][4] < alike.predict(np.array([[60.0, 2.0]]))[1][0]


def test_many_architectures_are_predicted_as_one_by_one(monkeypatch):
    posterior = transfer(ENCODINGS, OTHERS, MEASURED)
    whole = posterior.predict(ENCODINGS)
    monkeypatch.setattr("nasflow.hardware.fewshot.ROWS", 7)
    assert np.allclose(posterior.predict(ENCODINGS), whole)


def test_another_unit_of_time_changes_nothing_but_the_unit():
    mean, deviation = transfer(ENCODINGS, OTHERS, MEASURED).predict(ENCODINGS)
    thousand = {number: 1000 * ms for number, ms in MEASURED.items()}
    of_thousand = transfer(ENCODINGS * [7, 1], 50 * OTHERS, thousand).predict(ENCODINGS * [7, 1])
    assert of_thousand[0] == pytest.approx(1000 * mean) and of_thousand[1] == pytest.approx(1000 * deviation)


def test_refitted_is_the_same_as_measured_together():
    first = {n: MEASURED[n] for n in (0, 4, 11)}
    later = transfer(ENCODINGS, OTHERS, first).refitted(ENCODINGS[[18, 29]], [MEASURED[18], MEASURED[29]])
    together = transfer(ENCODINGS, OTHERS, MEASURED)
    assert np.allclose(later.predict(ENCODINGS), together.predict(ENCODINGS))


def test_what_a_known_device_was_not_measured_on_is_foretold():
    others = OTHERS.copy()
    others[1, 10:20] = np.nan
    foretold = Known.of(ENCODINGS, others).predict(ENCODINGS)
    assert foretold[1, 10:20] == pytest.approx(OTHERS[1, 10:20], rel=0.1)


def test_a_column_that_is_the_same_for_all_counts_for_nothing():
    constant = np.hstack([ENCODINGS, np.full((30, 1), 0.1)])
    other = np.hstack([ENCODINGS, np.full((30, 1), 5.0)])
    with_it = transfer(constant, OTHERS, MEASURED).predict(other)
    assert np.allclose(with_it, transfer(ENCODINGS, OTHERS, MEASURED).predict(ENCODINGS))


def test_choices_are_different_architectures():
    assert len(set(choose(ENCODINGS, OTHERS, 30))) == 30


@pytest.mark.parametrize(
    ("encodings", "others", "measured", "says"),
    [
        ([1.0, 2.0], OTHERS, MEASURED, "a row for each"),
        (np.full((30, 2), np.nan), OTHERS, MEASURED, "NaN or infinity"),
        (np.ones((30, 2)), OTHERS, MEASURED, "the same for all"),
        (ENCODINGS, OTHERS[:, :5], MEASURED, "30 architectures"),
        (ENCODINGS, -OTHERS, MEASURED, "above 0"),
        (ENCODINGS, np.vstack([OTHERS[0], np.ones(30)]), MEASURED, "device 1 of others"),
        (ENCODINGS, np.vstack([OTHERS[0], np.full(30, np.nan)]), MEASURED, "device 1 of others"),
        (ENCODINGS, OTHERS, {}, "at least two architectures"),
        (ENCODINGS, OTHERS, {0: 3.0}, "at least two architectures"),
        (ENCODINGS, OTHERS, {0: 3.0, 1: 3.0}, "at least two architectures"),
        (ENCODINGS, OTHERS, {0: 3.0, 1: float("nan")}, "a time above 0"),
        (ENCODINGS, OTHERS, {0: 3.0, 30: 4.0}, r"0 to 29, in measured, got \[30\]"),
    ],
)
def test_what_cannot_be_used_is_an_error(encodings, others, measured, says):
    with pytest.raises(ValueError, match=says):
        transfer(encodings, others, measured)


def test_asking_about_other_encodings_or_too_many_is_an_error():
    with pytest.raises(ValueError, match="rows of 2 numbers, got 3"):
        transfer(ENCODINGS, OTHERS, MEASURED).predict(np.ones((4, 3)))
    with pytest.raises(ValueError, match="1 to 30 of 30"):
        choose(ENCODINGS, OTHERS, 31)


def test_a_proxy_that_runs_the_other_way_is_an_error():
    with pytest.raises(ValueError, match="another device as the proxy"):
        Affine.of([1, 2, 3], [3, 2, 1])
    with pytest.raises(ValueError, match="different times on the proxy"):
        Affine.of([1, 1], [3, 2])
    with pytest.raises(ValueError, match="as many times"):
        Affine.of([1, 2], [3])


def test_an_encoding_of_a_file_counts_its_operators_and_their_work(files):
    columns, rows = encoded(files[:2])
    first = dict(zip(columns, rows[0], strict=True))
    assert first == {
        "Conv.count": 1, "Conv.macs": 2 * 27 * 64, "Conv.bytes": 4 * 64 * (3 + 2), "Conv.weights": 4 * 2 * 27,
        "Relu.count": 1, "Relu.macs": 0, "Relu.bytes": 4 * 64 * 4, "Relu.weights": 0,
    }  # fmt: skip


def test_files_are_predicted_and_refitted(files):
    before = predictor(files)
    assert before.kind == "transfer"
    guesses = before.predict(files)
    assert [round(one.p50_ms) for one in guesses] == pytest.approx([3, 4, 6, 8, 10, 14, 18, 26], abs=1)
    assert all(one.deviation_ms > 0 and one.parts == () for one in guesses)
    after = before.refitted([(files[5], 16.0)])
    assert abs(after.predict(files[5:6])[0].p50_ms - 16) < abs(guesses[5].p50_ms - 16)
    assert before.refitted([]) is before and before.predict([]) == []


def test_no_file_is_predicted_to_take_less_than_half_of_the_shortest_time_measured(files, tmp_path):
    work = np.array([2.0, 4, 8, 12, 16, 24, 32, 48])
    steep = Transfer.of(files[3:], [work[3:]], {0: 0.1, 4: 90.0})
    assert steep.predict(files[:1])[0].p50_ms == pytest.approx(0.05)


def test_a_file_with_an_operator_that_was_never_measured_is_not_guessed(files, tmp_path):
    with pytest.raises(CannotPredict, match="no file with an operator Tanh"):
        predictor(files).predict([network(tmp_path / "tanh.onnx", 4, "Tanh")])
    with pytest.raises(CannotPredict, match="no file"):
        predictor(files).predict([tmp_path / "nothing.onnx"])


def test_a_predictor_is_the_same_after_it_was_written_and_read(files):
    one = predictor(files).refitted([(files[5], 16.0)])
    again = Transfer.from_json(json.loads(json.dumps(one.to_json())))
    assert again.predict(files) == one.predict(files)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ms", [1.0]), ("mean_ms", []), ("spread_ms", [0.0, 1.0]), ("seen", [[1.0]]), ("coefficients", [[1.0]])],
)
def test_a_file_that_is_no_predictor_is_an_error(files, name, value):
    with pytest.raises(ValueError, match="expected"):
        Transfer.from_json(predictor(files).to_json() | {name: value})

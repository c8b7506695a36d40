"""Devices reached by the system's ssh, tried against real servers on the loopback."""

import dataclasses
import sys
import time

import pytest
from torch import nn

from nasflow.evaluators.latency import MeasuredLatency
from nasflow.hardware import connect
from nasflow.hardware.device import Lost, Measured, Profile, reference_network
from nasflow.hardware.transport import Refused, Ssh
from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study
from nasflow.testing import TransportContract, TransportUnderTest, loopback


@pytest.fixture(scope="module", params=loopback.servers())
def board(request, tmp_path_factory):
    """A server of each kind that is here."""
    why = loopback.servers()[request.param]
    if why:
        pytest.skip(why)
    with loopback.serving(request.param, tmp_path_factory.mktemp("ssh")) as server:
        yield server


class TestSsh(TransportContract):
    @pytest.fixture
    def under_test(self, board, tmp_path):
        folder = tmp_path / "device"
        folder.mkdir()
        return TransportUnderTest(Ssh(board.host, config=board.config, folder=str(folder)), folder, board.cut)


def reached(board, tmp_path, monkeypatch, budget_s=0.05, precision=0.05, **more):
    """The board as a measured device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reach = {"backend": "ssh", "host": board.host, "python": sys.executable}
    profile = Profile(name="pi", description="a test", reach=reach)
    way = Ssh(board.host, config=more.pop("config", board.config), folder=str(tmp_path))
    return Measured(profile, way, budget_s, precision, energy=False, pauses_s=(0.0,), **more)


def test_a_network_is_measured_over_ssh(board, tmp_path, monkeypatch):
    file = tmp_path / "network.onnx"
    file.write_bytes(reference_network())
    seen = []
    (one,) = reached(board, tmp_path, monkeypatch).latencies([file], watch=seen.append)
    assert 0 < one.ci[0] <= one.p50_ms and one.source == "measured" and len(one.loads) >= 3
    assert {progress.file for progress in seen} == {None, file}
    assert not list(tmp_path.glob("nasflow-job*"))


def test_a_wrong_host_key_is_refused_in_clear_words(board, tmp_path, monkeypatch):
    config, known = tmp_path / "config", tmp_path / "known_hosts"
    port, _, _ = board.known_hosts.read_text().partition(" ")
    for line, said in (
        ("", r"pi: .*its host key is not known: connect once by hand \(ssh board\)"),
        (f"{port} {(board.known_hosts.parent / 'user_key.pub').read_text()}", "not the one in known_hosts"),
    ):
        known.write_text(line)
        config.write_text(board.config.read_text().replace(str(board.known_hosts), str(known)))
        with pytest.raises(Refused, match=said):
            reached(board, tmp_path, monkeypatch, config=config).check()


def test_a_connection_that_breaks_every_time_is_given_up(board, tmp_path, monkeypatch):
    file = tmp_path / "network.onnx"
    file.write_bytes(reference_network())
    with pytest.raises(Lost, match=r"pi: does not answer, asked 2 times: the connection was cut"):
        patient = reached(
            board, tmp_path, monkeypatch, budget_s=10.0, precision=0.0
        )  # not done before it is cut
        patient.latencies([file], watch=lambda _: board.cut())
    deadline = time.monotonic() + 20
    while list(tmp_path.glob("nasflow-job*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.glob("nasflow-job*"))


def test_the_configuration_of_the_environment_is_used(board, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NASFLOW_SSH_CONFIG", str(board.config))
    reach = {"backend": "ssh", "host": board.host, "python": sys.executable}
    connect(Profile(name="pi", description="a test", reach=reach)).check()


class Tiny:
    """Points are the widths of a tiny network."""

    shape = (1, 4, 4)

    def build(self, point):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, point["width"]))


class Counted:
    """A transport that counts how often it is used."""

    def __init__(self, way):
        self.way, self.runs = way, 0

    def run(self, command, **given):
        self.runs += 1
        return self.way.run(command, **given)


class CutOnce:
    """A device whose connection is cut in the middle of the first batch, however often it is made again.

    `runs` are the connections that each batch took."""

    def __init__(self, patient, quick, cut):
        self.name, self.devices, self.cut, self.runs = quick.name, [patient, quick], cut, []

    def latencies(self, files):
        first = not self.runs
        self.runs.append(0)
        device = self.devices[0 if first else 1]
        before = device.transport.runs
        try:
            return device.latencies(files, watch=(lambda _: self.cut()) if first else None)
        finally:
            self.runs[-1] = device.transport.runs - before


def test_a_search_goes_on_when_the_board_was_cut_off_in_the_middle_of_a_batch(board, tmp_path, monkeypatch):
    way = Counted(Ssh(board.host, config=board.config, folder=str(tmp_path)))
    quick = dataclasses.replace(reached(board, tmp_path, monkeypatch), transport=way)
    patient = dataclasses.replace(quick, budget_s=10.0, precision=0.0)  # not done before it is cut
    device = CutOnce(patient, quick, board.cut)
    study = Study(
        Space((Choice("width", tuple(range(2, 12))),)), (Objective("error"), Objective("latency_ms@pi"))
    )
    evaluate = Evaluate(
        train=lambda trial: {"error": 1 / trial.point["width"]},
        measure=MeasuredLatency([device], Tiny(), tmp_path / "trials"),
    )
    outcome = run(study, random_search(study.space, study.objectives), evaluate, trials=6, batch=3)
    assert outcome.complete and [trial.state for trial in study.trials] == ["failed"] * 3 + ["done"] * 3
    for trial in study.trials[:3]:
        assert trial.error.startswith("Lost: pi: does not answer, asked 2 times: the connection was cut")
    assert all(trial.metrics["latency_ms@pi"] > 0 for trial in study.trials[3:])
    assert device.runs[0] == 2, "the batch was given up as a whole, not file by file"
    assert len(device.runs) == 2 and device.runs[1] <= 2, "the second time for what was noisy"

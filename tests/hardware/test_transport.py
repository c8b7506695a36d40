import os

import pytest

from nasflow.hardware.device import Measured, Profile
from nasflow.hardware.transport import Adb, Here
from nasflow.testing import TransportContract, TransportUnderTest

# What adb does: the new one tells streams and exit codes apart, the old one mixes and swallows them.
NEW_ADB = """#!/bin/sh
if [ "$1" = -s ]; then shift 2; fi
verb=$1
shift
case $verb in
    shell) exec sh -c "$*" ;;
    push) cp "$1" "$2" && echo "1 file pushed" ;;
esac
"""
OLD_ADB = NEW_ADB.replace('exec sh -c "$*" ;;', r"""sh -c "$*" 2>&1 | sed -u 's/$/\r/'; exit 0 ;;""")


@pytest.fixture
def device(tmp_path):
    """The folder of a device in which runs make theirs."""
    folder = tmp_path / "device"
    folder.mkdir()
    return folder


def attach(tmp_path, monkeypatch, program):
    """Put a stand-in for adb on the path."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "adb").write_text(program)
    (folder / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


class TestHere(TransportContract):
    @pytest.fixture
    def under_test(self, device):
        return TransportUnderTest(Here(str(device)), device)


class TestAdb(TransportContract):
    @pytest.fixture
    def under_test(self, device, tmp_path, monkeypatch):
        attach(tmp_path, monkeypatch, NEW_ADB)
        return TransportUnderTest(Adb(folder=str(device)), device)


class TestOldAdb(TransportContract):
    @pytest.fixture
    def under_test(self, device, tmp_path, monkeypatch):
        attach(tmp_path, monkeypatch, OLD_ADB)
        return TransportUnderTest(Adb("emulator-5554", folder=str(device)), device)


def test_a_phone_without_python_needs_only_its_benchmark_program(device, tmp_path, monkeypatch):
    attach(tmp_path, monkeypatch, NEW_ADB)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tool = tmp_path / "benchmark_model"
    tool.write_text("#!/bin/sh\necho 'count=5 avg=900'\necho 'count=20 first=1 avg=1500 std=3'\n")
    tool.chmod(0o755)
    model = tmp_path / "model.tflite"
    model.write_bytes(b"model")
    reach = {"backend": "adb", "runtime": "litert", "program": str(tool), "python": "/no/python"}
    profile = Profile(name="phone", description="a test", reach=reach)
    phone = Measured(profile, Adb(folder=str(device)), 0.05, 0.01, energy=False)
    assert phone.latency(model).p50_ms == 1.5
    assert list(device.iterdir()) == []

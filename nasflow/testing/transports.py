"""What every way to a device promises, as tests."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nasflow.hardware import transport as transports
from nasflow.hardware.transport import DeviceError, Refused, TimedOut, Transport, Unreachable
from nasflow.testing import elsewhere

SOON_S = 20.0  # however busy the machine


@dataclass(frozen=True)
class TransportUnderTest:
    """A transport to a device that is in truth this machine, so that what is left there can be seen.

    `folder` is the one in which it makes its fresh folders. `cut`, if there is such a thing, cuts the connection.
    """

    transport: Transport
    folder: Path
    cut: Callable[[], None] | None = None

    def run(self, *command: str, deadline_s: float = SOON_S, **given: object) -> str:
        return self.transport.run(command, **{"files": {}, "deadline_s": deadline_s, **given})  # type: ignore[arg-type]

    def shell(self, script: str, **given: object) -> str:
        return self.run("sh", "-c", script, **given)  # type: ignore[arg-type]

    @property
    def left(self) -> list[str]:
        """What is in the folder, once it is empty or had time to become so."""
        _until(lambda: not os.listdir(self.folder))
        return os.listdir(self.folder)


class TransportContract:
    """Subclass it and override the fixture `under_test`."""

    @pytest.fixture
    def under_test(self) -> TransportUnderTest:
        raise NotImplementedError("override this fixture: return a TransportUnderTest")

    def test_a_command_finds_its_files_in_a_fresh_folder_that_is_gone_afterwards(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        large = bytes(range(256)) * 8000
        (tmp_path / "sent.bin").write_bytes(large)
        files = {"one": b"1\n", "deep/er/two": tmp_path / "sent.bin", "ä b'c": b"3"}
        told = under_test.shell(
            "pwd; find . | sort; cat one; cmp deep/er/two " + str(tmp_path / "sent.bin"), files=files
        )
        where, *rest = told.splitlines()
        assert rest == [".", "./deep", "./deep/er", "./deep/er/two", "./one", "./ä b'c", "1"]
        assert Path(where).is_relative_to(under_test.folder.resolve()) and not Path(where).exists()
        assert under_test.left == []
        assert (tmp_path / "sent.bin").read_bytes() == large, "the file itself is still there"

    def test_a_program_that_is_sent_can_be_run(self, under_test: TransportUnderTest) -> None:
        assert (
            under_test.run("./program", "a b", files={"program": b'#!/bin/sh\necho "got $1"\n'})
            == "got a b\n"
        )

    @pytest.mark.parametrize("text", ["", "one", "one\n\ntwo", "ünï\n", "$(id) `id` 'a' \"b\" \\n !!\n"])
    def test_what_goes_in_comes_out(self, under_test: TransportUnderTest, text: str) -> None:
        assert under_test.run("cat", stdin=text.encode()) == text
        assert under_test.run("printf", "%s", text) == text

    def test_much_on_both_streams_is_no_trouble(self, under_test: TransportUnderTest) -> None:
        lines: list[str] = []
        script = "i=0; while [ $i -lt 3000 ]; do echo out$i; echo err$i >&2; i=$((i+1)); done"
        out = under_test.shell(script, watch=lines.append).splitlines()
        assert out == [f"out{i}" for i in range(3000)] and lines == [f"err{i}" for i in range(3000)]

    def test_lines_of_stderr_are_seen_while_the_command_runs(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        heard: list[str] = []

        def watch(line: str) -> None:
            heard.append(line)
            (tmp_path / "heard").touch()

        script = (
            f"echo begun >&2; until [ -e {tmp_path}/heard ]; do sleep 0.05; done; echo done >&2; echo out"
        )
        assert under_test.shell(script, watch=watch) == "out\n"
        assert heard == ["begun", "done"]

    def test_a_watcher_that_raises_ends_the_command(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        def watch(line: str) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            under_test.shell(f"echo $$ >{tmp_path}/pid; echo x >&2; exec sleep 60", watch=watch)
        assert _gone(tmp_path / "pid")
        assert under_test.left == []

    def test_a_failure_is_told_with_its_code_and_last_words(self, under_test: TransportUnderTest) -> None:
        with pytest.raises(DeviceError, match=r"^sh ended with exit code 3: out of luck$"):
            under_test.shell("echo first >&2; echo 'out of luck' >&2; echo >&2; exit 3")
        with pytest.raises(DeviceError, match=r"^sh ended with exit code 255: it said nothing$"):
            under_test.shell("echo to the wrong stream; exit 255")
        with pytest.raises(DeviceError, match=r"^sh was ended by signal 9"):
            under_test.shell("kill -9 $$")
        assert under_test.left == []

    def test_what_a_command_prints_is_never_taken_for_the_transports_own_words(
        self, under_test: TransportUnderTest
    ) -> None:
        assert under_test.shell("echo left 0; echo answer >&2; echo left 0 >&2; echo x") == "left 0\nx\n"

    def test_a_program_that_is_not_there_is_said_and_not_asked_for_again(
        self, under_test: TransportUnderTest
    ) -> None:
        with pytest.raises(Refused, match="it has no program /no/such/python"):
            under_test.run("/no/such/python", "x")
        assert under_test.left == []

    def test_a_deadline_ends_the_command_and_what_it_started(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        script = f"echo $$ >{tmp_path}/one; sleep 60 & echo $! >{tmp_path}/two; wait"
        with pytest.raises(TimedOut, match="no answer within 1 s"):
            under_test.shell(script, deadline_s=0.6)
        assert _gone(tmp_path / "one") and _gone(tmp_path / "two")
        assert under_test.left == []

    def test_a_command_leaves_nothing_running(self, under_test: TransportUnderTest, tmp_path: Path) -> None:
        assert under_test.shell(f"sleep 60 >/dev/null 2>&1 & echo $! >{tmp_path}/pid; echo out") == "out\n"
        assert _gone(tmp_path / "pid")

    def test_a_killed_caller_leaves_nothing_behind(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        ended = elsewhere.call(functools.partial(_die, under_test.transport, tmp_path / "pid"))
        assert ended.returncode == -9, ended.stderr.decode()
        assert _gone(tmp_path / "pid")
        assert under_test.left == []

    def test_a_cut_connection_is_said_and_leaves_nothing_behind(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        cut = under_test.cut
        if cut is None:
            pytest.skip("nothing to cut")
        with pytest.raises(Unreachable, match="connection was cut while running the command") as caught:
            under_test.shell(f"echo $$ >{tmp_path}/pid; echo x >&2; exec sleep 60", watch=lambda _: cut())
        assert not isinstance(caught.value, Refused), "to try again may help"
        assert _gone(tmp_path / "pid")
        assert under_test.left == []

    def test_what_a_killed_script_left_is_removed_by_the_next(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        with pytest.raises((Unreachable, DeviceError)):
            under_test.shell("kill -9 $PPID", files={"model": b"large"}, deadline_s=1.0)
        _until(lambda: bool(os.listdir(under_test.folder)))
        others = under_test.folder / "nasflow-job.mine"
        others.mkdir()
        assert under_test.run("true") == ""
        assert os.listdir(under_test.folder) == [others.name], "only what is certainly ours and dead"

    def test_files_that_change_on_the_way_are_not_run(
        self, under_test: TransportUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(transports, "sha256", lambda path: "0" * 64)
        (tmp_path / "program").write_text("#!/bin/sh\necho ran\n")
        with pytest.raises(
            DeviceError, match="could not take the files: the files did not arrive as they were sent"
        ):
            under_test.run("sh", "program", files={"program": tmp_path / "program"})
        assert under_test.left == []

    def test_a_full_disk_is_said(self, under_test: TransportUnderTest, tmp_path: Path) -> None:
        with pytest.raises(DeviceError, match=r"ended with exit code 1: cat: .*No space left on device"):
            under_test.shell("cat /proc/self/stat >/dev/full")
        assert under_test.left == []

    def test_files_that_do_not_fit_on_its_disk_are_said(self, under_test: TransportUnderTest) -> None:
        with _small_disk(under_test.folder):
            with pytest.raises(DeviceError, match="No space left on device"):
                under_test.run("true", files={"large": bytes(1_000_000)})
            assert under_test.left == []
            assert under_test.run("cat", "small", files={"small": b"fits"}) == "fits"

    def test_a_folder_that_cannot_be_written_is_said(self, under_test: TransportUnderTest) -> None:
        under_test.folder.rmdir()
        with pytest.raises(DeviceError, match=r"could not take the files: no folder .* to write in"):
            under_test.run("true")

    def test_one_after_the_other_whoever_asks(self, under_test: TransportUnderTest, tmp_path: Path) -> None:
        errors: list[Exception] = []
        alone = f"mkdir {tmp_path}/busy && sleep 0.2 && rmdir {tmp_path}/busy"

        def ask() -> None:
            try:
                under_test.shell(alone)
            except Exception as error:  # told in the test's own thread
                errors.append(error)

        callers = [threading.Thread(target=ask) for _ in range(3)]
        for one in callers:
            one.start()
        for one in callers:
            one.join()
        assert errors == []

    @pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "a\nb"])
    def test_files_stay_inside_the_folder(self, under_test: TransportUnderTest, name: str) -> None:
        with pytest.raises(ValueError, match="expected the name of a file inside a folder"):
            under_test.run("true", files={name: b""})

    def test_a_file_that_cannot_be_read_is_named(
        self, under_test: TransportUnderTest, tmp_path: Path
    ) -> None:
        with pytest.raises(DeviceError, match=r"cannot send .*missing\.onnx: No such file"):
            under_test.run("true", files={"a": tmp_path / "missing.onnx"})


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A disk of 256 kB in the place of a folder; skips the test where this user may not mount one."""
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {getattr(error, 'stderr', '') or error}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _die(transport: Transport, pid: Path) -> None:
    """Be killed while the command runs."""
    command = ["sh", "-c", f"echo $$ >{pid}; echo x >&2; exec sleep 60"]
    transport.run(command, files={}, deadline_s=60, watch=lambda _: os.kill(os.getpid(), 9))


def _gone(pid: Path) -> bool:
    """Whether the process whose number is in a file ends soon."""
    number = int(pid.read_text())

    def ended() -> bool:
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    return _until(ended)


def _until(holds: Callable[[], bool]) -> bool:
    """Whether something comes to hold soon."""
    end = time.monotonic() + SOON_S
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()

import pytest

from nasflow.hardware.board.machine import Machine
from nasflow.hardware.board.network import CannotRun


def test_its_files_are_read_alike_here_and_elsewhere(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/number").write_text(" 42\n")
    (tmp_path / "folder/text").write_text("hello\n")
    for machine, folder in (
        (Machine(str(tmp_path)), "/folder"),
        (Machine(shell=("env",)), f"{tmp_path}/folder"),
    ):
        assert machine.read(f"{folder}/text") == "hello" and machine.read(f"{folder}/none") == ""
        assert machine.number(f"{folder}/number") == 42 and machine.number(f"{folder}/text") is None
        assert machine.names(folder) == ["number", "text"] and machine.names(f"{folder}/none") == []


def test_commands_run_behind_its_shell():
    assert Machine(shell=("echo", "there")).run(["ls", "-l"]) == "there ls -l\n"


def test_a_command_that_fails_or_is_not_there_is_an_error():
    with pytest.raises(CannotRun, match="sh ended with exit code 3: no licence"):
        Machine().run(["sh", "-c", "echo talk; echo no licence >&2; exit 3"])
    with pytest.raises(
        CannotRun, match=r"cannot start nothing-like-it: .*say where it is: `program` in the profile"
    ):
        Machine().run(["nothing-like-it"])

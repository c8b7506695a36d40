"""The machine that is measured, as the files and commands it has: this one, or a phone behind `adb shell`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .network import CannotRun


@dataclass(frozen=True)
class Machine:
    """`root` is where its files begin. `shell` is put before every command to run it elsewhere, for a device that
    has no Python of its own, such as ("adb", "-s", "0123", "shell")."""

    root: str = "/"
    shell: tuple[str, ...] = ()

    def read(self, path: str) -> str:
        """A file's text without white space around it; "" where there is none, or this user may not read it."""
        if self.shell:
            told = subprocess.run([*self.shell, "cat", path], capture_output=True)
            return told.stdout.decode(errors="replace").strip() if told.returncode == 0 else ""
        try:
            with open(self._path(path), encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """The whole number that a file holds; None where it holds none."""
        try:
            return int(self.read(path))
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """What is in a folder, in order; nothing where there is none."""
        if self.shell:
            told = subprocess.run([*self.shell, "ls", "-1", path], capture_output=True)
            return sorted(told.stdout.decode().split()) if told.returncode == 0 else []
        try:
            return sorted(os.listdir(self._path(path)))
        except OSError:
            return []

    def run(self, command: Sequence[str]) -> str:
        """What a command says on stdout and stderr. Raises CannotRun if it fails, or is not there."""
        try:
            done = subprocess.run(
                [*self.shell, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise CannotRun(
                f"cannot start {command[0]}: {error.strerror}; say where it is: `program` in the profile"
            ) from error
        text = done.stdout.decode(errors="replace")
        if done.returncode != 0:
            last = (text.strip().splitlines() or ["it said nothing"])[-1]
            raise CannotRun(f"{command[0]} ended with exit code {done.returncode}: {last}")
        return text

    def _path(self, path: str) -> str:
        return os.path.join(self.root, path.lstrip("/"))


THIS = Machine()

"""What `nasflow up` started, noted so that `nasflow down` ends all of it and nothing else, however `up` ended.

Every process gets a token into its environment, which those that it starts inherit: by that it is known again, also
where a process number has been given to another process since. The note lies in Prefect's home.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from prefect.settings import PREFECT_HOME

from nasflow.files import locked, read_json, write_json

TOKEN = "NASFLOW_UP"  # the environment variable that marks what was started
WORKER = "worker"
PATIENCE_S = 20.0  # until what was asked to end is ended


@dataclass(frozen=True)
class Part:
    """A process that was started, and when, in seconds since 1970."""

    name: str
    pid: int
    since: float


@dataclass(frozen=True)
class Started:
    """Servers and a worker that belong together. `pages` are addresses for a browser, by name; MLflow's shows the
    runs in `store`."""

    token: str
    folder: str
    store: str = ""
    api: str = ""
    pages: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    def alive(self) -> list[Part]:
        """The parts that still run."""
        return [part for part in self.parts if _bears(part.pid, self.token)]

    def gone(self) -> list[Part]:
        alive = self.alive()
        return [part for part in self.parts if part not in alive]


def place() -> Path:
    """The folder of the note and of what the processes say."""
    return Path(PREFECT_HOME.value()) / "nasflow-up"


def starting() -> AbstractContextManager[None]:
    """Held by whoever starts or ends; a second one waits."""
    return locked(place() / "lock", wait=True)


def note(started: Started) -> None:
    write_json(_file(), dataclasses.asdict(started))


def noted() -> Started | None:
    """What was started last and not ended since, whether or not it still runs."""
    if not _file().exists():
        return None
    said = read_json(_file())
    return Started(**{**said, "parts": tuple(Part(**part) for part in said["parts"])})


def running() -> Started | None:
    """What was started, if all of it runs."""
    found = noted()
    return found if found is not None and found.parts and not found.gone() else None


def end(started: Started) -> int:
    """End everything that was started, and what that started in turn; how many processes it were.

    The worker goes first: it ends its runs in order, so that they can report their end. Nobody is killed before
    those who watch over him: a killed trial would be taken for a failed one.
    """
    note(dataclasses.replace(started, parts=()))  # whoever watches over the parts hears that this is meant
    family = _family(started.token)
    worker = [part.pid for part in started.parts if part.name == WORKER]
    _ask([one for one in family if one.pid in worker])
    known = {part.pid for part in started.parts}
    _ask([one for one in family if one.pid in known])
    while left := _family(started.token):  # what is started meanwhile bears the token too
        for one in left:
            try:
                one.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1)
    _file().unlink(missing_ok=True)
    return len(family)


def _ask(processes: Iterable[psutil.Process]) -> None:
    """Ask processes to end, and wait a little for it."""
    asked = []
    for one in processes:
        try:
            one.terminate()
        except psutil.NoSuchProcess:
            continue
        asked.append(one)
    psutil.wait_procs(asked, timeout=PATIENCE_S)


def _family(token: str) -> list[psutil.Process]:
    """All processes with the token, the oldest first: whoever was started by one of them comes after it."""
    found = [one for one in psutil.process_iter() if _bears(one.pid, token)]
    return sorted(found, key=_age)


def _age(process: psutil.Process) -> float:
    try:
        return process.create_time()
    except psutil.NoSuchProcess:
        return time.time()


def _bears(pid: int, token: str) -> bool:
    if pid == os.getpid():
        return False
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(TOKEN) == token
    except (psutil.Error, OSError):  # gone, or somebody else's
        return False


def _file() -> Path:
    return place() / "started.json"

"""Everything a person needs to schedule, watch and compare runs on this machine, started by one command.

A Prefect server with its page, unless one is set up or runs already; the flows offered to it; a worker that carries
them out in the current folder; MLflow's page on the runs there.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx
import psutil
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from flows import started
from flows.server import answers
from flows.started import TOKEN, WORKER, Part, Started
from nasflow import runs
from nasflow.errors import NasflowError

PATIENCE_S = 180.0  # until a server that was started answers
LOOPBACK = "127.0.0.1"
LEASES = (
    "prefect.server.concurrency.lease_storage.filesystem"  # who holds a device is known after a restart too
)
Say = Callable[[str], None]


class UpError(NasflowError):
    """Something that should be started cannot be, or runs already."""


def bring(
    *, host: str, port: int, mlflow_port: int, limit: int, detach: bool = False, say: Say = print
) -> None:
    """Start everything and, unless it is detached, stay until Ctrl-C, a signal or `down` ends it. Raises UpError."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    found = up(host=host, port=port, mlflow_port=mlflow_port, limit=limit, say=say)
    say("`nasflow down` ends all of it" if detach else "Ctrl-C ends all of it")
    if detach:
        return
    try:
        watch(found)
    finally:
        with started.starting():
            if started.noted() == found:
                started.end(found)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def up(
    *,
    host: str = LOOPBACK,
    port: int = 4200,
    mlflow_port: int = 5000,
    limit: int = 1,
    say: Say = print,
) -> Started:
    """Start what is needed and give it back once all of it answers; what was started goes on by itself.

    `host` is the address that the pages are served on, `limit` how many runs go on at once. Raises UpError.
    """
    with started.starting():
        _refuse_twice()
        found = Started(secrets.token_hex(16), str(Path.cwd()))
        try:
            return _start(found, host, port, mlflow_port, limit, say)
        except BaseException:
            started.end(started.noted() or found)
            raise


def down(say: Say = print) -> bool:
    """End what `up` started; whether there was anything."""
    found = started.noted()
    if found is None:
        return False
    count = started.end(found)  # without the lock: an `up` that hangs is ended too
    say(f"ended {', '.join(part.name for part in found.parts)}: {count} processes of {found.folder}")
    return True


def watch(found: Started, every_s: float = 1.0) -> None:
    """Wait until what was started ends. Raises UpError if a part ends by itself; `down` may end all of it."""
    while not (gone := found.gone()):
        time.sleep(every_s)
    with started.starting():
        if started.noted() == found:
            raise UpError(f"the {gone[0].name} ended by itself: {_last_words(gone[0].name)}")


def _refuse_twice() -> None:
    before = started.noted()
    if before is None:
        return
    if before.parts and not before.gone():
        pages = ", ".join(f"{name} at {url}" for name, url in before.pages.items())
        raise UpError(f"up already, for {before.folder}: {pages}. `nasflow down` ends it")
    if before.alive():
        raise UpError(
            f"of what was started for {before.folder}, {', '.join(part.name for part in before.gone())} ended and"
            f" {', '.join(part.name for part in before.alive())} did not: `nasflow down`, then `nasflow up`"
        )
    started.end(before)  # what is left of it, after a kill or a restart of the machine


def _start(found: Started, host: str, port: int, mlflow_port: int, limit: int, say: Say) -> Started:
    def add(name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        nonlocal found
        started.note(found)  # first, so that what is killed now is found again by its token
        since, pid = time.time(), _spawn(name, command, {**environ, TOKEN: found.token})
        found = replace(found, parts=(*found.parts, Part(name, pid, since)))
        started.note(found)

    seen = socket.gethostname() if not _is_loopback(host) else host
    api, theirs = _api(port)
    runs.RUNS.mkdir(exist_ok=True)
    store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs.RUNS.absolute() / 'mlflow.db'}"
    elsewhere = store.startswith("http")
    if not theirs:
        port = httpx.URL(api).port or port
        _check_free(host, port, "--port")
    if not elsewhere:
        _check_free(host, mlflow_port, "--mlflow-port")
    page = api.removesuffix("/api") if theirs else f"http://{seen}:{port}"
    mlflow = store if elsewhere else f"http://{seen}:{mlflow_port}"
    found = replace(found, store=store, api=api, pages={"Prefect": page, "MLflow": mlflow})
    environ = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "PREFECT_API_URL": api,
    }
    if not (theirs and elsewhere):
        say("starting what answers in up to a minute ...")
    if not theirs:
        serve = ["prefect", "server", "start", "--host", host, "--port", str(port)]
        add("Prefect server", serve, {**environ, **_serving(f"{page}/api")})
    if not elsewhere:
        add("MLflow page", _mlflow(host, mlflow_port, seen), {**environ, **_tracking(store)})
        _await(found, "MLflow page", f"http://{_near(host)}:{mlflow_port}/health")
    if not theirs:
        _await(found, "Prefect server", f"{api}/health")
    say(f"Prefect's page: {page}{' (which ran already)' if theirs else ''}")
    say(f"MLflow's page:  {mlflow}{' (MLFLOW_TRACKING_URI)' if elsewhere else ''}")
    with temporary_settings({PREFECT_API_URL: api}):
        from flows import serving

        serving.deploy(Path.cwd())
        name = f"nasflow-{socket.gethostname()}"
        work = ["prefect", "worker", "start", "--pool", serving.POOL, "--type", "process", "--name", name]
        add(WORKER, [*work, "--limit", str(limit)], environ)
        _await_worker(found, serving.POOL, name)
    say(f"A worker carries out {limit} run{'s' if limit > 1 else ''} at a time, in {found.folder}")
    return found


def _api(port: int) -> tuple[str, bool]:
    """The address of Prefect's server, and whether somebody else keeps it: the one that is set up, or that runs on
    the port. An address of this machine at which nothing answers is where one is started."""
    url = PREFECT_API_URL.value()
    if not url:
        here = f"http://{LOOPBACK}:{port}/api"
        return here, answers(f"{here}/health")
    if answers(f"{url}/health"):
        return url, True
    if not _is_loopback(httpx.URL(url).host):
        raise UpError(
            f"the Prefect server at {url} (PREFECT_API_URL) does not answer; start it, or unset that"
        )
    return url, False


def _serving(api: str) -> dict[str, str]:
    """How a server of ours serves: its page knows where it is, and who holds a device is kept in a file."""
    return {
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": os.environ.get(
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", LEASES
        ),
    }


def _tracking(store: str) -> dict[str, str]:
    """What MLflow's page shows. In the environment, since an address may hold a password."""
    return {
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_ARTIFACTS_DESTINATION": str(runs.RUNS.absolute() / "mlartifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight processes that judge chats
    }


def _mlflow(host: str, port: int, seen: str) -> list[str]:
    named = [] if seen == host else ["--allowed-hosts", f"{seen}:{port},{seen},localhost:*,{LOOPBACK}:*"]
    return ["mlflow", "server", "--host", host, "--port", str(port), "--workers", "1", *named]


def _spawn(name: str, command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Start a program that outlives this one; its process number. What it says goes into its log."""
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-P", "-m", *command],
        environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(_log(name)), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,  # Ctrl-C, and the end of the terminal, are for whoever started it
    )


def _log(name: str) -> Path:
    return started.place() / f"{name.replace(' ', '-').lower()}.log"


def _last_words(name: str) -> str:
    said = _log(name).read_text(errors="replace").strip().splitlines()
    return f"{said[-1] if said else 'it said nothing'} (all it said: {_log(name)})"


def _await(found: Started, name: str, url: str) -> None:
    _until(lambda: answers(url), found, name)


def _await_worker(found: Started, pool: str, name: str) -> None:
    from prefect.client.orchestration import get_client

    begun = datetime.fromtimestamp(found.parts[-1].since, UTC)

    def polls() -> bool:
        with get_client(sync_client=True) as client:
            workers = client.read_workers_for_work_pool(pool)
        return any(
            one.name == name and one.last_heartbeat_time is not None and one.last_heartbeat_time >= begun
            for one in workers
        )

    _until(polls, found, WORKER)


def _until(done: Callable[[], bool], found: Started, name: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        if any(part.name == name for part in found.gone()):
            raise UpError(f"the {name} did not start: {_last_words(name)}")
        if time.monotonic() > end:
            raise UpError(f"the {name} does not answer within {PATIENCE_S:g} s: {_last_words(name)}")
        time.sleep(0.25)


def _check_free(host: str, port: int, option: str) -> None:
    """Raise UpError if the port cannot be served on, saying who has it."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise UpError(
            f"port {port} of {host} cannot be served on: {error.strerror}{_user_of(port)}; choose another with {option}"
        ) from error


def _user_of(port: int) -> str:
    try:
        found = [one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port]
        return next((f", by {psutil.Process(pid).name()} (process {pid})" for pid in found if pid), "")
    except psutil.Error:  # other users' processes are not told on every system
        return ""


def _near(host: str) -> str:
    """Where a server that listens on `host` answers on this machine."""
    return LOOPBACK if host in ("0.0.0.0", "::") else host


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

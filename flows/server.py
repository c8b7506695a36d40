"""The Prefect server a run reports to: the one that is set up or up, else one of its own that ends when it ends.

Prefect can start such a temporary server itself, but leaves it running when the run is killed, and two runs
that start at once may both try to create its database. Started as a program (`python -m flows.server FD`),
this file is that server.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

import httpx

from flows import started
from nasflow.errors import NasflowError
from nasflow.files import locked

PATIENCE_S = 10.0  # for a server that is set up but does not answer
BARE = {"PREFECT_SERVER_UI_ENABLED": "false", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


class NoServer(NasflowError):
    """No Prefect server can be reached or started; a run goes on without one."""


class OwnServer:
    """A Prefect server on a free port of this machine. It ends with this process, however that ends."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, output: IO[bytes]) -> None:
        self.process = process
        self.url = url
        self.output = output

    @classmethod
    def start(cls, timeout_s: float, *, port: int = 0) -> OwnServer:
        """Start one and wait until it answers; raises NoServer. It has no page: it only keeps what runs tell it."""
        from prefect.settings import get_current_settings

        try:
            listening = socket.create_server(("127.0.0.1", port))
        except OSError as error:
            raise NoServer(f"port {port} of this machine cannot be served on: {error.strerror}") from error
        with listening:
            listening.set_inheritable(True)
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
            output = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "flows.server", str(listening.fileno())],
                env={
                    **os.environ,
                    **get_current_settings().to_environment_variables(exclude_unset=True),
                    **BARE,
                },
                stdin=subprocess.PIPE,  # never written to: its end tells the server that this process is gone
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listening.fileno()],
                start_new_session=True,  # Ctrl-C is for the run, which still has its end to report
            )
        server = cls(process, url, output)
        try:
            # The socket listens already: the answer comes as soon as the server is up, without polling.
            httpx.get(f"{server.url}/health", timeout=timeout_s).raise_for_status()
        except httpx.HTTPError as error:
            said = server.stop()
            raise NoServer(
                f"a Prefect server of this run's own did not start within {timeout_s:g} s ({error}){said}"
            ) from error
        atexit.register(server.stop)
        return server

    def stop(self) -> str:
        """End it, waiting a little for it to write what it still holds; returns the last of what it said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.output.closed:
            return ""
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").strip().splitlines()
        self.output.close()
        return f": {lines[-1]}" if lines else ""


# One for the life of this process, because Prefect still sends the last of its logs when the process exits.
_own: dict[str, OwnServer] = {}


@contextlib.contextmanager
def reachable() -> Iterator[str]:
    """Let the Prefect calls inside reach a server and give its address: the one that is set up, the one that
    `nasflow up` started, or one of this process' own. Raises NoServer if there is none."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_HOME,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    url: str | None = PREFECT_API_URL.value()
    if url and url not in {own.url for own in _own.values()}:
        _check(url)
        yield url
        return
    if (up := started.running()) is not None and answers(f"{up.api}/health"):
        with temporary_settings({PREFECT_API_URL: up.api}):
            yield up.api
        return
    home = PREFECT_HOME.value()
    key = str(home)
    known = _own.get(key)
    if known is None or known.process.poll() is not None:
        # One that died is started again where it was, so that what still waits to be sent to it gets there.
        port = httpx.URL(known.url).port or 0 if known else 0
        with locked(home / "nasflow-server.lock", wait=True):
            timeout_s = float(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
            _own[key] = OwnServer.start(timeout_s, port=port)
    # On this machine, what does not answer twice is gone: no need to ask for a minute.
    with temporary_settings({PREFECT_API_URL: _own[key].url, PREFECT_CLIENT_MAX_RETRIES: 2}):
        yield _own[key].url


def is_own() -> bool:
    """Whether Prefect is told to report to a server of this process' own."""
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value() in {own.url for own in _own.values()}


def _check(url: str) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True, httpx_settings={"timeout": PATIENCE_S}) as client:
        error = client.api_healthcheck()
    if error is not None:
        raise NoServer(
            f"the Prefect server at {url} (PREFECT_API_URL) does not answer: {error or type(error).__name__}"
        )


def answers(url: str) -> bool:
    """Whether a server says at this address that it is well."""
    try:
        return httpx.get(url, timeout=PATIENCE_S).is_success
    except httpx.HTTPError:
        return False


def _end_with_the_run() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve Prefect's API on the listening socket whose file descriptor is given."""
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    import uvicorn

    app = "prefect.server.api.server:create_app"
    server = uvicorn.Server(uvicorn.Config(app, factory=True, lifespan="on", log_level="error"))
    server.run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


if __name__ == "__main__":
    main()

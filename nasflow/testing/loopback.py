"""A device that only ssh reaches, which is in truth this machine: an ssh server on the loopback, for as long as needed.

The server is OpenSSH's own sshd where that is installed, or the one of the package asyncssh. Host and user keys
are made for the occasion and the network is not used. Needs the system's ssh and ssh-keygen.
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

START_S = 20.0
SHELF = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))


@dataclass(frozen=True)
class Loopback:
    """How to get there: `ssh -F config host`. `folder` is where commands find TMPDIR, `known_hosts` the file with
    the server's key; `cut` ends all connections at once."""

    host: str
    config: Path
    folder: Path
    known_hosts: Path
    cut: Callable[[], None]


def servers() -> dict[str, str]:
    """The servers there are, and why each cannot be used here: empty if it can."""
    missing = [name for name in ("ssh", "ssh-keygen") if shutil.which(name) is None]
    found = {}
    for kind, there in (
        ("openssh", sshd() is not None),
        ("asyncssh", importlib.util.find_spec("asyncssh") is not None),
    ):
        needs = missing + ([] if there else ["sshd" if kind == "openssh" else "the package asyncssh"])
        found[kind] = f"no {' and no '.join(needs)} here" if needs else ""
    return found


def sshd() -> str | None:
    return shutil.which("sshd", path=SHELF)


@contextlib.contextmanager
def serving(kind: str, place: Path) -> Iterator[Loopback]:
    """Run a server of a kind that `servers` names, with its files in `place`."""
    place.mkdir(exist_ok=True)
    folder = place / "device"
    folder.mkdir()
    for name in ("host_key", "user_key"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(place / name)], check=True
        )
    shutil.copy(place / "user_key.pub", place / "authorized_keys")
    with {"openssh": _openssh, "asyncssh": _asyncssh}[kind](place, folder) as (port, cut):
        known = place / "known_hosts"
        known.write_text(f"[127.0.0.1]:{port} {(place / 'host_key.pub').read_text()}")
        config = place / "config"
        config.write_text(
            f"Host board\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n"
            f' IdentityFile "{place}/user_key"\n IdentitiesOnly yes\n UserKnownHostsFile "{known}"\n'
            " GlobalKnownHostsFile none\n"
        )
        yield Loopback("board", config, folder, known, cut)


Served = tuple[int, Callable[[], None]]
"""The port, and how to cut all connections."""


@contextlib.contextmanager
def _openssh(place: Path, folder: Path) -> Iterator[Served]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    if os.geteuid() == 0 and Path("/run").is_dir():
        # Debian's sshd does not start without it, and only the system's service makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    settings = place / "sshd_config"
    settings.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {place}/host_key\n"
        f"AuthorizedKeysFile {place}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nSetEnv TMPDIR={folder}\n"
    )
    with (place / "sshd.log").open("wb") as log:
        server = subprocess.Popen(
            [str(sshd()), "-D", "-e", "-f", str(settings)], stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        end = time.monotonic() + START_S
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"sshd does not start: {(place / 'sshd.log').read_text().strip()}")
            time.sleep(0.02)

        def cut() -> None:
            for child in psutil.Process(server.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "sshd" in child.name():  # its sessions, not what they started
                        child.kill()

        yield port, cut
        cut()
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _asyncssh(place: Path, folder: Path) -> Iterator[Served]:
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "nasflow.testing.asyncssh_server", str(place)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)},
    )  # fmt: skip
    assert server.stdout is not None
    try:
        port = server.stdout.readline().strip()
        if not port:
            raise RuntimeError("the server of asyncssh does not start")
        yield int(port), lambda: server.send_signal(signal.SIGUSR1)
    finally:
        server.kill()
        server.communicate()

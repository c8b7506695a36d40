"""An ssh server without OpenSSH, for loopback.py: `python -m nasflow.testing.asyncssh_server FOLDER`.

The folder holds `host_key` and `authorized_keys`. Prints the port; SIGUSR1 cuts all connections.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import ClassVar

import asyncssh


class Server(asyncssh.SSHServer):
    connections: ClassVar[set[asyncssh.SSHServerConnection]] = set()

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.connections.add(conn)


async def carry_out(asked: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run the command as sshd does: by a shell, through pipes, with no signal when the connection is lost."""
    shell = await asyncio.create_subprocess_shell(asked.command or "", stdin=-1, stdout=-1, stderr=-1)
    assert shell.stdin and shell.stdout and shell.stderr

    async def feed() -> None:
        assert shell.stdin
        try:
            while content := await asked.stdin.read(1 << 16):
                shell.stdin.write(content)
                await shell.stdin.drain()
        except (OSError, asyncssh.Error):  # the connection or the command is gone
            pass
        shell.stdin.close()

    async def fetch(source: asyncio.StreamReader, sink: asyncssh.SSHWriter[bytes]) -> None:
        while content := await source.read(1 << 16):
            try:
                sink.write(content)
                await sink.drain()
            except (OSError, asyncssh.Error):
                return

    fed = asyncio.create_task(feed())
    await asyncio.gather(fetch(shell.stdout, asked.stdout), fetch(shell.stderr, asked.stderr))
    code = await shell.wait()
    fed.cancel()
    if not asked.is_closing():
        asked.exit(code)


async def main(folder: Path) -> None:
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Server, server_host_keys=[str(folder / "host_key")],
        authorized_client_keys=str(folder / "authorized_keys"), process_factory=carry_out, encoding=None,
    )  # fmt: skip

    def cut() -> None:
        while Server.connections:
            Server.connections.pop().abort()

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, cut)
    print(server.get_port(), flush=True)
    await server.wait_closed()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

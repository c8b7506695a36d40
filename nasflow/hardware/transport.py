"""Ways to run a command on a device: in a process here, through ssh, through adb. Nothing stays behind on it.

All three start the same few lines of shell on the device (SCRIPT), which take the files, check their hashes, run
the command and remove everything, also when the command fails, takes too long, or the connection is cut: the
script ends when its input does. Only how the shell is reached and how files get there differs. A device needs
sh, tar, head, mkdir, rm, cat, kill, sleep, sha256sum (or shasum); flock keeps two machines from using it at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import select
import shlex
import subprocess
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from nasflow.errors import NasflowError, Unavailable
from nasflow.files import sha256

CONNECT_S = 10  # to be answered by ssh at all
READY_S = 60.0  # until the script on the device speaks
SLOWEST = 100_000  # bytes a second that files travel at the least
GRACE_S = 5.0  # to clean up after an end that came from outside
ANDROID_FOLDER = "/data/local/tmp"  # the one that adb may write and run programs in


class DeviceError(NasflowError):
    """A device that was asked about a file and could not tell; others it may still tell about."""


class TimedOut(DeviceError):
    """A device that did not come to an end in time."""


class Unreachable(Unavailable):
    """A device that does not answer at all."""


class Refused(Unreachable):
    """A device that will not answer before somebody has changed something, however often it is asked."""


class Absent(Refused):
    """A device that answers, but does not have the program that was to be run."""


Watch = Callable[[str], None]


class Transport(Protocol):
    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, Path | bytes],
        stdin: bytes = b"",
        deadline_s: float,
        watch: Watch | None = None,
    ) -> str:
        """Run `command` in a fresh folder of the device that holds `files` (relative name -> content) and is
        removed afterwards, whatever happens; its stdout as text. `watch` gets each line of stderr as it comes.

        Nobody else uses the device meanwhile; this waits until it is free. `deadline_s` is for the command alone.
        Raises DeviceError with the last line of stderr if the command fails, TimedOut, Unreachable if the
        connection cannot be made or is cut, and Refused if it is no use to try again.
        """


@dataclass(frozen=True)
class Here:
    """This machine. Files are not copied, the command finds links to them. `folder` is where the fresh folder
    is made, TMPDIR or /tmp if not given."""

    folder: str | None = None

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, Path | bytes],
        stdin: bytes = b"",
        deadline_s: float,
        watch: Watch | None = None,
    ) -> str:
        with tempfile.TemporaryFile() as bundle:
            digest = _pack(files, stdin, bundle, links=True)
            job = _Job(command, self.folder or "", bundle, digest, deadline_s, watch)
            return job.converse(job.script(inline=True), _feed)


@dataclass(frozen=True)
class Ssh:
    """A device that the system's ssh reaches, in one connection a run.

    `host` is `user@board` or an alias of ~/.ssh/config, whose settings hold, as do keys and agent. The host's key
    has to be known; no password is ever asked for. `config` is read instead of ~/.ssh/config. The login shell
    on the device has to understand POSIX quotes, as all but csh do.
    """

    host: str
    port: int | None = None
    config: Path | None = None
    folder: str | None = None

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, Path | bytes],
        stdin: bytes = b"",
        deadline_s: float,
        watch: Watch | None = None,
    ) -> str:
        with tempfile.TemporaryFile() as bundle:
            digest = _pack(files, stdin, bundle)
            job = _Job(command, self.folder or "", bundle, digest, deadline_s, watch)
            there = "exec " + shlex.join(job.script(inline=True))
            return job.converse([*self.prefix, there], _feed, self._refusals())

    @property
    def prefix(self) -> list[str]:
        """What to put before a command, to run it there by hand."""
        return [
            "ssh", "-T", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
            "-o", f"ConnectTimeout={CONNECT_S}", "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
            *(("-F", str(self.config)) if self.config else ()),
            *(("-p", str(self.port)) if self.port else ()), "--", self.host,
        ]  # fmt: skip

    def _refusals(self) -> dict[str, str]:
        """What ssh says when trying again is no use, and what to do about it."""
        by_hand = f"ssh {f'-p {self.port} ' if self.port else ''}{self.host}"
        return {
            "IDENTIFICATION HAS CHANGED": "its host key is not the one in known_hosts: if the device was set up anew,"
            f" remove the old key with ssh-keygen -R and connect once by hand ({by_hand}); if it was not, this is"
            " another machine",
            "Host key verification failed": f"its host key is not known: connect once by hand ({by_hand}) and compare"
            " the fingerprint",
            "Permission denied (": f"no key opens it: copy one there (ssh-copy-id) or load it (ssh-add) until {by_hand}"
            " asks for no password",
        }


@dataclass(frozen=True)
class Adb:
    """An Android device that adb reaches; `serial` says which if several are attached. Untried on hardware.

    Works with shells of before Android 7 too, which mix stdout with stderr and swallow exit codes: the script
    tells both apart and says the code itself.
    """

    serial: str | None = None
    folder: str = ANDROID_FOLDER

    def run(
        self,
        command: Sequence[str],
        *,
        files: Mapping[str, Path | bytes],
        stdin: bytes = b"",
        deadline_s: float,
        watch: Watch | None = None,
    ) -> str:
        with tempfile.NamedTemporaryFile(prefix="nasflow-", suffix=".tar") as bundle:
            digest = _pack(files, stdin, bundle)
            bundle.flush()
            job = _Job(command, self.folder, bundle, digest, deadline_s, watch)
            there = "exec " + shlex.join(job.script(inline=False))
            return job.converse([*self.prefix, there], self._push, self._refusals())

    @property
    def prefix(self) -> list[str]:
        """What to put before a command, to run it there by hand."""
        return [*self._adb(), "shell"]

    def _adb(self) -> list[str]:
        return ["adb", *(("-s", self.serial) if self.serial else ())]

    def _push(self, bundle: IO[bytes], shell: IO[bytes], folder: str, limit_s: float) -> None:
        push = [*self._adb(), "push", bundle.name, f"{folder}/files.tar"]
        try:
            done = subprocess.run(
                push, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
            )
        except subprocess.TimeoutExpired as error:
            raise Unreachable(f"adb push did not end within {limit_s:.0f} s") from error
        said = (done.stderr + done.stdout).strip()
        if "No space left" in said:
            raise DeviceError(f"its disk is full: {said.splitlines()[-1]}")
        if done.returncode != 0:
            raise Unreachable(f"adb push ended with exit code {done.returncode}: {said or 'it said nothing'}")
        shell.write(b"pushed\n")
        shell.flush()

    def _refusals(self) -> dict[str, str]:
        return {
            "unauthorized": "accept this computer's key on the screen of the device",
            "more than one device": "say which one is meant: `serial` in its profile (adb devices lists them)",
        }


# What runs on the device. One stream goes back, stdout after all of stderr, since old adb has only one. Lines that
# begin with the token are the script's own; what others print can never be taken for them.
SCRIPT = r"""
exec 2>&1
umask 077
base=${1:-${TMPDIR:-/tmp}} token=$2 size=$3 digest=$4 deadline=$5
shift 5
job=$base/nasflow-job.$$.$token started= session=
command -v setsid >/dev/null && session=setsid
say() { echo "$token $*"; }
leave() {
    code=$?
    trap '' HUP INT TERM USR1 PIPE
    for one in $started; do
        kill -s KILL -- "-$one"
        kill -s KILL "$one"
    done 2>/dev/null
    wait 2>/dev/null
    cd / && rm -rf "$job"
    say left "$code"
}
trap leave EXIT
trap 'exit 143' HUP INT TERM PIPE
trap 'exit 124' USR1
if ! [ -d "$base" ] || ! [ -w "$base" ]; then
    echo "no folder $base to write in"
    exit 121
fi
if command -v flock >/dev/null; then
    exec 9<"$base"
    flock -n 8 8<&9 || { say waiting && flock 8 8<&9; } || exit 121
fi
for old in "$base"/nasflow-job.*.*; do
    pid=${old##*/nasflow-job.} pid=${pid%%.*}
    case $pid in *[!0-9]*) continue ;; esac
    if [ -O "$old" ] && ! kill -0 "$pid" 2>/dev/null; then rm -rf "$old"; fi
done
mkdir "$job" && cd "$job" || exit 121
say ready "$job"
if [ "$size" -gt 0 ]; then
    head -c "$size" | tar xof -
else
    read -r pushed && tar xof files.tar && rm files.tar
fi || exit 121
sha=sha256sum
command -v $sha >/dev/null || sha='shasum -a 256'
if ! echo "$digest  sums" | $sha -c - >/dev/null || ! $sha -c sums >/dev/null; then
    echo 'the files did not arrive as they were sent'
    exit 121
fi
cd files || exit 121
command -v "$1" >/dev/null || { say absent; exit 127; }
say running
exec 3<&0
$session "$@" <../stdin >../stdout 3<&- 9<&- &
child=$! started=$!
$session sh -c 'cat; kill "$0"' $$ <&3 >/dev/null 2>&1 3<&- 9<&- &
started="$started $!"
$session sh -c 'sleep "$1"; kill -s USR1 "$0"' $$ "$deadline" >/dev/null 2>&1 3<&- 9<&- &
started="$started $!"
wait "$child"
code=$?
say answer
cat ../stdout
echo
exit "$code"
"""

DOING = {
    "connecting": "connecting",
    "waiting": "waiting for others to be done with it",
    "ready": "copying files to it",
    "running": "running the command",
    "answer": "reading the answer",
}
Send = Callable[[IO[bytes], IO[bytes], str, float], None]
"""Bring the bundle to the script: (bundle, the script's input, its folder, seconds allowed)."""


@dataclass(frozen=True)
class _Job:
    """One command on its way to a device: its files, packed in `bundle`, and the talk with the script there."""

    command: Sequence[str]
    folder: str
    bundle: IO[bytes]
    digest: str
    deadline_s: float
    watch: Watch | None
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def size(self) -> int:
        return os.fstat(self.bundle.fileno()).st_size

    def script(self, *, inline: bool) -> list[str]:
        """The script and its arguments; `inline` says that the files come through its input."""
        late = max(1, round(self.deadline_s + 2 * GRACE_S))  # for when nobody is there any more to end it
        size = self.size if inline else 0
        given = [self.folder, self.token, size, self.digest, late, *self.command]
        return ["sh", "-c", SCRIPT, "nasflow", *map(str, given)]

    def converse(self, program: list[str], send: Send, refusals: Mapping[str, str] | None = None) -> str:
        """Start `program`, which starts the script, and hear it to the end."""
        try:
            process = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
                start_new_session=True,  # or Ctrl-C would reach it before we can end it in order
            )  # fmt: skip
        except OSError as error:
            raise Refused(f"cannot start {program[0]}: {error.strerror}; is it installed?") from error
        assert process.stdin is not None and process.stdout is not None
        limits = {
            "connecting": READY_S,
            "waiting": float("inf"),
            "ready": READY_S + self.size / SLOWEST,
            "running": self.deadline_s,
            "answer": READY_S,
        }
        said: deque[str] = deque(maxlen=20)
        answer: list[str] = []
        phase, end, lines = "connecting", time.monotonic() + READY_S, _Lines(process.stdout)
        try:
            while (line := lines.next(end)) is not None:
                if not line.startswith(self.token):
                    (answer if phase == "answer" else said).append(line)
                    if phase == "running" and self.watch is not None:
                        self.watch(line)
                    continue
                _, word, value = f"{line} ".split(" ", 2)
                if word == "absent":
                    raise Absent(f"it has no program {self.command[0]}")
                if word == "left":
                    return self._ended(phase, int(value), said, answer)
                phase, end = word, time.monotonic() + limits[word]
                if phase == "ready":
                    send(self.bundle, process.stdin, value.strip(), limits["ready"])
                if phase == "running":
                    said.clear()
        except TimeoutError as error:
            if phase == "running":
                raise TimedOut(f"no answer within {self.deadline_s:.0f} s") from error
            raise Unreachable(f"it fell silent while {DOING[phase]}") from error
        finally:
            _end(process)
        last = _last(said)
        for words, advice in (refusals or {}).items():
            if phase == "connecting" and any(words in line for line in said):
                raise Refused(f"{last}: {advice}")
        raise Unreachable(last if phase == "connecting" else f"the connection was cut while {DOING[phase]}")

    def _ended(self, phase: str, code: int, said: Sequence[str], answer: Sequence[str]) -> str:
        """What the command printed, if it ended well."""
        if phase != "answer":
            if phase == "running" and code == 124:
                raise TimedOut(f"no answer within {self.deadline_s:.0f} s")
            if phase == "running":
                raise Unreachable("the connection was cut while running the command")
            full = [line for line in said if "No space left" in line]
            raise DeviceError(f"it could not take the files: {_last(full or said)}")
        if code != 0:
            how = f"was ended by signal {code - 128}" if 128 < code < 193 else f"ended with exit code {code}"
            raise DeviceError(f"{Path(self.command[0]).name} {how}: {_last(said)}")
        return "\n".join(answer)


def _last(said: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(said) if line.strip()), "it said nothing")


class _Lines:
    """The lines of a stream as they come, without their ends."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._whole, self._rest = stream, deque[bytes](), b""
        self._poll = select.poll()
        self._poll.register(stream, select.POLLIN)

    def next(self, end: float) -> str | None:
        """The next line; None after the last. Raises TimeoutError if it has not come when the clock shows `end`."""
        while not self._whole:
            left_ms = 1000 * (end - time.monotonic())
            if not self._poll.poll(None if left_ms == float("inf") else max(0.0, left_ms)):
                raise TimeoutError
            chunk = os.read(self._stream.fileno(), 1 << 20)
            if not chunk:
                last, self._rest = self._rest, b""
                return last.decode(errors="replace") or None
            *whole, self._rest = (self._rest + chunk).split(b"\n")
            self._whole.extend(whole)
        return self._whole.popleft().removesuffix(b"\r").decode(errors="replace")


def _feed(bundle: IO[bytes], shell: IO[bytes], folder: str, limit_s: float) -> None:
    """Write the bundle to the script, which reads it from its input, without waiting for it to be taken."""

    def copy() -> None:
        # Closed or broken meanwhile: whoever listens to the script finds out why.
        with contextlib.suppress(OSError, ValueError):
            while chunk := bundle.read(1 << 20):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[shell.write(rest) :]

    bundle.seek(0)
    threading.Thread(target=copy, daemon=True).start()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the script clean up, which the end of its input tells it to, but do not wait for long."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):  # it may be gone already
        process.stdin.close()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        process.stdout.close()


def _pack(files: Mapping[str, Path | bytes], stdin: bytes, bundle: IO[bytes], *, links: bool = False) -> str:
    """Write the archive that the script unpacks: `files/`, `stdin`, and the `sums` of both; the hash of `sums`.

    With `links` it has links to files instead of their contents. Raises DeviceError if a file cannot be read.
    """
    sums = ""
    with tarfile.open(fileobj=bundle, mode="w", format=tarfile.GNU_FORMAT) as archive:
        folder = tarfile.TarInfo("files")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        for name, content in (*((f"files/{name}", one) for name, one in files.items()), ("stdin", stdin)):
            if ".." in PurePosixPath(name).parts or name.startswith("files//") or set(name) & set("\n\\"):
                raise ValueError(f"expected the name of a file inside a folder, got {name[6:]!r}")
            member = tarfile.TarInfo(name)
            member.mode = 0o700  # it may be a program
            try:
                if isinstance(content, bytes):
                    member.size = len(content)
                    sums += f"{hashlib.sha256(content).hexdigest()}  {name}\n"
                    archive.addfile(member, io.BytesIO(content))
                elif links:
                    member.type, member.linkname = tarfile.SYMTYPE, str(content.resolve(strict=True))
                    sums += f"{sha256(content)}  {name}\n"
                    archive.addfile(member)
                else:
                    member.size = content.stat().st_size
                    sums += f"{sha256(content)}  {name}\n"
                    with content.open("rb") as file:
                        archive.addfile(member, file)
            except OSError as error:
                raise DeviceError(f"cannot send {error.filename or name}: {error.strerror}") from error
        listed = tarfile.TarInfo("sums")
        listed.size = len(sums.encode())
        archive.addfile(listed, io.BytesIO(sums.encode()))
    bundle.flush()
    return hashlib.sha256(sums.encode()).hexdigest()

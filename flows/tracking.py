"""Keeps MLflow in agreement with a run, from the outside: whatever MLflow lacks is written, nothing twice.

The study and the stages' results are the truth. `Mirror` compares them with what the tracking store holds and
writes the difference, so a store that a kill left behind, or that was moved away, is complete again after the
next `sync`. `Tracker` does that in one background thread, so that a search never waits for a database.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from flows.lineage import DESCRIPTION, Entry, Model, entries, line, trial_entry
from flows.registry import KEY, Ancestor, Registry, link
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment, tracking_uri
from nasflow.files import locked, read_json, write_json
from nasflow.study import Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.entities import Run as MlflowRun

SQLITE = "sqlite:///"
REGISTERED = "registered"  # the versions in the registry that came of a run
STEPS = "nasflow.steps"
FILES = "nasflow.files"
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development"
}  # its page opens on runs, not on chats
PARETO = "pareto"
MARKS = (PARETO, "knee")  # tags that a run may lose again
MOST_COMPARED = 100  # runs that fit into an address
LONGEST_PARAM, LONGEST_TAG = 6000, 8000  # characters MLflow takes
METRICS_PER_BATCH, PARAMS_PER_BATCH = (
    800,
    100,
)  # MLflow takes a thousand things at once, 100 of them parameters

log = logging.getLogger("nasflow.tracking")


class TrackingError(NasflowError):
    """MLflow's store could not be brought up to date; the run itself has lost nothing."""


class DamagedStore(TrackingError):
    """MLflow's file cannot be read; trying again does not help."""


@dataclass(frozen=True)
class Address:
    """Which MLflow store and experiment a run belongs to. `artifacts` is where files go if no server decides that."""

    uri: str
    experiment: str
    artifacts: Path | None

    @property
    def file(self) -> Path | None:
        """The store's file, if it is one."""
        return Path(self.uri.removeprefix(SQLITE)) if self.uri.startswith(SQLITE) else None


def address(experiment: Experiment, folder: Path, environ: Mapping[str, str] = os.environ) -> Address:
    """The experiment's own setting first, then MLFLOW_TRACKING_URI, else a file beside the run's folder."""
    name = experiment.mlflow.experiment or experiment.name
    uri = tracking_uri(experiment, folder, environ)
    beside = Path(uri.removeprefix(SQLITE)).parent if uri.startswith(SQLITE) else folder.absolute().parent
    served = not uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))
    return Address(uri, name, None if served else beside / "mlartifacts")


def identity(folder: Path) -> str:
    """What MLflow knows the run in `folder` by: it stays when the run goes on, and is new after --fresh."""
    file = folder / "tracking.json"
    if not file.exists():
        write_json(file, {"key": uuid.uuid4().hex, "behind": True})
    return str(read_json(file)["key"])


def mark(folder: Path, *, behind: bool) -> None:
    """Note beside the run whether MLflow may lack something of it, so that a finished run is not taken for a
    tracked one."""
    noted = {"key": identity(folder), "behind": behind}
    if read_json(folder / "tracking.json") != noted:
        write_json(folder / "tracking.json", noted)


@dataclass
class _Known:
    """What the store holds of one run."""

    id: str
    start: int
    status: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]


class Mirror:
    """The part of an MLflow store that belongs to one nasflow run, and how to make it agree with an entry."""

    def __init__(self, client: MlflowClient, experiment_id: str, identity: str) -> None:
        self.client = client
        self.experiment_id = experiment_id
        self.identity = identity
        self.registry = Registry(client, experiment_id)
        self._known = {str(known.tags[KEY]): known for known in self._search()}

    @classmethod
    def open(cls, address: Address, identity: str) -> Mirror:
        """Connect, creating the store's file and the experiment if they are not there yet."""
        from mlflow import MlflowClient

        if address.file is not None:
            _make(address.file)
        client = MlflowClient(tracking_uri=address.uri, registry_uri=address.uri)
        return cls(client, _experiment(client, address), identity)

    def _search(self) -> Iterator[_Known]:
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                f"tags.`{KEY}` LIKE '{self.identity}/%'",
                max_results=1000,
                page_token=token,
            )
            yield from (_as_known(run) for run in page)
            token = page.token
            if not token:
                return

    def keep(self, found: Sequence[Entry]) -> None:
        """Write what the store lacks of a whole run: its runs and models, each linked to those it belongs with."""
        lines = {entry.key: line(found, entry) for entry in found if entry.model is not None}
        numbers: dict[str, str] = {}
        for key, steps in lines.items():
            number = self.registry.version(_model(steps[-1]), self._file_key(steps[-1]))
            numbers |= {key: number} if number else {}
        front = [entry.key for entry in found if entry.tags.get(PARETO)]

        def put(entries: Sequence[Entry]) -> None:
            """Write these with what can be linked by now."""
            for entry in entries:
                linked = _with_versions(entry, lines, numbers)
                self.put(self._with_front(linked, front) if entry.parent is None else linked)

        put(found)
        for key, steps in lines.items():
            ids = [self._known[self._key(step.key)].id for step in steps]
            ancestors = [
                Ancestor(step.tags["stage"], step.name, run_id)
                for step, run_id in zip(steps, ids, strict=True)
            ]
            numbers[key] = self.registry.keep(
                _model(steps[-1]), self._file_key(steps[-1]), ids[-1], ancestors
            )
        put([entry for entry in found if entry.parent is None or any(entry in one for one in lines.values())])

    def _with_front(self, entry: Entry, front: Sequence[str]) -> Entry:
        """The entry with a link to MLflow's page that compares the networks of the front, once they are there."""
        known = [self._known[self._key(key)].id for key in front if self._key(key) in self._known]
        if not 2 <= len(known) == len(front) <= MOST_COMPARED:
            return entry
        asked = urlencode(
            {
                "runs": json.dumps(known, separators=(",", ":")),
                "experiments": json.dumps([self.experiment_id]),
            }
        )
        return _described(entry, f"[Compare the {len(known)} networks of the front](#/compare-runs?{asked}).")

    def _file_key(self, entry: Entry) -> str:
        """What the registry knows an entry's file by."""
        return f"{self._key(entry.key)}/{_model(entry).sha256}"

    def put(self, entry: Entry) -> str:
        """Write what the store lacks of `entry`; returns the id of its MLflow run."""
        known = self._known.get(self._key(entry.key))
        params = {name: cut(value, LONGEST_PARAM) for name, value in entry.params.items()}
        if known is not None and any(known.params.get(n, v) != v for n, v in params.items()):
            # MLflow's parameters never change: what they describe is another thing by now.
            self.client.delete_run(known.id)
            known = None
        if known is None:
            known = self._create(entry)
        self._write(known, entry, params)
        self._attach(known, entry)
        if known.status != entry.status:
            if entry.status == "RUNNING":
                self.client.update_run(known.id, status="RUNNING")
            else:
                self.client.set_terminated(
                    known.id, entry.status, known.start + int(entry.seconds * 1000) or None
                )
            known.status = entry.status
        return known.id

    def _key(self, key: str) -> str:
        return f"{self.identity}/{key}"

    def _create(self, entry: Entry) -> _Known:
        start = _now() - int(entry.seconds * 1000)
        tags = {KEY: self._key(entry.key), "mlflow.source.name": "nasflow", "mlflow.source.type": "LOCAL"}
        run = self.client.create_run(self.experiment_id, start, tags, run_name=entry.name)
        known = self._known[tags[KEY]] = _Known(run.info.run_id, start, "RUNNING", {}, {}, tags)
        return known

    def _write(self, known: _Known, entry: Entry, params: Mapping[str, str]) -> None:
        """Log what is missing or different. Tags come last in a batch of MLflow's: a batch that a kill cut short
        lacks them, so the curves are written again, at the same times, which MLflow takes for the same values."""
        from mlflow.entities import Metric, Param, RunTag

        steps = int(known.tags.get(STEPS, 0))
        longest = max((len(values) for values in entry.curves.values()), default=0)
        wanted = {name: cut(value, LONGEST_TAG) for name, value in entry.tags.items()}
        if longest > steps:
            wanted[STEPS] = str(longest)
        if entry.parent is not None:
            wanted["mlflow.parentRunId"] = self._known[self._key(entry.parent)].id
        new = {name: value for name, value in entry.metrics.items() if known.metrics.get(name) != value}
        fresh = {name: value for name, value in params.items() if name not in known.params}
        changed = {name: value for name, value in wanted.items() if known.tags.get(name) != value}
        now = _now()
        metrics = [Metric(name, value, now, 0) for name, value in new.items()]
        metrics += [
            Metric(name, value, known.start + step, step)
            for name, values in entry.curves.items()
            for step, value in enumerate(values, start=1)
            if step > steps
        ]
        self._batches(
            known.id,
            metrics,
            [Param(name, value) for name, value in fresh.items()],
            [RunTag(name, value) for name, value in changed.items()],
        )
        for mark in MARKS:
            if mark in known.tags and mark not in wanted:
                self.client.delete_tag(known.id, mark)
                del known.tags[mark]
        known.metrics |= new
        known.params |= fresh
        known.tags |= changed

    def _batches(
        self, run_id: str, metrics: Sequence[Metric], params: Sequence[Param], tags: Sequence[RunTag]
    ) -> None:
        """Log in as few calls as MLflow's limits allow, the tags with the last."""
        while len(metrics) > METRICS_PER_BATCH or len(params) > PARAMS_PER_BATCH:
            self.client.log_batch(run_id, metrics[:METRICS_PER_BATCH], params[:PARAMS_PER_BATCH])
            metrics, params = metrics[METRICS_PER_BATCH:], params[PARAMS_PER_BATCH:]
        if metrics or params or tags:
            self.client.log_batch(run_id, metrics, params, tags)

    def _attach(self, known: _Known, entry: Entry) -> None:
        """Upload the entry's artifacts if they are not the ones that are there."""
        digest = hashlib.sha256()
        for name, text in entry.texts.items():
            digest.update(f"{name}\0{text}\0".encode())
        for file in entry.files:
            digest.update(f"{file.name}\0".encode() + file.read_bytes())
        there = digest.hexdigest()
        if (not entry.texts and not entry.files) or known.tags.get(FILES) == there:
            return
        for name, text in entry.texts.items():
            self.client.log_text(known.id, text, name)
        for file in entry.files:
            self.client.log_artifact(known.id, str(file))
        self._tag(known, FILES, there)

    def _tag(self, known: _Known, name: str, value: str) -> None:
        self.client.set_tag(known.id, name, value)
        known.tags[name] = value


class Tracker:
    """Writes to MLflow behind a search's back: one thread, in the order it was told.

    Nothing here raises into the search. A trial that cannot be written is left to the next `sync`, which
    writes all that is missing; the error of a `sync` is in the future it returns.
    """

    def __init__(self, address: Address, folder: Path) -> None:
        self.address = address
        self.folder = folder
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nasflow-tracking")
        self._mirror: Mirror | None = None
        self._behind = False

    def __call__(self, trial: Trial) -> None:
        """Observe a finished trial: it is written soon."""
        if trial.state in ("done", "failed"):
            self._thread.submit(self._put, trial).add_done_callback(_tell)

    def sync(self, summary: Mapping[str, Any], trials: Sequence[Trial]) -> Future[None]:
        """Bring MLflow up to date with all of the run, in the background. A failure is logged, and raised by
        the future's `result()` as a TrackingError."""
        future = self._thread.submit(self._sync, summary, tuple(trials))
        future.add_done_callback(_tell)
        return future

    def close(self) -> None:
        """Drop what is not written yet; the next `sync` of the run, in this process or another, writes it."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _open(self) -> Mirror:
        if self._mirror is None:
            self._mirror = Mirror.open(self.address, identity(self.folder))
        return self._mirror

    def _put(self, trial: Trial) -> None:
        if self._behind:
            return
        self._behind = True  # until this one is written: with a store that is away, one try is enough for all
        with _as_tracking_error(self.address):
            self._open().put(trial_entry(trial))
        self._behind = False

    def _sync(self, summary: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        self._behind = True
        with _as_tracking_error(self.address):
            mark(self.folder, behind=True)
            mirror = self._open()
            mirror.keep(entries(summary, trials, self.folder))
            mark(self.folder, behind=summary["status"] == "running")
        self._behind = False


def cut(text: str, most: int) -> str:
    """The text if MLflow takes it, else its beginning with a note of how much is missing.

    >>> cut("short", 60), cut("x" * 100, 60)
    ('short', 'xxxxxxxxxxxxxxx… (cut off: 100 characters; see summary.json)')
    """
    note = f"… (cut off: {len(text):,} characters; see summary.json)"
    return text if len(text) <= most else text[: most - len(note)] + note


def _model(entry: Entry) -> Model:
    assert entry.model is not None
    return entry.model


def _described(entry: Entry, sentence: str) -> Entry:
    """The entry with a sentence before its description."""
    said = entry.tags.get(DESCRIPTION, "")
    return replace(entry, tags={**entry.tags, DESCRIPTION: f"{sentence}\n\n{said}" if said else sentence})


def _with_versions(entry: Entry, lines: Mapping[str, Sequence[Entry]], numbers: Mapping[str, str]) -> Entry:
    """The entry with the versions that came of it, in a tag and as links in its description."""
    versions = {
        numbers[key]: _model(steps[-1])
        for key, steps in lines.items()
        if key in numbers and entry.key in [step.key for step in steps]
    }
    if not versions:
        return entry
    links = ", ".join(
        f"{link(model.name, number)}{' (ships)' if model.shipped else ''}"
        for number, model in versions.items()
    )
    registered = " ".join(f"{model.name}/{number}" for number, model in versions.items())
    told = _described(entry, f"Registered as {links}.")
    return replace(told, tags={**told.tags, REGISTERED: registered})


def _tell(written: Future[None]) -> None:
    """What nobody may be waiting for must not fail in silence."""
    error = None if written.cancelled() else written.exception()
    if isinstance(error, TrackingError):
        log.warning("%s", error)
    elif error is not None:
        log.error("MLflow is not up to date, through a mistake of nasflow's own: %r", error, exc_info=error)


@contextlib.contextmanager
def _as_tracking_error(address: Address) -> Iterator[None]:
    """Tell what MLflow and its store throw from a mistake of ours: the first becomes a TrackingError."""
    _quieten()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, OSError, NasflowError) as error:
        if address.file is not None:
            _check(address.file)
        shown = _public(address.uri)
        # The error it comes from stays out of it, since that may quote the address with its password.
        raise TrackingError(
            f"MLflow at {shown} cannot be written: {str(error).replace(address.uri, shown)}"
        ) from (error if shown == address.uri else None)


def _experiment(client: MlflowClient, address: Address) -> str:
    from mlflow.exceptions import MlflowException

    location = address.artifacts.as_uri() if address.artifacts else None
    found = client.get_experiment_by_name(address.experiment)
    if found is None:
        with contextlib.suppress(MlflowException):  # another run was faster
            return str(client.create_experiment(address.experiment, location, EXPERIMENT_TAGS))
        found = client.get_experiment_by_name(address.experiment)
        assert found is not None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _make(file: Path) -> None:
    """Create the tables in a new file beside `file` and move it there: a kill leaves no half-made store."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    if file.exists():
        if file.stat().st_size and not file.read_bytes()[:16].startswith(b"SQLite format 3"):
            _check(file)
        return
    with locked(file.with_name(f".{file.name}.lock"), wait=True):
        if file.exists():
            return
        part = file.with_name(f".{file.name}.part")
        part.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{SQLITE}{part}", (file.parent / "mlartifacts").as_uri())  # type: ignore[no-untyped-call]
        store._dispose_engine()  # type: ignore[no-untyped-call]
        part.replace(file)


def _check(file: Path) -> None:
    """Raise DamagedStore if SQLite says that the file is not whole."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=1)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        return  # locked or out of reach, which is another trouble
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        raise DamagedStore(
            f"MLflow's file {file} is damaged ({said}). Move it away, for example with "
            f"`mv {file} {file}.damaged`, and run again: it is rebuilt from the run folders, nothing of a search "
            "is lost"
        )


def _as_known(run: MlflowRun) -> _Known:
    return _Known(
        id=run.info.run_id,
        start=run.info.start_time,
        status=run.info.status,
        params=dict(run.data.params),
        metrics=dict(run.data.metrics),
        tags=dict(run.data.tags),
    )


def _public(uri: str) -> str:
    """An address without the password it may carry.

    >>> _public("postgresql://me:secret@host/db")
    'postgresql://me:***@host/db'
    """
    scheme, _, rest = uri.partition("://")
    login, at, host = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{scheme}://{user}{':***' if colon else ''}{at}{host}"


def _now() -> int:
    return time.time_ns() // 1_000_000


def _quieten() -> None:
    """Import MLflow without what it says about itself: of its parts that nasflow has no use for, and of every
    table it makes. Its warnings while it works still come through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.onnx
        import mlflow.pyfunc  # noqa: F401
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)

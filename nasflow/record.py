"""A study's durable record: an Optuna storage, so that optuna-dashboard opens every search of every strategy.

A file (`study.journal`) by default, 4 to 13 ms a trial; any Optuna storage URL, PostgreSQL for example, too.
A trial is written whole when it is proposed, its outcome before its state, so at every moment the file says
either that a trial is finished, with everything about it, or that it is still to be done.
"""

from __future__ import annotations

import contextlib
import glob
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasflow.errors import NasflowError
from nasflow.space import Choice, Parameter, Space
from nasflow.study import Ask, Metrics, Objective, State, Trial

OPTUNA_STATES: dict[State, TrialState] = {
    "pending": TrialState.RUNNING,
    "done": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "refused": TrialState.PRUNED,
    "duplicate": TrialState.PRUNED,
}


class RecordError(NasflowError):
    """A record that cannot be read, or that belongs to another search."""


class OptunaRecord:
    """The record of the study `name` in an Optuna storage; made if it is not there."""

    def __init__(
        self, storage: BaseStorage, name: str, space: Space, objectives: Sequence[Objective]
    ) -> None:
        self._storage = storage
        self._space = space
        self._optimised = [objective for objective in objectives if objective.optimise]
        with _storing():
            self._study_id = _study_id(storage, name, space, objectives)
        self._ids: dict[int, int] = {}

    def load(self) -> tuple[list[Trial], list[Ask]]:
        frozen = sorted(self._storage.get_all_trials(self._study_id, deepcopy=False), key=lambda t: t.number)
        trials: list[Trial] = []
        asks: list[Ask] = []
        for number, one in enumerate(frozen):
            about = one.user_attrs
            if one.number != number or "ask" not in about:
                raise RecordError(
                    f"trial {one.number} in the record was not written by nasflow; expected trial {number}. "
                    "Keep this storage for nasflow's own trials, or use --fresh"
                )
            self._ids[number] = one._trial_id
            trials.append(_trial(one, [p.name for p in self._space.parameters]))
            ask, count = about["ask"]
            if ask == len(asks):
                asks.append(Ask(count, ()))
            asks[ask] = Ask(count, (*asks[ask].numbers, number))
        return trials, asks

    def add(self, trials: Sequence[Trial], ask: int, count: int) -> None:
        distributions = {p.name: _distribution(p) for p in self._space.parameters}
        for trial in trials:
            template = FrozenTrial(
                number=-1,  # the storage numbers it
                trial_id=-1,
                state=TrialState.RUNNING,
                value=None,
                values=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params=dict(trial.point),
                distributions=distributions,
                user_attrs={"ask": [ask, count], "fidelity": trial.fidelity, "parent": trial.parent},
                system_attrs={},
                intermediate_values={},
            )
            with _storing():
                self._ids[trial.number] = self._storage.create_new_trial(self._study_id, template)

    def note(self, number: int, metrics: Metrics) -> None:
        with _storing():
            self._storage.set_trial_user_attr(self._ids[number], "known", dict(metrics))

    def finish(self, trial: Trial) -> None:
        trial_id = self._ids[trial.number]
        outcome = {
            "state": trial.state,
            "metrics": dict(trial.metrics),
            "error": trial.error,
            "seconds": trial.seconds,
        }
        values = (
            [trial.metrics[objective.metric] for objective in self._optimised]
            if trial.state == "done"
            else None
        )
        with _storing():
            self._storage.set_trial_user_attr(trial_id, "outcome", outcome)
            self._storage.set_trial_state_values(trial_id, OPTUNA_STATES[trial.state], values)


def _trial(one: FrozenTrial, names: Iterable[str]) -> Trial:
    """What the record says of one trial; the choices of its point in the order of `names`."""
    about = one.user_attrs
    # An outcome whose state a kill kept from being written does not count: the trial is done again.
    outcome = about["outcome"] if one.state.is_finished() else {}
    return Trial(
        number=one.number,
        point={name: one.params[name] for name in names},
        fidelity=about["fidelity"],
        parent=about["parent"],
        state=cast(State, outcome.get("state", "pending")),
        metrics=outcome.get("metrics", about.get("known", {})),
        error=outcome.get("error"),
        seconds=outcome.get("seconds", 0.0),
    )


@contextlib.contextmanager
def _storing() -> Iterator[None]:
    """Says of a full disk or a database that is away what to do about it; nothing recorded is lost by either."""
    try:
        yield
    except (OSError, optuna.exceptions.StorageInternalError) as error:
        raise RecordError(
            f"the record cannot be written: {error}. Mend that, then run again to go on"
        ) from error


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Optuna announces studies and experimental features; a tool built on it should not."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def open_record(where: Path | str, name: str, space: Space, objectives: Sequence[Objective]) -> OptunaRecord:
    """The record in the journal file `where` (a Path) or the storage with the URL `where` (a str).

    Whoever opens a journal file is its only writer (a run holds its folder's lock), so what a killed process
    left is mended first: a last line that was cut off is removed, and the lock of a dead holder with it.
    """
    with quiet_optuna():
        storage = _journal(where) if isinstance(where, Path) else _database(where)
        return OptunaRecord(storage, name, space, objectives)


def read(journal: Path) -> list[Trial]:
    """The trials in a run's journal file as it is now, while the search may still write to it; nothing is written.

    Their points' choices come in alphabetical order, as the space is not opened.
    """
    try:
        with quiet_optuna():
            storage = JournalStorage(JournalFileBackend(str(journal)))
            studies = storage.get_all_studies()
            frozen = [
                one for study in studies for one in storage.get_all_trials(study._study_id, deepcopy=False)
            ]
        return [_trial(one, sorted(one.params)) for one in sorted(frozen, key=lambda one: one.number)]
    except (OSError, ValueError, KeyError) as error:
        raise RecordError(
            f"{journal}: expected the record of a search; {type(error).__name__}: {error}"
        ) from error


def _journal(path: Path) -> BaseStorage:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mend(path)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise RecordError(
            f"cannot open the record {path}: {error.strerror}; choose another folder with --out"
        ) from error


def _database(url: str) -> BaseStorage:
    from sqlalchemy.exc import SQLAlchemyError  # a second of imports that a journal does without

    try:
        return get_storage(url)
    except (SQLAlchemyError, ImportError, ValueError, optuna.exceptions.StorageInternalError) as error:
        shown = re.sub(r":[^:/@]*@", ":***@", url)
        raise RecordError(
            f"cannot open the record {shown}: {error}. Expected the URL of a database that answers, "
            "such as sqlite:///study.db or postgresql://user@host/name, with its driver installed"
        ) from error


def mend(journal: Path) -> None:
    """Make a journal readable again after its writer was killed. Anything worse than a cut-off end is an error
    that says where, since what follows a broken line cannot be trusted."""
    lock = f"{journal.name}.lock"  # Optuna's, renamed before it is removed
    for left in (lock, *glob.glob(f"{glob.escape(lock)}*.rename", root_dir=journal.parent)):
        journal.with_name(left).unlink(missing_ok=True)
    if not journal.exists():
        return
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or "op_code" not in entry:
                raise ValueError("expected an object with an op_code")
        except ValueError as error:
            raise RecordError(
                f"{journal}: line {number} is broken ({error}); the {number - 1} lines before it are intact. "
                f"To go on from them, keep only those (head -n {number - 1}); or start anew with --fresh"
            ) from error
    if whole < len(content):
        with journal.open("r+b") as file:
            file.truncate(whole)


def _study_id(storage: BaseStorage, name: str, space: Space, objectives: Sequence[Objective]) -> int:
    """The study's id; a study of the same name must search the same space for the same objectives."""
    described = {
        "space": [
            [p.name, list(p.options)] if isinstance(p, Choice) else [p.name, p.low, p.high, p.log]
            for p in space.parameters
        ],
        "objectives": [[o.metric, o.goal, o.limit, o.optimise] for o in objectives],
    }
    directions = [
        StudyDirection.MINIMIZE if o.goal == "min" else StudyDirection.MAXIMIZE
        for o in objectives
        if o.optimise
    ]
    try:
        study_id = storage.create_new_study(directions, name)
    except optuna.exceptions.DuplicatedStudyError:
        study_id = storage.get_study_id_from_name(name)
    known = storage.get_study_user_attrs(study_id).get("nasflow")
    if known is None:
        metrics = [o.metric for o in objectives if o.optimise]
        storage.set_study_system_attr(study_id, "study:metric_names", metrics)
        storage.set_study_user_attr(
            study_id, "nasflow", described
        )  # last: it says that the study is complete
    elif known != json.loads(json.dumps(described)):
        differing = [part for part in described if known.get(part) != json.loads(json.dumps(described[part]))]
        raise RecordError(
            f"the record of {name!r} belongs to another search: its {' and '.join(differing)} differ. "
            "Use --fresh to start anew or --out for another folder"
        )
    return study_id


def _distribution(parameter: Parameter) -> BaseDistribution:
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.options)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)

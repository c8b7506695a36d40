"""What MLflow should hold about a run: the pipeline, its trials, and what became of the best of them.

    pipeline                    parameters of the experiment, the shipped network's numbers, report and figures
      trial-12                  the point as parameters, its metrics, and whether it is on the front
        trial-12-pruned-3       the policy as parameters, accepted or refused and why
          trial-12-pruned-3 retrained    curves per epoch, the certified file, the registered model

Plain values made of a summary and the study's trials; flows/tracking.py makes MLflow agree with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nasflow.report import answer, facts, front_svg, words
from nasflow.study import Trial

PIPELINE = "pipeline"
ENDED = {"done": "FINISHED", "failed": "FAILED", "infeasible": "FAILED", "running": "RUNNING"}
DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a run's description
STANDING = "standing"  # the tag to group and filter by: how far a network came
SECRET = re.compile(r"passw|passphrase|token|secret|credential|api_?key|private_?key", re.IGNORECASE)
SHORTEST_SECRET = 4
PASSWORD = re.compile(r"://[^/@:\s]*:([^/@\s]+)@")
HIDDEN = "training_memory_mb"  # of the search's own book-keeping: it says nothing about the network

Curve = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Model:
    """An exported file to be kept as a model: what it takes and gives, and what certifies it.

    `rule` is the one by which its run chose what ships, `told` says in words what the file is.
    """

    name: str
    file: Path
    certificate: Path
    sha256: str
    shipped: bool
    tags: Mapping[str, str]
    rule: str = "knee"
    told: str = ""


@dataclass(frozen=True)
class Entry:
    """One MLflow run as it should be. `key` names it within the nasflow run, `parent` is the key it hangs under.

    `curves` are metrics with one value per step; `texts` are artifacts by name, `files` artifacts by path.
    """

    key: str
    name: str
    parent: str | None = PIPELINE
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    curves: Curve = field(default_factory=dict)
    status: str = "FINISHED"
    seconds: float = 0.0
    texts: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    model: Model | None = None


def entries(summary: Mapping[str, Any], trials: Sequence[Trial], folder: Path) -> list[Entry]:
    """Everything MLflow should hold about the run in `folder`, parents before children."""
    front = {member["trial"]: member for member in summary["front"]}
    found = [pipeline_entry(summary, folder)]
    for trial in trials:
        if trial.state in ("done", "failed"):
            member = front.get(trial.number)
            found.append(trial_entry(trial, member is not None, bool(member and member["knee"])))
    found += _compressed(summary, {entry.key for entry in found})
    found += _retrained(summary, {entry.key for entry in found})
    return _deployed(summary, found, folder)


def line(found: Sequence[Entry], entry: Entry) -> list[Entry]:
    """What an entry came from, the pipeline first and the entry itself last."""
    by_key = {one.key: one for one in found}
    steps = [entry]
    while steps[0].parent is not None:
        steps.insert(0, by_key[steps[0].parent])
    return steps


def pipeline_entry(summary: Mapping[str, Any], folder: Path) -> Entry:
    """The parent of all: what was asked for and what came out."""
    shipped = next((one for one in summary["deployed"] if one["shipped"]), None)
    seconds = {
        f"seconds/{stage}": float(said["seconds"])
        for stage, said in summary["stages"].items()
        if said["seconds"] is not None
    }
    counts = {
        f"trials/{state}": float(count) for state, count in summary["trials"].items() if state != "failures"
    }
    front = {"trials/front": float(len(summary["front"]))} if summary["front"] else {}
    strategy = summary["experiment"]["search"]["strategy"]
    texts = {"front.svg": front_svg(summary), "front.md": front_table(summary)} if summary["front"] else {}
    files = [folder / name for name in ("report.html", "summary.json", "experiment.yaml")]
    there = [file for file in files if file.exists() and summary["status"] != "running"]
    hidden = secrets(summary["experiment"])
    if hidden:  # they stay in the run's folder
        texts |= {file.name: masked(file.read_text(), hidden) for file in there}
        there = []
    return Entry(
        key=PIPELINE,
        name=f"{summary['run']} {strategy['name'] if isinstance(strategy, Mapping) else strategy}",
        parent=None,
        params={name: masked(_said(value), hidden) for name, value in _leaves(summary["experiment"])},
        metrics={**seconds, **counts, **front, **(_file_metrics(shipped) if shipped else {})},
        tags={
            "stage": PIPELINE,
            "state": summary["status"],
            "message": summary["message"],
            "shipped": shipped["name"] if shipped else "",
            "data.sha256": summary["data"].get("sha256", ""),
            "space.sha256": summary.get("space", {}).get("sha256", ""),
            "nasflow.folder": str(folder),
            "nasflow.version": summary["nasflow"],
            DESCRIPTION: f"{answer(summary)}\n\n{front_table(summary)}",
        },
        # While the search goes on, what it is measured by still moves, and MLflow keeps what it was told first.
        curves={
            "hypervolume": summary["hypervolume"]["curve"]
            if summary["stages"]["search"]["status"] == "done"
            else []
        },
        status=ENDED[summary["status"]],
        seconds=float(summary["seconds"]),
        texts=texts,
        files=tuple(there),
    )


def trial_entry(trial: Trial, pareto: bool = False, knee: bool = False) -> Entry:
    """One trained network of the search."""
    marks = {"pareto": "true"} if pareto else {}
    return Entry(
        key=f"trial-{trial.number}",
        name=f"trial-{trial.number}",
        params={
            **{name: str(value) for name, value in trial.point.items()},
            **({"fidelity": str(trial.fidelity)} if trial.fidelity != 1.0 else {}),
        },
        metrics=metrics(trial.metrics),
        tags={
            "stage": "search",
            "state": trial.state,
            STANDING: "on the front" if pareto else "failed" if trial.state == "failed" else "tried",
            **marks,
            **({"knee": "true"} if knee else {}),
            **({"reason": trial.error} if trial.error else {}),
        },
        status="FINISHED" if trial.state == "done" else "FAILED",
        seconds=trial.seconds,
    )


def _compressed(summary: Mapping[str, Any], known: set[str]) -> Iterator[Entry]:
    for step in summary["compression"]:
        yield Entry(
            key=step["name"],
            name=step["name"],
            parent=step["parent"] if step["parent"] in known else PIPELINE,
            params={name: str(value) for name, value in (step["policy"] or {}).items()},
            metrics={
                **metrics(step["after"]),
                **{f"before/{name}": value for name, value in metrics(step["before"]).items()},
            },
            tags={
                "stage": "compress",
                "kind": step["kind"],
                "change": words.change(step["before"], step["after"]),
                "state": "accepted" if step["accepted"] else "refused",
                STANDING: "compressed" if step["accepted"] else "refused",
                "reason": step["reason"],
                DESCRIPTION: _in_words(step),
            },
        )
        known.add(step["name"])


def _in_words(step: Mapping[str, Any]) -> str:
    """What a step changed, why it was kept or refused, and its policy, in Markdown."""
    change = words.change(step["before"], step["after"])
    verdict = "Accepted" if step["accepted"] else "Refused"
    policy = "\n".join(f"- {how} {where}" for how, where in words.policy(step["policy"] or {}))
    return "\n\n".join(
        filter(None, [f"**{change}**" if change else "", f"{verdict}: {step['reason']}.", policy])
    )


def _retrained(summary: Mapping[str, Any], known: set[str]) -> Iterator[Entry]:
    for one in summary["retrained"]:
        rows = one["curve"]
        yield Entry(
            key=f"{one['name']}/retrained",
            name=f"{one['name']} retrained",
            parent=one["name"] if one["name"] in known else PIPELINE,
            params={"epochs": str(one["epochs"]), "seeds": str(len(one["errors"]))},
            metrics={
                "error": one["error"],
                **{f"error/seed-{seed}": error for seed, error in enumerate(one["errors"])},
            },
            tags={"stage": "retrain", "state": "done", STANDING: "retrained"},
            curves={"training/loss": [row[1] for row in rows], "training/error": [row[2] for row in rows]},
        )


def _deployed(summary: Mapping[str, Any], found: list[Entry], folder: Path) -> list[Entry]:
    """Add what is known of each exported file to the run of the network it was made of; int8 files get their own."""
    by_key = {entry.key: entry for entry in found}
    for one in summary["deployed"]:
        name = one["name"]
        base = by_key.get(f"{name}/retrained") or Entry(
            key=f"{name}/deployed",
            name=f"{name} deployed",
            parent=name if name in by_key else PIPELINE,
            tags={"stage": "deploy", "state": "done"},
        )
        about = {
            "shipped": str(one["shipped"]).lower(),
            "limits": "kept" if all(limit["holds"] for limit in one["limits"]) else "broken",
            "sha256": one["sha256"],
            STANDING: "shipped" if one["shipped"] else "deployed",
            "data.sha256": summary["data"]["sha256"],
            "space.sha256": summary.get("space", {}).get("sha256", ""),
        }
        by_key[base.key] = replace(
            base,
            metrics={**base.metrics, **_file_metrics(one)},
            tags={**base.tags, **about},
            files=(folder / one["certificate"],),
            model=Model(
                name=summary["run"],
                file=folder / one["file"],
                certificate=folder / one["certificate"],
                sha256=one["sha256"],
                shipped=one["shipped"],
                tags={
                    **about,
                    **_environment(summary, one),
                    "network": name,
                    **{k: f"{v:.6g}" for k, v in _file_metrics(one).items()},
                },
                rule=str((summary.get("choice") or {}).get("rule", "knee")),
                told=_told(summary, one),
            ),
        )
    return list(by_key.values())


def _environment(summary: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, str]:
    """Where a file was made, and with what it was measured on each device."""
    made = {name: summary["environment"].get(name) for name in ("python", "system", "processor")}
    measured = {
        f"{name}/{device}": (cost.get("environment") or {}).get(name)
        for device, cost in one["latency"].items()
        for name in ("cpu", "runtime", "threads")
    }
    versions = {"nasflow": summary["nasflow"]}
    return {
        f"environment.{name}": str(value) for name, value in {**versions, **made, **measured}.items() if value
    }


def _told(summary: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """What a file is, in a sentence."""
    costs = ", ".join(
        f"{words.amount('latency_ms', float(cost['p50_ms']))} on {device}"
        for device, cost in one["latency"].items()
    )
    kept = "every limit kept" if all(limit["holds"] for limit in one["limits"]) else "a limit broken"
    ships = f"ships: {summary['choice']['why']}" if one["shipped"] and summary.get("choice") else ""
    return (
        f"{one['name']} of {summary['run']}{f', which {ships}' if ships else ''}."
        f" Test error {words.share(float(one['test_error']))}, {costs},"
        f" {words.amount('size_kb', float(one['size_kb']))}; {kept}."
    )


def _file_metrics(one: Mapping[str, Any]) -> dict[str, float]:
    """What was found out about an exported file. `error` stays that of the retraining: the mean of its seeds."""
    counted = {name: value for name, value in one.get("metrics", {}).items() if name != "error"}
    return {
        **metrics(counted),
        "test_error": float(one["test_error"]),
        "validation_error": float(one["validation_error"]),
        "size_kb": float(one["size_kb"]),
        "parity/max_abs_difference": float(one["parity"]["max_abs_difference"]),
        "parity/agreement": float(one["parity"]["agreement"]),
        **{f"latency_ms/{device}": float(cost["p50_ms"]) for device, cost in one["latency"].items()},
        **{f"latency_p90_ms/{device}": float(cost["p90_ms"]) for device, cost in one["latency"].items()},
    }


def metrics(found: Mapping[str, float]) -> dict[str, float]:
    """Metrics under names that MLflow allows, which has no `@`; its page groups them by what is before the `/`.

    >>> metrics({"latency_ms@local-cpu": 0.5})
    {'latency_ms/local-cpu': 0.5}
    """
    return {name.replace("@", "/"): float(value) for name, value in found.items() if name != HIDDEN}


def front_rows(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """The front as rows for a table: the network, its objectives in a reader's words, what is special about it."""
    shipped = next((one["name"] for one in summary["deployed"] if one["shipped"]), None)
    objectives = [facts.metric(one["metric"]) for one in summary["objectives"]]
    rows = []
    for member in summary["front"]:
        name = f"trial-{member['trial']}"
        notes = ["knee"] * bool(member["knee"]) + ["ships"] * (name == shipped)
        rows.append(
            {
                "network": name,
                **{one.label: words.amount(one.name, member["metrics"][one.name]) for one in objectives},
                "note": ", ".join(notes),
            }
        )
    return rows


def front_table(summary: Mapping[str, Any]) -> str:
    """The front in Markdown; empty if there is none yet."""
    rows = front_rows(summary)
    if not rows:
        return ""
    head = list(rows[0])
    lines = [
        head,
        ["---" if index == 0 else "---:" for index in range(len(head))],
        *(list(row.values()) for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def secrets(experiment: Mapping[str, Any]) -> list[str]:
    """What no one should read in the settings of an experiment: passwords inside of addresses, and whatever the name
    of an argument says is a secret.

    >>> secrets({"data": {"arguments": {"api_token": "t0ps3cret"}}, "mlflow": {"uri": "http://me:word@host"}})
    ['t0ps3cret', 'word']
    """
    found = [
        str(value)
        for name, value in _settings(experiment)
        if SECRET.search(name.rpartition(".")[2]) and isinstance(value, str)
    ]
    found += [match for _, value in _settings(experiment) for match in PASSWORD.findall(str(value))]
    long = {secret for secret in found if len(secret) >= SHORTEST_SECRET}  # less is part of innocent words
    return sorted(long, key=lambda secret: (-len(secret), secret))  # one may be a part of another


def masked(text: str, hidden: Sequence[str]) -> str:
    for secret in hidden:
        text = text.replace(secret, "***")
    return text


def _said(value: Any) -> str:
    """A setting in a word; of a list, its parts.

    >>> _said(["error", "flops"]), _said(True), _said([{"metric": "error", "limit": 0.1}])
    ('error, flops', 'True', 'metric error limit 0.1')
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value))
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_said(part)}" for name, part in value.items() if part not in (None, {}, []))
    return str(value)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting that says something about the run, under its dotted name; where it is tracked does not."""
    for key, part in _settings(value, name):
        if part is not None and part != [] and key != "name" and not key.startswith("mlflow."):
            yield key, part


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _settings(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, value

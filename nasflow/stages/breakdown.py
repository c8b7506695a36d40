"""What a run tells of latency beside the numbers: how good predictions were, where the time of the shipped network
goes, and what the device could do at most."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasflow.errors import Unavailable
from nasflow.evaluators.foretold import Records, interval
from nasflow.evaluators.layers import foretold, profiled
from nasflow.hardware import Device, DeviceError, Profile, load_profile, roofline, store, timing
from nasflow.hardware.predictor import Accuracy, Built, CannotPredict
from nasflow.stages import finalists, predictors
from nasflow.stages.run import Run
from nasflow.study import Study, Trial

FEWEST = 3  # measurements of which a figure of accuracy is made
# The best known first; arithmetic in 32-bit floats, since that is how networks are measured.
RATES = ("peak_fp32", "gpu_peak_fp32")
BANDWIDTHS = ("stream_copy_bandwidth", "memcpy_bandwidth", "peak_memory_bandwidth")
UNITS = {"GFLOP/s": 1.0, "TFLOP/s": 1e3, "GB/s": 1.0, "MB/s": 1e-3}

log = logging.getLogger(__name__)


def layers(run: Run, file: Path) -> dict[str, dict[str, Any]]:
    """By device, where the time of a file goes, who says so, and the roof; nothing where nobody can tell."""
    built, said = predictors.predictors(run), {}
    for device, name in zip(run.devices, run.experiment.devices, strict=True):
        profile = load_profile(name)
        if profile.reach.backend == "local" and profile.reach.runtime == "onnxruntime":
            source, found = "measured by ONNX Runtime", profiled(file, profile.reach.threads, profile.batch)
        elif profile.name in built:
            predictor = built[profile.name].predictor
            try:
                found = foretold(file, predictor, profile.batch)
            except CannotPredict:
                continue
            source = f"predicted ({predictor.kind})"
        else:
            continue
        if found:
            listed = [one.to_json() for one in found]
            roof = _roof(device, profile, built.get(profile.name))
            said[profile.name] = {"source": source, "layers": listed, "roof": roof}
    return said


def kinds(run: Run, file: Path) -> dict[str, dict[str, float]]:
    """By device, the milliseconds that each kind of kernel of a file takes; of devices whose runtime tells it."""
    said: dict[str, dict[str, float]] = {}
    for name in run.experiment.devices:
        profile = load_profile(name)
        if profile.reach.backend == "local" and profile.reach.runtime == "onnxruntime":
            spent = said.setdefault(profile.name, {})
            for kernel in profiled(file, profile.reach.threads, profile.batch):
                spent[kernel.kind] = spent.get(kernel.kind, 0.0) + kernel.ms
    return said


def told(run: Run, study: Study, shipped: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By device, for summary.json: `predictor`, `stale`, `pairs` (trial, predicted, deviation, measured; in
    milliseconds), their `accuracy`, how many lie `outside` their interval, how many measurements were `untaught`, being
    too noisy to refit it on, what of the front is `unmeasured`, `noisy` or measured while the device had `moved` (both
    by trial), and the `breakdown` of the shipped file. What is not known is left out."""
    kept = (run.folder / "stages" / "predictors.json").exists()
    built = predictors.predictors(run) if kept else {}
    known = (run.done("search") or {}).get("latency") or {}
    missing = finalists.unmeasured(known, study.front)
    found: dict[str, dict[str, Any]] = {}
    for name in run.experiment.devices:
        profile = load_profile(name)
        device: dict[str, Any] = {}
        if profile.name in built:
            device |= _compared(run, study, built[profile.name])
        if profile.name in missing:
            device["unmeasured"] = missing[profile.name]
        device |= _doubtful(Records(run.folder / "trials"), study.front, profile.name)
        if profile.name in shipped:
            device["breakdown"] = shipped[profile.name]
        if device:
            found[profile.name] = device
    return found


def _doubtful(kept: Records, front: Sequence[Trial], device: str) -> dict[str, Any]:
    """The members of the front whose latency is not to be trusted: why, or by how much the device was not itself."""
    records = {trial.number: kept.read(trial, device) for trial in front}
    measured = {n: record.latency for n, record in records.items() if record and record.latency}
    moved = zip(measured, timing.moved(list(measured.values())), strict=True)
    said = {
        "noisy": {str(number): one.noisy for number, one in measured.items() if one.noisy},
        "moved": {str(number): share for number, share in moved if abs(share) > timing.DRIFTED},
    }
    return {name: trials for name, trials in said.items() if trials}


def _compared(run: Run, study: Study, built: Built) -> dict[str, Any]:
    records = Records(run.folder / "trials")
    pairs: list[list[float]] = []
    stale: dict[str, None] = {}
    outside = noisy = 0
    for trial in study.trials:
        record = records.read(trial, built.device)
        if record is None or record.latency is None:
            continue
        stale |= dict.fromkeys(store.stale(built, record.latency.environment))
        noisy += bool(record.latency.noisy)
        if record.predicted is not None:
            low, high = interval(record.predicted)
            outside += not low <= record.latency.p50_ms <= high
            pair = (record.predicted.p50_ms, record.predicted.deviation_ms, record.latency.p50_ms)
            pairs.append([trial.number, *pair])
    said: dict[str, Any] = {
        "predictor": {
            "kind": built.predictor.kind,
            "date": built.date,
            "networks": built.networks,
            "accuracy": built.accuracy.to_json(),
        },
        "stale": [predictors.outdated(built.device, change) for change in stale],
        "pairs": pairs,
        "outside": outside,
        "untaught": noisy,
    }
    if len(pairs) >= FEWEST:
        said["accuracy"] = Accuracy.of([p[1] for p in pairs], [p[3] for p in pairs]).to_json()
    return said


def _roof(device: Device, profile: Profile, built: Built | None) -> dict[str, Any] | None:
    """Multiply-adds and bytes (of memory, and of the nearest caches) a second, in billions, that a device can do at
    most, and who says so: its roofline as built, else measured now, else what is known of it."""
    if built is not None and isinstance(built.predictor, roofline.Roofline):
        return _rates(built.predictor, f"measured on {built.date[:10]}")
    try:
        return _rates(roofline.measured(device, batch=profile.batch), "measured after the search")
    except (DeviceError, Unavailable) as error:
        log.warning("the roofline of %s is not measured: %s", device.name, error)
    rate, bandwidth = _fact(profile, RATES), _fact(profile, BANDWIDTHS)
    if rate is None or bandwidth is None:
        return None
    return {
        "gmacs": rate[0] / 2,  # an addition and a multiplication
        "memory_gbs": bandwidth[0],
        "source": f"{rate[1]} and {bandwidth[1]}, from the profile",
    }


def _rates(known: roofline.Roofline, source: str) -> dict[str, Any]:
    return {
        "gmacs": known.gmacs,
        "memory_gbs": known.memory_gbs,
        "cache_gbs": known.cache_gbs,
        "source": source,
    }


def _fact(profile: Profile, wanted: Sequence[str]) -> tuple[float, str] | None:
    for quantity in wanted:
        for fact in profile.facts:
            if fact.quantity == quantity and fact.unit in UNITS and isinstance(fact.value, int | float):
                return fact.value * UNITS[fact.unit], f"{quantity} ({fact.kind})"
    return None

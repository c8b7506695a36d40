"""Bar: an experiment whose shipped int8 file is measured faster than its fp32 file.

    python benchmarks/int8_faster.py [--out FOLDER]

Runs experiments/digits-int8.yaml and compares what ships with the fp32 file it was made from, in turns.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from _results import write

from nasflow import stages
from nasflow.experiment import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    folder = parser.parse_args().out or Path(tempfile.mkdtemp()) / "digits-int8"
    with stages.open_run(load("digits-int8"), folder, notify=lambda *said: print(*said, flush=True)) as run:
        summary = stages.pipeline(run)
        deployed = {one["name"]: one for one in summary["deployed"]}
        shipped = deployed[summary["choice"]["name"]]
        base = deployed[shipped["name"].removesuffix("-int8")]
        found = run.devices[0].compare(folder / base["file"], folder / shipped["file"])
    is_int8 = shipped["name"] != base["name"]
    write(
        "main_job-int8_faster",
        goal="the shipped file is int8 and measured faster than its fp32 file",
        value=found.ratio,
        holds=is_int8 and found.verdict == "faster",
        shipped=shipped["name"],
        ci=list(found.ci),
        p50_ms={"fp32": found.a.p50_ms, "int8": found.b.p50_ms},
        test_error={"fp32": base["test_error"], "int8": shipped["test_error"]},
    )


if __name__ == "__main__":
    main()

"""Scores every cell of the project's own table without training it: the columns score_* of the table.

    python benchmarks/zero_cost_scores.py [--out FOLDER]

Some minutes of one core. It goes on where it was stopped: a cell that is finished is a line in scores.jsonl in
FOLDER, from where `python benchmarks/make_digits_cells.py assemble` takes it. Of cells that compute the same one is
scored, with the weights of the first training's seed and the 128 images of NASWOT's paper.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from make_digits_cells import append, data, different, lines, network

from nasflow.evaluators.zero_cost import BATCH, SCORES, batch, score

NAMES = tuple(
    name for name in SCORES if name not in ("flops", "naswot-v1", "params")
)  # those have columns already


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits-cells"))
    file = parser.parse_args().out / "scores.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images, labels = batch(data(), BATCH)
    done = {line["cell"] for line in lines(file)}
    cells = different()
    open_ = [cell for i in np.random.default_rng(0).permutation(len(cells)) if (cell := cells[i]) not in done]
    for number, cell in enumerate(open_, start=1):
        scores: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for name in NAMES:
            start = time.process_time()
            scores[name] = score(name, network(cell), images, labels)
            seconds[name] = time.process_time() - start
        append(file, {"cell": cell, "scores": scores, "seconds": seconds})
        if number % 100 == 0:
            print(f"{number} of {len(open_)}", flush=True)


if __name__ == "__main__":
    main()

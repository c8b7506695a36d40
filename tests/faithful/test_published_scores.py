"""Zero-cost scores of cells of NAS-Bench-201 against those that NAS-Bench-Suite-Zero (Krishnakumar et al., NeurIPS
2022) published for CIFAR-10: other images, other first weights, so their orders are compared."""

import csv
import io
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor

from nasflow.evaluators.zero_cost import score
from nasflow.spaces import nasbench201

torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
PUBLISHED = SHARED / "nasbench201_extra" / "nb201_zc_proxies.csv"
IMAGES = SHARED / "cifar10_jpg" / "cifar10_jpg.tar.gz"
CELLS, BATCH = 60, 32
# Name there, and the least rank correlation with ours: the gradients of other weights and images order a little
# otherwise. grasp and zen take minutes more, fisher is summed otherwise there (every channel once for each weight).
LEAST = {
    "naswot": ("nwot", 0.9),
    "jacov": ("jacov", 0.8),
    "synflow": ("synflow", 0.98),
    "snip": ("snip", 0.9),
    "grad-norm": ("grad_norm", 0.9),
}


def images() -> tuple[Tensor, Tensor]:
    """The first images of every class, normalised."""
    seen: Counter[str] = Counter()
    found: list[tuple[str, np.ndarray]] = []
    with tarfile.open(IMAGES) as archive:
        for member in archive:
            part, _, rest = member.name.partition("/")
            kind = rest.partition("/")[0]
            if part != "train" or not rest.endswith(".jpg") or seen[kind] >= 4:
                continue
            seen[kind] += 1
            file = archive.extractfile(member)
            assert file is not None
            found.append((kind, np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))))
    kinds = sorted(seen)
    order = np.random.default_rng(0).permutation(len(found))[:BATCH]
    x = np.stack([found[i][1] for i in order]).transpose(0, 3, 1, 2) / 255.0
    x = (x - x.mean((0, 2, 3), keepdims=True)) / x.std((0, 2, 3), keepdims=True)
    return torch.from_numpy(x.astype(np.float32)), torch.tensor([kinds.index(found[i][0]) for i in order])


@pytest.mark.long
@pytest.mark.skipif(
    not (PUBLISHED.is_file() and IMAGES.is_file()), reason="the published scores are not here"
)
def test_they_order_cells_as_the_published_ones_do() -> None:
    with PUBLISHED.open() as file:
        rows = list(csv.DictReader(file))
    chosen = [rows[i] for i in np.random.default_rng(0).choice(len(rows), CELLS, replace=False)]
    x, y = images()
    ours: dict[str, list[float]] = {name: [] for name in LEAST}
    for row in chosen:
        nodes = ("|" + node.strip("|") + "|" for node in row["net_str"].split("+"))
        point = nasbench201.from_arch_string("+".join(nodes))
        torch.manual_seed(0)
        network = nasbench201.build(point, (3, 32, 32), 10)
        assert score("params", network, x, y) / 1e6 == pytest.approx(float(row["params"]), abs=1e-9)
        for name, values in ours.items():
            values.append(score(name, network, x, y))
    for name, (theirs, least) in LEAST.items():
        found = spearmanr(ours[name], [float(row[theirs]) for row in chosen]).statistic
        print(f"{name}: {found:.3f}")
        assert found > least, f"{name}: {found:.3f}"

"""Parting labelled things so that every class is on both sides, in the proportions of the whole."""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]


def stratified_sample(y: Labels, count: int, rng: np.random.Generator, *, least: int = 1) -> Indices:
    """`count` random positions, as many of each class as its share says, at least `least` of each.

    In random order. Raises ValueError where that cannot be.
    """
    _, codes, sizes = np.unique(y, return_inverse=True, return_counts=True)
    return _draw(codes, _quotas(sizes, count, np.full(len(sizes), least), sizes), rng)


def stratified_split(
    y: Labels, share: float, rng: np.random.Generator, *, keep: int = 1
) -> tuple[Indices, Indices]:
    """(the rest, about `share` of it): two random orders of positions, every class on both sides.

    At least `keep` of each class stay in the rest. Raises ValueError if a class has no more than that.
    """
    _, codes, sizes = np.unique(y, return_inverse=True, return_counts=True)
    least = len(sizes)
    count = int(np.clip(round(share * len(y)), least, max(least, len(y) - keep * least)))
    taken = _draw(codes, _quotas(sizes, count, np.ones(len(sizes), dtype=np.int64), sizes - keep), rng)
    return rng.permutation(np.setdiff1d(np.arange(len(y)), taken)), taken


def stratified_folds(y: Labels, k: int, rng: np.random.Generator) -> list[Indices]:
    """k disjoint random parts that are everything together; sizes, and those of each class, differ by one at most."""
    shuffled = rng.permutation(len(y))
    # Dealt like cards, class after class and on from where the last class ended, so that no fold gets all the odd ones.
    order = shuffled[np.argsort(y[shuffled], kind="stable")]
    return [rng.permutation(order[start::k]) for start in range(k)]


def _draw(codes: Labels, quotas: npt.NDArray[np.int64], rng: np.random.Generator) -> Indices:
    parts = [
        rng.choice(np.flatnonzero(codes == code), quota, replace=False) for code, quota in enumerate(quotas)
    ]
    return rng.permutation(np.concatenate(parts)) if parts else np.arange(0)


def _quotas(
    sizes: npt.NDArray[np.int64], count: int, low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """How many of each class make `count`, nearest to proportional within the bounds (largest remainders first)."""
    if (low > high).any() or not low.sum() <= count <= high.sum():
        raise ValueError(
            f"cannot take {count} of classes of {sizes.tolist()} with at least {low.tolist()}"
            f" and at most {high.tolist()} of each"
        )
    ideal = sizes * (count / sizes.sum())
    quotas: npt.NDArray[np.int64] = np.clip(np.floor(ideal).astype(np.int64), low, high)
    while (missing := count - quotas.sum()) != 0:
        step = int(np.sign(missing))
        free = quotas < high if step > 0 else quotas > low
        quotas[np.argmax(np.where(free, step * (ideal - quotas), -np.inf))] += step
    return quotas

"""How far a dataset has drifted from the pool: its distributions, and one number for each.

Enters: surveys. Leaves: counts in bins or categories, and the Jensen-Shannon divergence from the pool in bits,

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2,   0 for equal distributions, 1 for disjoint ones

beside its noise: what 95 of 100 random parts of the pool of the same size stay below, measured on as many rows.
"""

import itertools
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.report.rows import Survey

_BINS = 24
_CATEGORIES = 8  # beside the rest
_SAMPLES = 200
_NOISE = 0.95
_MOST_ROWS = 999_999_999  # that NumPy draws from; more are as good as endless


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One property of rows, in every dataset."""

    name: str
    unit: str
    labels: list[str]
    """of the bins or categories, in order"""
    edges: list[float] | None
    """of the bins, one more than there are; None for categories"""
    counts: dict[str, np.ndarray]
    """rows in each bin, by dataset; the first is what drift is measured from"""
    noise: dict[str, float]
    """what a random sample of as many rows would drift, by dataset, bits"""

    @property
    def varies(self) -> bool:
        """Whether there is anything to tell apart."""
        return len(self.labels) > 1

    def shares(self, dataset: str) -> np.ndarray:
        """The share of a dataset's rows in each bin."""
        counts = self.counts[dataset]
        return counts / max(counts.sum(), 1)

    def drift(self, dataset: str) -> float:
        """The divergence of a dataset from the first one, bits."""
        return divergence(next(iter(self.counts.values())), self.counts[dataset])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Which rows were counted, as far as chance is concerned."""

    unseen: int = 0
    """rows of the first dataset that were not counted"""
    shared: Mapping[str, int] | None = None
    """of the rows counted of each dataset, how many were counted in the first one too; None if all were"""


ALL_SHARED = Samples()


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """The Jensen-Shannon divergence of two sets of counts, bits; 0 if either is empty."""
    if not one.sum() or not other.sum():
        return 0.0
    p, q = one / one.sum(), other / other.sum()
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def measures(surveys: Mapping[str, Survey], scores: Mapping[str, np.ndarray]) -> list[Measure]:
    """Measures drift from the first dataset.

    Args:
      surveys: by dataset.
      scores: of the reference, by dataset, of rows that were sampled of the first; empty where there are none.
    """
    samples = _samples(surveys)
    found = []
    if scores:
        found.append(_binned("reference score", "cosine of picture and text", scores, whole=False))
    lengths = {name: np.array(s.characters, float) for name, s in surveys.items()}
    found.append(_binned("caption length", "characters", lengths, whole=True, samples=samples))
    found.append(_doubling("picture size", "pixels a side", {name: s.sides for name, s in surveys.items()}, samples))
    found.append(_categories("language", "language", {name: s.languages for name, s in surveys.items()}, samples))
    found.append(_categories("source", "source", {name: s.sources for name, s in surveys.items()}, samples))
    return found


def _samples(surveys: Mapping[str, Survey]) -> Samples:
    first = next(iter(surveys.values()))
    uids = set(first.uids)
    shared = {name: len(uids.intersection(survey.uids)) for name, survey in surveys.items()}
    return Samples(unseen=first.rows - first.seen, shared=shared)


def _binned(
    name: str, unit: str, values: Mapping[str, np.ndarray], whole: bool, samples: Samples = ALL_SHARED
) -> Measure:
    """Bins of equal width between the first dataset's outermost values, but for one in two hundred on either side."""
    base = next(iter(values.values()))
    low, high = np.quantile(base, (0.005, 0.995)) if len(base) else (0.0, 1.0)
    width = _round_up((high - low) / _BINS, whole)
    first = np.floor(low / width) * width
    edges = first + width * np.arange(int(np.ceil((high - first) / width)) + 1)
    if len(edges) < 2:
        edges = np.array([first, first + width])
    counts = {dataset: _histogram(found, edges) for dataset, found in values.items()}
    digits = 0 if whole else 3
    labels = [f"{a:.{digits}f} to {b:.{digits}f}" for a, b in itertools.pairwise(edges)]
    return _measure(name, unit, labels, [round(float(edge), 6) for edge in edges], counts, samples)


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts; what lies outside goes into the outermost bins."""
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    return np.bincount(places, minlength=len(edges) - 1)


def _round_up(width: float, whole: bool) -> float:
    """The next of 1, 2, 2.5, 5, 10, … times a power of ten."""
    width = max(width, 1.0 if whole else 1e-3)
    power = 10.0 ** np.floor(np.log10(width))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    return float(next(step * power for step in steps if step * power >= width * (1 - 1e-9)))


def _doubling(name: str, unit: str, values: Mapping[str, Sequence[float]], samples: Samples) -> Measure:
    """Categories that double: 32 to 63, 64 to 127, …"""
    powers = {
        dataset: np.floor(np.log2(np.maximum(np.array(v, float), 1))).astype(int) for dataset, v in values.items()
    }
    every = np.concatenate(list(powers.values())) if powers else np.zeros(0, int)
    first, last = (int(every.min()), int(every.max())) if len(every) else (0, 0)
    counts = {dataset: np.bincount(found - first, minlength=last - first + 1) for dataset, found in powers.items()}
    labels = [f"{2**power} to {2 ** (power + 1) - 1}" for power in range(first, last + 1)]
    return _measure(name, unit, labels, None, counts, samples)


def _categories(name: str, unit: str, counters: Mapping[str, Counter[str]], samples: Samples) -> Measure:
    """The commonest values of all datasets, by their largest share in any of them; the rest is one category."""
    largest: dict[str, float] = {}
    for counter in counters.values():
        total = max(counter.total(), 1)
        for value, count in counter.items():
            largest[value] = max(largest.get(value, 0.0), count / total)
    shown = sorted(largest, key=lambda value: (-largest[value], value))
    shown, rest = shown[:_CATEGORIES], shown[_CATEGORIES:]
    counts = {
        dataset: np.array([counter[value] for value in shown] + [sum(counter[v] for v in rest)] * bool(rest))
        for dataset, counter in counters.items()
    }
    return _measure(name, unit, shown + [_rest(largest)] * bool(rest), None, counts, samples)


def _rest(values: Container[str]) -> str:
    """What the rest is called: a name that none of the values has, whatever a dataset calls its own."""
    label = "all others"
    while label in values:
        label = f"all {label}"
    return label


def _measure(
    name: str, unit: str, labels: list[str], edges: list[float] | None, counts: dict[str, np.ndarray], samples: Samples
) -> Measure:
    base, noise = next(iter(counts.values())), {}
    for dataset, found in list(counts.items())[1:]:
        rows = int(found.sum())
        noise[dataset] = _noise(base, rows, rows if samples.shared is None else samples.shared[dataset], samples.unseen)
    return Measure(name=name, unit=unit, labels=labels, edges=edges, counts=counts, noise=noise)


def _noise(base: np.ndarray, rows: int, shared: int, unseen: int) -> float:
    """What drifts stay below in 95 of 100 cases if a dataset is a random part of the pool.

    Both sides are counted again and again, from a pool as large as the real one in which the shares are those of the
    base. First the base: as many rows as were counted, without replacement. Then the dataset: `shared` of these rows,
    and the rest of its rows from all others. So of a pool that was counted whole, the base is always itself, the
    dataset comes out of it without replacement, and a dataset that is the whole pool has no noise. Of a pool that was
    counted in part, both sides have noise; the less of it, the more rows they have in common, as they do where both are
    in the same order. A dataset that is no part of the pool is taken for a part of a larger one.

    Args:
      base: the pool's counts.
      rows: counted of the dataset.
      shared: of these, how many are in the base too.
      unseen: rows of the pool that were not counted.
    """
    seen, shared = int(base.sum()), min(rows, shared)
    if not seen or not rows:
        return 0.0
    rng = np.random.default_rng(0)
    pool = _enlarge(base, max(seen, min(seen + max(unseen, rows - shared), _MOST_ROWS)))
    drifts = []
    for first in rng.multivariate_hypergeometric(pool, seen, size=_SAMPLES, method="marginals"):
        inside = rng.multivariate_hypergeometric(first, shared, method="marginals")
        outside = rng.multivariate_hypergeometric(pool - first, rows - shared, method="marginals")
        drifts.append(divergence(first, inside + outside))
    return float(np.quantile(drifts, _NOISE))


def _enlarge(counts: np.ndarray, total: int) -> np.ndarray:
    """Whole counts in the same proportions, as nearly as can be, that add up to the total."""
    scaled, rest = np.divmod(counts.astype(np.int64) * total, int(counts.sum()))
    scaled[np.argsort(-rest, kind="stable")[: total - int(scaled.sum())]] += 1
    return scaled


def _entropy(p: np.ndarray) -> float:
    present = p[p > 0]
    return float(-(present * np.log2(present)).sum())

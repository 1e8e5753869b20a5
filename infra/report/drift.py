"""How far a dataset has drifted from the pool: its distributions, and one number for each.

Enters: surveys. Leaves: counts in bins or categories, and the Jensen-Shannon divergence from the pool in bits,

    JS(p, q) = H((p + q) / 2) − (H(p) + H(q)) / 2,   0 for equal distributions, 1 for disjoint ones

beside its noise: what 95 of 100 random samples of the pool of the same size stay below.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.report.rows import Survey

_BINS = 24
_CATEGORIES = 8  # beside "other"
_SAMPLES = 200
_NOISE = 0.95
OTHER = "other"


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
      scores: of the reference, by dataset; empty where there are none.
    """
    found = []
    if scores:
        found.append(_binned("reference score", "cosine of picture and text", scores, whole=False))
    lengths = {name: np.array(s.characters, float) for name, s in surveys.items()}
    found.append(_binned("caption length", "characters", lengths, whole=True))
    found.append(_doubling("picture size", "pixels a side", {name: s.sides for name, s in surveys.items()}))
    found.append(_categories("language", "language", {name: s.languages for name, s in surveys.items()}))
    found.append(_categories("source", "source", {name: s.sources for name, s in surveys.items()}))
    return found


def _binned(name: str, unit: str, values: Mapping[str, np.ndarray], whole: bool) -> Measure:
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
    return _measure(name, unit, labels, [round(float(edge), 6) for edge in edges], counts)


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


def _doubling(name: str, unit: str, values: Mapping[str, Sequence[float]]) -> Measure:
    """Categories that double: 32 to 63, 64 to 127, …"""
    powers = {
        dataset: np.floor(np.log2(np.maximum(np.array(v, float), 1))).astype(int) for dataset, v in values.items()
    }
    every = np.concatenate(list(powers.values())) if powers else np.zeros(0, int)
    first, last = (int(every.min()), int(every.max())) if len(every) else (0, 0)
    counts = {dataset: np.bincount(found - first, minlength=last - first + 1) for dataset, found in powers.items()}
    labels = [f"{2**power} to {2 ** (power + 1) - 1}" for power in range(first, last + 1)]
    return _measure(name, unit, labels, None, counts)


def _categories(name: str, unit: str, counters: Mapping[str, Counter[str]]) -> Measure:
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
    return _measure(name, unit, shown + [OTHER] * bool(rest), None, counts)


def _measure(
    name: str, unit: str, labels: list[str], edges: list[float] | None, counts: dict[str, np.ndarray]
) -> Measure:
    base = next(iter(counts.values()))
    noise = {dataset: _noise(base, int(found.sum())) for dataset, found in list(counts.items())[1:]}
    return Measure(name=name, unit=unit, labels=labels, edges=edges, counts=counts, noise=noise)


def _noise(base: np.ndarray, rows: int) -> float:
    """What 95 of 100 samples of so many rows, drawn from the base without replacement, stay below."""
    rng = np.random.default_rng(0)
    rows = min(rows, int(base.sum()))
    drawn = rng.multivariate_hypergeometric(base, rows, size=_SAMPLES, method="marginals")
    return float(np.quantile([divergence(base, sample) for sample in drawn], _NOISE))


def _entropy(p: np.ndarray) -> float:
    present = p[p > 0]
    return float(-(present * np.log2(present)).sum())

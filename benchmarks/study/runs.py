"""What the study can run, as data: references, learners, and models trained on what a learner picked.

A run names everything that decides its result, the runs that it needs included. So equal runs are one run wherever they
are asked for, and a stored result is known to be of this very run.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.study import corpora, variants
from schemas.identity import canonical_json
from trainer import presets
from trainer.selection import Criterion, SelectionConfig

# Small enough for hundreds of runs on two cores. Patches of 16 pixels give 16 tokens, coarse ones of 32 give 4.
TOWERS = dataclasses.replace(presets.get("nano"), vocabulary=0)  # the corpus's tokenizer decides
COARSE_PATCH = 32
# The best for the uniform learner under noise, on a seed of its own (docs/results.md).
LEARNING_RATE = {"openmoji": 1e-3, "flickr8k": 1e-3}
REFERENCE_LEARNING_RATE = 2e-3
WARMUP_STEPS = 20
WEIGHT_DECAY = 1e-4
CLIP_NORM = 1.0
BLOCK = 16  # rows that are read together
# Steps of a uniform learner on a corpus. Every other learner has as many operations, and so fewer steps, unless it says
# otherwise.
UNIFORM_STEPS = {"openmoji": 1000, "flickr8k": 1000}
BATCH_SIZE = {"openmoji": 64, "flickr8k": 128}
DOWNSTREAM_STEPS = {"openmoji": 400, "flickr8k": 600}
REFERENCE_STEPS = 600
REFERENCE_BATCH = 128

Subset = Literal["curated", "control", "top_reference"]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model trained on clean pictures of the seed, or, bootstrapped, on the curated set of an earlier learner."""

    corpus: str
    seed: int
    pictures: int = 1000  # of the seed; at most all
    steps: int = REFERENCE_STEPS
    augment: bool = True
    curated_by: "Learner | None" = None
    budget: float = 0.25  # of the pool, when curated

    @property
    def noise(self) -> float:
        """Of the pool that it was curated from; the seed has none."""
        return 0.0 if self.curated_by is None else self.curated_by.noise

    @property
    def needs(self) -> "tuple[Run, ...]":
        """The runs whose artifacts this one reads."""
        return () if self.curated_by is None else (self.curated_by,)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """A model trained on the pool: on all of it alike (`uniform`), or on sub-batches picked by a criterion."""

    corpus: str
    noise: float  # share of mismatched captions
    seed: int
    criterion: Criterion = "learnability"
    filter_ratio: float = 0.8
    chunks: int = 16
    joint: bool = True
    gain: float = 4.0
    flexi: bool = False
    batch_size: int = 0  # 0: the corpus's own
    learning_rate: float = 0.0  # 0: the corpus's own
    as_many_steps: bool = False  # as the uniform learner, and its schedule; else as many operations
    variant: str = ""  # of the draw: one of benchmarks.study.variants, or the product's own
    reference: Reference | None = None  # of the same seed, on all clean pictures, if not given

    def __post_init__(self) -> None:
        variants.check(self.variant)

    @property
    def selection(self) -> SelectionConfig:
        """How it picks."""
        return SelectionConfig(
            filter_ratio=self.filter_ratio, chunks=self.chunks, criterion=self.criterion, joint=self.joint,
            gain=self.gain,
        )  # fmt: skip

    @property
    def subbatch(self) -> int:
        """b, the examples of an update."""
        return self.batch_size or BATCH_SIZE[self.corpus]

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or LEARNING_RATE[self.corpus]

    @property
    def superbatch(self) -> int:
        """B, the candidates of a step; a uniform learner takes what comes."""
        return self.subbatch if self.criterion == "uniform" else round(self.subbatch / (1 - self.filter_ratio))

    @property
    def guide(self) -> Reference:
        """The reference that scores for it."""
        return self.reference or Reference(corpus=self.corpus, seed=self.seed)

    @property
    def needs(self) -> "tuple[Run, ...]":
        """The runs whose artifacts this one reads."""
        return () if self.criterion == "uniform" else (self.guide,)


@dataclass(frozen=True, kw_only=True)
class _OfLearner:
    """What follows from a finished learner, on its pool."""

    learner: Learner

    @property
    def corpus(self) -> str:
        """Of the pool."""
        return self.learner.corpus

    @property
    def noise(self) -> float:
        """Of the pool."""
        return self.learner.noise

    @property
    def needs(self) -> "tuple[Run, ...]":
        """The runs whose artifacts this one reads."""
        return (self.learner.guide, self.learner)


@dataclass(frozen=True, kw_only=True)
class Downstream(_OfLearner):
    """A model trained alike on every example of a part of the pool, as users train on a published set.

    Every subset has as many rows as the curated one, so all of them need the learner.
    """

    subset: Subset
    budget: float  # of the pool's rows
    seed: int


@dataclass(frozen=True, kw_only=True)
class Draws(_OfLearner):
    """Sub-batches that a finished learner would pick, drawn in several ways and compared (`benchmarks.study.gibbs`)."""

    @property
    def seed(self) -> int:
        """The learner's."""
        return self.learner.seed


Run = Reference | Learner | Downstream | Draws


def identity(run: Run) -> dict[str, Any]:
    """Everything that decides a run's result, as plain JSON."""

    def plain(value: Any) -> Any:
        return identity(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]

    return {"kind": type(run).__name__.lower()} | {
        f.name: plain(getattr(run, f.name)) for f in dataclasses.fields(run)
    }  # fmt: skip


def label(run: Run) -> str:
    """What people read: the kind, and everything that is not at its default."""
    said = [type(run).__name__.lower()]
    for f in dataclasses.fields(run):
        value = getattr(run, f.name)
        if value != f.default:
            said.append(f"{f.name}={f'({label(value)})' if dataclasses.is_dataclass(value) else value}")  # type: ignore[arg-type]
    return " ".join(said)


def name_of(run: Run) -> str:
    """A name for files: of its kind, and of a digest of everything that decides it, the recipe included."""
    digest = hashlib.sha256(canonical_json({"run": identity(run), "recipe": _recipe(run.corpus)})).hexdigest()
    return f"{type(run).__name__.lower()}-{run.corpus}-{digest[:12]}"


def artifact(scratch: Path, run: Run) -> Path:
    """Where a run's parameters and counts lie."""
    return scratch / f"{name_of(run)}.npz"


def _recipe(corpus: str) -> dict[str, Any]:
    """What is the same for all runs of a corpus: with another recipe they are other runs."""
    return {
        "towers": dataclasses.asdict(TOWERS), "coarse": COARSE_PATCH, "warmup": WARMUP_STEPS,
        "uniform": UNIFORM_STEPS[corpus], "batch": BATCH_SIZE[corpus], "downstream": DOWNSTREAM_STEPS[corpus],
        "rate": LEARNING_RATE[corpus], "reference": REFERENCE_BATCH, "reference_rate": REFERENCE_LEARNING_RATE,
        "weight_decay": WEIGHT_DECAY, "clip_norm": CLIP_NORM, "block": BLOCK, "pixels": corpora.PIXELS,
        "length": corpora.TEXT_LENGTH, "vocabulary": corpora.VOCABULARY[corpus], "order": corpora.ORDER,
        "captions": corpora.EVALUATED_CAPTIONS,
    }  # fmt: skip

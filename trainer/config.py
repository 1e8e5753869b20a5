"""The settings of `superbatch train` and `superbatch distill`: flat, frozen, checked when constructed.

Every field that decides what is learned is declared with `content` and enters the artifact's fingerprint; paths,
names, worker counts and logging do not.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from schemas import manifest as manifests
from schemas import storage
from schemas.errors import ConfigError
from schemas.job_config import content
from trainer import presets
from trainer.selection import Criterion, Loss, SelectionConfig

Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """What an update depends on beside its data: the static part of a jitted step. Runs that agree share a program."""

    loss: Loss
    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How a step's candidates are embedded by the learner; static like `Optimisation`."""

    batch: int = 128  # candidates at a time, on each device
    patch: int | None = None  # pixels a side, of the image that is scored; None is the preset's own
    coarse_patch: int | None = None  # Flexi-JEST: of the images that half of the sub-batch is learned from


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train two towers on every example of a corpus alike: a reference, or a downstream model."""

    corpus: str
    """directory of the corpus to train on"""
    workdir: str
    """directory for checkpoints, metrics and the finished model"""
    name: str = "model"
    """name recorded in the manifest"""
    version: str = "1.0.0"
    """version recorded in the manifest"""
    preset: str = content("tiny")
    """size of the towers: nano, tiny, S/16, B/16, L/16, So400m/14"""
    resolution: int | None = content(None)
    """pixels a side; the preset's own if not given"""
    tokenizer: str | None = None
    """SentencePiece model file; if not given, distill takes the embeddings' and train makes one from the corpus"""
    vocabulary: int | None = content(None)
    """token ids of a tokenizer trained here; the preset's own if not given"""
    loss: Loss = content("sigmoid")
    """contrastive loss"""
    steps: int = content(1000)
    """parameter updates"""
    batch_size: int = content(128)
    """examples an update learns from"""
    block_size: int = content(32)
    """consecutive rows read at once; an epoch is a permutation of blocks"""
    learning_rate: float = content(1e-3)
    """peak of a linear warm-up and cosine decay"""
    warmup_steps: int = content(50)
    """updates until the peak"""
    weight_decay: float = content(1e-4)
    """decoupled weight decay of all matrices, relative to the learning rate"""
    clip_norm: float = content(1.0)
    """largest global norm of a gradient"""
    weighted: bool = content(False)
    """count each example by its selection/weight, as if it came that often; of a set curated with --policy=weighted"""
    augment: bool = content(False)
    """mirror and shift pictures at random; helps a reference that sees few of them for many epochs"""
    seed: int = content(0)
    """decides initial parameters, order of the data and selection noise"""
    checkpoint_every: int = 1000
    """steps between checkpoints; the last step is always kept"""
    log_every: int = 20
    """steps between lines of metrics.jsonl"""
    workers: int = 2
    """threads that read and decode, in each process that does"""
    worker_processes: int = 0
    """processes that read and decode; 0 does it in this one. Each holds up to two super-batches"""
    dtype: Dtype = content("auto")
    """arithmetic of the towers; auto is bfloat16 on accelerators and float32 on CPUs"""
    shard_parameters: bool = False
    """with several devices: split parameters and moments over them, instead of a copy on each"""
    distributed: bool = False
    """this is one of several processes of the run: they find each other as jax.distributed does"""
    exit_code_if_stopped: int = 0
    """exit code when SIGTERM stopped the run and it is saved; a scheduler that takes 0 for finished needs another"""
    evaluation: str | None = None
    """corpus on which retrieval is measured during training"""
    evaluation_labelled: str | None = None
    """corpus on whose images zero-shot classification is measured during training; its texts are names of classes"""
    evaluation_shots_from: str | None = None
    """labelled corpus of which 10 images a class teach a linear classifier of those images"""
    evaluate_every: int = 1000
    """steps between evaluations, if there is a corpus for them; the last step is always evaluated"""
    profile: bool = False
    """write a trace of a few steps to WORKDIR/profile, for TensorBoard's profiler"""

    def __post_init__(self) -> None:
        presets.get(self.preset)
        counts = ("steps", "batch_size", "block_size", "checkpoint_every", "log_every", "workers", "evaluate_every")
        for field in counts:
            value = getattr(self, field)
            if value < 1:
                raise ConfigError(f"{field} is {value}; it must be at least 1")
        if self.worker_processes < 0:
            raise ConfigError(f"worker_processes is {self.worker_processes}; it must be at least 0")
        if not 0 <= self.exit_code_if_stopped < 128:
            raise ConfigError(
                f"exit_code_if_stopped is {self.exit_code_if_stopped}; it must be 0 to 127: shells use those above for "
                "signals"
            )
        if self.dtype not in get_args(Dtype):
            raise ConfigError(f"dtype is {self.dtype!r}; it must be one of {', '.join(get_args(Dtype))}")
        for field in ("resolution", "vocabulary"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"{field} is {value}; it must be at least 1, or left out for the preset's own")
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"seed is {self.seed}; it must lie in [0, 2³²)")
        for field in ("learning_rate", "clip_norm"):
            if not (math.isfinite(getattr(self, field)) and getattr(self, field) > 0):
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be positive and finite")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ConfigError(f"weight_decay is {self.weight_decay}; it must be finite and not negative")
        manifests.check_version(self.version)
        if self.evaluation_shots_from is not None and self.evaluation_labelled is None:
            raise ConfigError(
                f"evaluation_shots_from is {self.evaluation_shots_from!r}; it needs --evaluation_labelled, the images "
                "to classify"
            )
        if self.profile and storage.is_remote(self.workdir):
            raise ConfigError(f"workdir is {self.workdir}, and --profile writes its trace to a local one: leave it out")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}; it must lie between 0 and steps ({self.steps})")
        if self.superbatch_size % self.block_size:
            raise ConfigError(
                f"block_size is {self.block_size} and {self.superbatch_size} candidates a step are read in whole "
                f"blocks: choose a divisor of {self.superbatch_size}"
            )

    @property
    def superbatch_size(self) -> int:
        """B, the candidates of a step; without selection, the batch itself."""
        return self.batch_size

    @property
    def pixels(self) -> int:
        """Pixels a side of the images that are learned from."""
        return self.resolution or presets.get(self.preset).resolution

    @property
    def optimisation(self) -> Optimisation:
        """The settings of an update."""
        return Optimisation(
            loss=self.loss,
            steps=self.steps,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
        )


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """Train a learner on jointly learnable sub-batches (JEST) and log every pick.

    `batch_size` is the sub-batch b; the super-batch has b / (1 − filter_ratio) candidates.
    """

    embeddings: str
    """directory of the reference's embeddings of this corpus"""
    reference: str | None = None
    """the reference's workdir; if given, the embeddings must be exactly its own"""
    filter_ratio: float = content(0.8)
    """share of the super-batch that is passed over"""
    chunks: int = content(16)
    """examples are drawn in this many conditional steps"""
    criterion: Criterion = content("learnability")
    """what makes a candidate worth picking"""
    joint: bool = content(True)
    """condition every chunk on those before; --no-joint scores each example alone"""
    gain: float = content(1.0)
    """inverse temperature of the draw, 1 in the paper; 0.25 drew clearly worse, 4 perhaps better (docs/results.md)"""
    flexi: bool = content(False)
    """Flexi-JEST: score in patches of twice the size; learn half of the sub-batch so, half in the preset's own"""
    scoring_resolution: int | None = content(None)
    """pixels a side at which candidates are decoded and scored; picks are then decoded anew. As trained if not given"""
    scoring_batch: int = 128
    """candidates that the learner embeds at a time, on each device"""
    steps_per_part: int = content(100)
    """steps in one file of selections"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weighted:
            raise ConfigError("weighted is for `train`: distill picks by scores, and --weighted has no part in them")
        if self.augment:
            raise ConfigError(
                "augment is for `train`: distill scores pictures as its reference embedded them, so leave it out"
            )
        if self.selection.subbatch_size(self.superbatch_size) != self.batch_size:
            raise ConfigError(
                f"batch_size {self.batch_size} and filter_ratio {self.filter_ratio} do not fit: round(B(1 − f)) of "
                f"B = {self.superbatch_size} candidates is {self.selection.subbatch_size(self.superbatch_size)}"
            )
        for field in ("scoring_batch", "steps_per_part"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)}; it must be at least 1")
        patch = presets.get(self.preset).patch_size * (2 if self.flexi else 1)
        if self.flexi and self.pixels % patch:
            raise ConfigError(
                f"flexi scores in patches of {patch} pixels, and resolution {self.pixels} is not a multiple of that: "
                f"choose {max(1, round(self.pixels / patch)) * patch}, or --no-flexi"
            )
        if self.flexi and self.batch_size < 2:
            raise ConfigError(f"flexi halves the sub-batch, and batch_size is {self.batch_size}; it must be at least 2")
        if self.scoring_resolution is not None:
            possible = [side for side in range(1, self.pixels + 1) if patch * side % self.pixels == 0]
            if self.scoring_resolution not in possible:
                raise ConfigError(
                    f"scoring_resolution is {self.scoring_resolution}; an image of {self.pixels} pixels in patches of "
                    f"{patch} can be scored at {', '.join(map(str, possible))}, in as many patches"
                )

    @property
    def superbatch_size(self) -> int:
        """B = round(b / (1 − f))."""
        return round(self.batch_size / (1 - self.selection.filter_ratio))

    @property
    def scored_pixels(self) -> int:
        """Pixels a side of the images that are scored."""
        return self.scoring_resolution or self.pixels

    @property
    def scoring(self) -> Scoring:
        """How candidates are scored: a smaller image in as many patches, so in smaller ones."""
        fine = presets.get(self.preset).patch_size
        patch = fine * (2 if self.flexi else 1)
        scored = patch * self.scored_pixels // self.pixels
        return Scoring(
            batch=self.scoring_batch,
            patch=None if scored == fine else scored,
            coarse_patch=patch if self.flexi else None,
        )

    @property
    def selection(self) -> SelectionConfig:
        """The draw's own settings, checked."""
        return SelectionConfig(
            filter_ratio=self.filter_ratio,
            chunks=self.chunks,
            criterion=self.criterion,
            loss=self.loss,
            joint=self.joint,
            gain=self.gain,
        )

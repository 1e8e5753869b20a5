"""What a plan knows: measured on this machine by a rehearsal, and kept with the plan that was made of it.

Every duration is linear in what it is of: a job takes `cold` seconds the first time in a process (imports, compiling),
`fixed` every time, and `per_row` for each row.
"""

from dataclasses import dataclass, field

from infra.plan.sample import Raw


@dataclass(frozen=True, kw_only=True)
class Job:
    """A Beam job, or an evaluation: seconds."""

    fixed: float
    per_row: float
    cold: float = 0.0

    def seconds(self, rows: float, *, again: bool) -> float:
        """How long it takes; `again`, if one like it has run in this process."""
        return self.fixed + self.per_row * rows + (0 if again else self.cold)


@dataclass(frozen=True, kw_only=True)
class Curate(Job):
    """`curate`: `per_row` is of a row written, to whichever of the datasets."""

    per_keyed: float  # of a row of the corpus, for one control: its embedding read, its key made


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of `train` or `distill`: seconds."""

    fixed: float  # a checkpoint, an evaluation if there is one, and the manifest at the end are in it
    step: float
    save: float
    evaluation: float
    cold: float = 0.0  # of the first run with these programs: compiling them
    tokenizer_per_text: float = 0.0

    def seconds(self, steps: int, *, texts: float, saves: int, evaluations: int, again: bool) -> float:
        """How long a run takes.

        Args:
          steps: of the run.
          texts: that a tokenizer is trained on.
          saves: checkpoints, with the last.
          evaluations: with the last.
          again: whether one like it has run in this process.
        """
        more = max(saves - 1, 0) * self.save + max(evaluations - 1, 0) * self.evaluation
        tokenizer = self.tokenizer_per_text * texts
        return self.fixed + self.step * steps + tokenizer + more + (0 if again else self.cold)


@dataclass(frozen=True, kw_only=True)
class Choosing:
    """The step of `curate` that one worker does alone: seconds for each of these rows."""

    per_pick: float  # ranked from the log
    per_keyed: float  # ranked for a control, by keys
    per_taken: float  # taken into the dataset and laid out in shards
    pick_bytes: float  # of the log, as stored


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that is measured."""

    machine: str
    cores: int
    load: float  # processes that wanted to run beside this one when it began
    sampled: int  # rows of the pool that were rehearsed
    rehearsed_here: bool  # the round's own models; else stand-ins, whose training says nothing
    seconds: float  # that the rehearsal took
    raw: dict[str, Raw] = field(default_factory=dict)
    kept: dict[str, float] = field(default_factory=dict)  # share of the raw rows, by corpus
    rejected: dict[str, float] = field(default_factory=dict)
    row_bytes: dict[str, float] = field(default_factory=dict)  # stored
    key_bytes: float  # of a row, each time that it is shuffled
    decode_seconds: float  # of an image, one thread, at the round's resolution
    ingest: Job
    embed: Job
    curate: Curate
    evaluate: Job | None
    training: dict[str, Training] = field(default_factory=dict)
    choosing: Choosing

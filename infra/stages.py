"""The stages of a round as data: which command makes what, with which settings, after which others.

    corpora: ingest seed, pool, evaluation
    round k: train reference → embed → distill → curate (→ train, evaluate downstream → gate → publish)

Enters: what a round's file says. Leaves: its stages, in an order in which each comes after its inputs. `superbatch
round` runs them one by one on this machine (`infra/round.py`), and Airflow makes a task of each (`infra/airflow/`).
Nothing is read or checked here: a value may as well be a placeholder that a scheduler fills in later. Only the standard
library is imported.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["beam", "trainer", "evaluate", "gate", "publish"]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What a round's file says."""

    name: str
    pool: str
    seed: str
    output: str
    evaluation: str | None = None
    version: str = "1.0.0"
    rounds: int = 1
    downstream_seeds: list[int] = field(default_factory=list)
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def directory(self, number: int) -> str:
        """The directory of round `number`, counted from 1: the output itself for the first."""
        return _root(self.output) if number == 1 else join(self.output, f"round-{number}")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One command of a round: what it reads and makes, and how."""

    id: str
    """unique, of letters, digits and _: a task's name elsewhere"""
    name: str
    """what people read"""
    kind: Kind
    """what runs it: a Beam runner, accelerators, one machine with a model, the scheduler itself, a Beam runner that may
    write where things are published"""
    job: str
    """the command: `superbatch JOB`; a gate is `infra.gate` and no command"""
    section: str
    """the section of the round's file that its settings come from, or would"""
    config: dict[str, Any]
    """the command's settings that are not its defaults, by the names of its flags; they are not checked yet"""
    inputs: tuple[str, ...]
    """ids of the stages whose outputs it reads, or whose verdict it waits for"""
    output: str
    """what is complete when it ends, a directory or a file; empty for a gate, which makes nothing"""


def graph(settings: Round) -> list[Stage]:
    """Lists the stages of all rounds, each after its inputs."""
    sources = {"seed": settings.seed, "pool": settings.pool}
    if settings.evaluation is not None:
        sources["evaluation"] = settings.evaluation
    stages = [_ingest(settings, role, source) for role, source in sources.items()]
    reference_corpus, made_by = _corpus(settings, "seed"), "ingest_seed"
    for number in range(1, settings.rounds + 1):
        stages += _one_round(settings, number, reference_corpus, made_by)
        reference_corpus, made_by = join(settings.directory(number), "curated"), _numbered(settings, "curate", number)
    if "publish" in settings.sections:
        stages += _publication(settings, settings.rounds)
    return stages


def join(root: str, *names: str) -> str:
    """Names something below a directory, here or in a bucket."""
    return "/".join([_root(root), *names])


def _root(directory: str) -> str:
    return directory.rstrip("/") or "/"


def _corpus(settings: Round, role: str) -> str:
    return join(settings.output, "corpora", role)


def _numbered(settings: Round, name: str, number: int) -> str:
    return f"{name}_{number}" if settings.rounds > 1 else name


def _ingest(settings: Round, role: str, source: str) -> Stage:
    output = _corpus(settings, role)
    config = _config(settings, "ingest", source=source, name=f"{settings.name}_{role}", output=output)
    return Stage(
        id=f"ingest_{role}", name=f"ingest {role}", kind="beam", job="ingest", section="ingest", config=config,
        inputs=(), output=output,
    )  # fmt: skip


def _one_round(settings: Round, number: int, reference_corpus: str, reference_corpus_by: str) -> list[Stage]:
    root, pool = settings.directory(number), _corpus(settings, "pool")
    reference, distilled = join(root, "workdirs", "reference"), join(root, "workdirs", "distill")
    embeddings, curated, control = join(root, "embeddings"), join(root, "curated"), join(root, "control")

    def stage(id_: str, title: str, kind: Kind, job: str, made: str, inputs: list[str], wired: dict[str, str]) -> Stage:
        return Stage(
            id=_numbered(settings, id_, number), name=f"{title}{_suffix(settings, number)}", kind=kind, job=job,
            section=job, config=_config(settings, job, **wired), inputs=tuple(inputs), output=made,
        )  # fmt: skip

    train, embed, distill, curate = (
        _numbered(settings, name, number) for name in ("train_reference", "embed", "distill", "curate")
    )
    stages = [
        stage(
            "train_reference", "train reference", "trainer", "train", reference, [reference_corpus_by],
            {"corpus": reference_corpus, "workdir": reference, "name": f"{settings.name}_reference"},
        ),
        stage(
            "embed", "embed", "beam", "embed", embeddings, ["ingest_pool", train],
            {"corpus": pool, "reference": reference, "output": embeddings, "name": settings.name},
        ),
        stage(
            "distill", "distill", "trainer", "distill", distilled, ["ingest_pool", train, embed],
            {
                "corpus": pool, "embeddings": embeddings, "reference": reference, "workdir": distilled,
                "name": f"{settings.name}_distill",
            },
        ),
        stage(
            "curate", "curate", "beam", "curate", curated, ["ingest_pool", distill],
            {
                "corpus": pool, "selections": distilled, "output": curated, "control": control,
                "name": f"{settings.name}_curated",
            },
        ),
    ]  # fmt: skip
    for seed in settings.downstream_seeds:
        for label, corpus in (("curated", curated), ("control", join(control, "uniform"))):
            stages += _downstream(settings, number, label, corpus, seed, curate)
    return stages


def _downstream(settings: Round, number: int, label: str, corpus: str, seed: int, curate: str) -> list[Stage]:
    root, suffix = settings.directory(number), _suffix(settings, number)
    workdir, figures = join(root, "workdirs", f"downstream-{label}-{seed}"), _figures(settings, number, label, seed)
    train = Stage(
        id=_numbered(settings, f"train_{label}_{seed}", number), name=f"train on {label}, seed {seed}{suffix}",
        kind="trainer", job="train", section="downstream", inputs=(curate,), output=workdir,
        config=_config(
            settings, "downstream", corpus=corpus, workdir=workdir, seed=seed, name=f"{settings.name}_{label}_{seed}"
        ),
    )  # fmt: skip
    evaluate = Stage(
        id=_numbered(settings, f"evaluate_{label}_{seed}", number), name=f"evaluate {label}, seed {seed}{suffix}",
        kind="evaluate", job="evaluate", section="evaluate", inputs=("ingest_evaluation", train.id), output=figures,
        config={"checkpoint": workdir, "corpus": _corpus(settings, "evaluation"), "output": figures},
    )  # fmt: skip
    return [train, evaluate]


def _publication(settings: Round, number: int) -> list[Stage]:
    """The gate and what it guards, of the last round: the sets of all rounds have one name and version."""
    section = dict(settings.sections["publish"])
    metric = {"metric": section.pop("metric")} if "metric" in section else {}
    figures = {
        label: [_figures(settings, number, label, seed) for seed in settings.downstream_seeds]
        for label in ("curated", "control")
    }
    evaluations = [
        _numbered(settings, f"evaluate_{label}_{seed}", number)
        for seed in settings.downstream_seeds
        for label in ("curated", "control")
    ]
    curated = join(settings.directory(number), "curated")
    output = join(str(section.get("destination", "")), f"{settings.name}_curated", settings.version)
    return [
        Stage(
            id="gate", name="gate", kind="gate", job="gate", section="publish", config=figures | metric,
            inputs=tuple(evaluations), output="",
        ),
        Stage(
            id="publish", name="publish", kind="publish", job="publish", section="publish",
            config={"dataset": curated} | section, inputs=(_numbered(settings, "curate", number), "gate"),
            output=output,
        ),
    ]  # fmt: skip


def _figures(settings: Round, number: int, label: str, seed: int) -> str:
    return join(settings.directory(number), "evaluations", f"downstream-{label}-{seed}.json")


def _suffix(settings: Round, number: int) -> str:
    return f" (round {number})" if settings.rounds > 1 else ""


def _config(settings: Round, section: str, **wired: Any) -> dict[str, Any]:
    """A stage's settings: its section's, and those that the round decides."""
    return {"version": settings.version} | wired | settings.sections.get(section, {})

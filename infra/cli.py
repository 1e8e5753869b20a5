"""`superbatch <job>`: one console command for every stage.

Job configs are dataclasses that tyro turns into flags; Beam jobs pass on what they do not know to Beam. Each job's
code is imported only when it is asked for, so that `superbatch --help` is quick.
"""

import contextlib
import dataclasses
import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tyro

from beam_pipelines import console, flags
from schemas.errors import Stopped


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 1 for a failure told in one line, 2 for wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in _JOBS:
        print(f"superbatch: no command {name!r}; there are: {', '.join(_JOBS)}", file=sys.stderr)
        return 2
    return console.run_command(f"superbatch {name}", lambda: _JOBS[name][0](rest))


def _usage() -> str:
    width = max(map(len, _JOBS))
    lines = [f"  {name:<{width}}  {says}" for name, (_, says) in _JOBS.items()]
    return "\n".join(
        [
            "usage: superbatch <command> [flags]",
            "",
            "Curates image-text corpora by joint example selection (JEST), in batch jobs.",
            "",
            *lines,
            "",
            "superbatch <command> --help describes a command's flags.",
        ]
    )


def _parse(name: str, config: type, arguments: list[str]) -> Any:
    arguments = flags.spell_out(arguments, flags.of_config(config))
    return tyro.cli(config, prog=f"superbatch {name}", args=arguments, use_underscores=True)


def _beam_job(name: str, arguments: list[str]) -> int:
    with quiet_imports():
        module = importlib.import_module(f"beam_pipelines.{name}")
        from beam_pipelines import job
    return job.command(f"superbatch {name}", module, arguments)


def _ingest(arguments: list[str]) -> int:
    return _beam_job("ingest", arguments)


def _train(arguments: list[str]) -> int:
    return _trainer("train", "TrainConfig", arguments)


def _embed(arguments: list[str]) -> int:
    return _beam_job("embed", arguments)


def _distill(arguments: list[str]) -> int:
    return _trainer("distill", "DistillConfig", arguments)


def _curate(arguments: list[str]) -> int:
    return _beam_job("curate", arguments)


def _publish(arguments: list[str]) -> int:
    return _beam_job("publish", arguments)


def _evaluate(arguments: list[str]) -> int:
    from trainer import evaluate

    config = _parse("evaluate", evaluate.EvaluateConfig, arguments)
    figures = evaluate.run(config)
    if config.json:
        print(json.dumps(figures))
    else:
        corpora = " and ".join(filter(None, (config.corpus, config.labelled)))
        print(f"{config.checkpoint} on {corpora}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return 0


def _export(arguments: list[str]) -> int:
    return _beam_job("export", arguments)


def _verify(arguments: list[str]) -> int:
    from beam_pipelines import verify

    config = _parse("verify", verify.VerifyConfig, arguments)
    results = verify.run(config)
    sound = not any(result.findings for result in results)
    if config.json:
        print(json.dumps({"ok": sound, "artifacts": [dataclasses.asdict(result) for result in results]}))
        return 0 if sound else 1
    print(verify.table(results))
    return 0 if sound else 1


def _lineage(arguments: list[str]) -> int:
    from beam_pipelines import lineage

    print("\n".join(lineage.run(_parse("lineage", lineage.LineageConfig, arguments))))
    return 0


def _round(arguments: list[str]) -> int:
    with quiet_imports():
        from infra import round as rounds

    config = _parse("round", rounds.RoundConfig, arguments)
    print(rounds.as_json(rounds.read(config.config)) if config.print_stages else rounds.table(rounds.run(config)))
    return 0


def _plan(arguments: list[str]) -> int:
    with quiet_imports():
        from infra.plan import command

    print(command.run(_parse("plan", command.PlanConfig, arguments)))
    return 0


def _report(arguments: list[str]) -> int:
    with quiet_imports():
        from infra.report import command

    print(command.run(_parse("report", command.ReportConfig, arguments)))
    return 0


def _trainer(name: str, config_name: str, arguments: list[str]) -> int:
    from trainer import config as configs

    config = _parse(name, getattr(configs, config_name), arguments)
    from trainer import loop

    try:
        manifest = loop.run(config)
    except Stopped as stopped:
        print(f"superbatch {name}: {stopped}", file=sys.stderr)
        return config.exit_code_if_stopped
    learned = manifest.counts.kept
    print(f"model {config.workdir}: {config.steps} steps, {learned} examples, fingerprint {manifest.fingerprint[:12]}")
    return 0


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Imports Beam without its notices about optional dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# Every command: what runs it, and what `superbatch --help` says of it.
_JOBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "ingest": (_ingest, "raw pairs → corpus: checked, normalised, deduplicated, shuffled (Beam)"),
    "train": (_train, "corpus → model: uniform training of a reference or a downstream model"),
    "embed": (_embed, "corpus + reference → aligned embeddings (Beam)"),
    "distill": (_distill, "corpus + embeddings → selections and a learner: JEST training"),
    "curate": (_curate, "selections → curated dataset, and controls of the same size (Beam)"),
    "evaluate": (_evaluate, "retrieval, zero-shot and few-shot accuracy of a model on held-out corpora"),
    "export": (
        _export,
        "dataset or model → what other programs read: TFRecord, WebDataset, Parquet, uids (Beam); big_vision",
    ),
    "publish": (
        _publish,
        "dataset → an immutable version in a bucket or a folder, manifest last; moves aliases (Beam)",
    ),
    "verify": (_verify, "reopens an artifact: rows, hashes, uids, alignment, parents"),
    "lineage": (_lineage, "the tree of an artifact's parents, over rounds"),
    "plan": (_plan, "what a round will take before it runs: time, bytes, money; after it, plan against actual"),
    "report": (
        _report,
        "one HTML page for a round: what was kept and dropped, pictures, curves; or two rounds compared",
    ),
    "round": (_round, "whole rounds on this machine, from a TOML file; resumes where it stopped"),
}

if __name__ == "__main__":
    sys.exit(main())

"""`superbatch curate` by every policy and under quotas: the rows of an independent pandas computation from the log."""

import json

import numpy as np
import pandas as pd
import pytest

from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests
from schemas import records, selections, shards

BUDGET, BLOCK = 12, 8
ORDERS = {
    "visits": (["rate", "conditional", "uid"], [False, False, True]),
    "weighted": (["rate", "conditional", "uid"], [False, False, True]),
    "learnability": (["learnability", "uid"], [False, True]),
    "recent": (["last_step", "rate", "uid"], [False, False, True]),
}
# Of the pool's only file, by the first digit of the place in it: the pool has one language.
QUOTAS = {"captions.jsonl@3": 0.3, "captions.jsonl@4": 0.1, "*": 0.4}


def curate(miniature, output, *flags, budget=BUDGET):
    inputs = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill"]
    inputs.append(f"--output={output}/curated")
    return ["curate", *inputs, f"--budget={budget}", "--shards=2", *flags]


def rows_of(directory) -> list[records.Example]:
    reader = shards.open_dataset(str(directory), manifests.read(str(directory)))
    return [records.decode_example(record) for record in reader.read(range(len(reader)))]


@pytest.fixture(scope="module")
def by_pandas(miniature) -> pd.DataFrame:
    """Every row that was picked, with what the log says of it."""
    directory = f"{miniature}/workdirs/distill/selections"
    picks = selections.read_picks(directory).to_pandas().astype({"conditional": float})
    picks["learnability"] = picks["learner_nll"].astype(float) - picks["reference_nll"].astype(float)
    offers = np.zeros(96)
    for blocks in selections.read_superbatches(directory)["blocks"].to_pylist():
        for block in blocks:
            offers[block * BLOCK : (block + 1) * BLOCK] += 1
    found = picks.groupby(["row", "uid"], as_index=False).agg(
        visits=("step", "size"), first_step=("step", "min"), last_step=("step", "max"),
        conditional=("conditional", "mean"), learnability=("learnability", "mean"),
    )  # fmt: skip
    found["rate"] = found["visits"] / offers[found["row"]]
    source = {example.uid: example.source for example in rows_of(miniature / "corpora/pool")}
    found["source"] = found["uid"].map(source)
    assert len(found) > BUDGET
    return found


def within_quotas(ranked: pd.DataFrame) -> pd.DataFrame:
    """The first rows of a ranking whose groups have room."""
    group = ranked["source"].str[: len("captions.jsonl@3")].where(lambda found: found.isin(QUOTAS), "*")
    place = group.groupby(group).cumcount()
    return ranked[place < (group.map(QUOTAS) * BUDGET + 1e-9).astype(int)]


@pytest.mark.parametrize("quotas", [False, True], ids=["", "quotas"])
@pytest.mark.parametrize("policy", ORDERS)
def test_the_rows_are_those_that_pandas_takes(miniature, by_pandas, tmp_path, policy, quotas):
    ranked = by_pandas.sort_values(ORDERS[policy][0], ascending=ORDERS[policy][1])
    flags, budget = [f"--policy={policy}"], BUDGET
    if quotas:
        ranked, budget = within_quotas(ranked), 8  # 3 + 1 + 4 rows are all that there is room for
        flags.append("--quota_by=source")
        flags.append(f"--quotas={json.dumps({key: share * BUDGET / budget for key, share in QUOTAS.items()})}")
        assert len(ranked) == budget
    expected = ranked[:budget].set_index("uid")
    assert cli.main(curate(miniature, tmp_path, *flags, budget=budget)) == 0
    rows = rows_of(tmp_path / "curated")
    assert {row.uid for row in rows} == set(expected.index)
    for row in rows:
        theirs = expected.loc[row.uid]
        assert row.selection.visits == theirs["visits"]
        assert (row.selection.first_step, row.selection.last_step) == (theirs["first_step"], theirs["last_step"])
        assert row.selection.learnability == pytest.approx(theirs["learnability"], abs=1e-6)
        weight = theirs["rate"] / expected["rate"].mean() if policy == "weighted" else None
        assert row.selection.weight == (weight if weight is None else pytest.approx(weight))
    counts = manifests.read(str(tmp_path / "curated")).counts
    assert counts.read == 96
    assert counts.rejected["not_picked"] == 96 - len(by_pandas)
    assert ("over_quota" in counts.rejected) == quotas
    assert verify(str(tmp_path / "curated")).findings == []


def test_quotas_hold_for_controls_and_beside_what_is_alike(miniature, tmp_path):
    shut = tuple(f"captions.jsonl@{digit}" for digit in "345")
    flags = ["--quota_by=source", f"--quotas={json.dumps(dict.fromkeys(shut, 0))}", "--near_duplicates=0.9999999"]
    assert cli.main([*curate(miniature, tmp_path, *flags), f"--control={tmp_path}/control"]) == 0
    for name in ("curated", "control/uniform", "control/top_reference"):
        sources = [row.source for row in rows_of(tmp_path / name)]
        assert len(sources) == BUDGET
        assert not [source for source in sources if source.startswith(shut)]
        assert manifests.read(str(tmp_path / name)).counts.rejected["over_quota"] > 0


def test_quotas_that_leave_too_few_are_told_and_may_be_changed(miniature, tmp_path, capsys):
    assert cli.main(curate(miniature, tmp_path, "--quota_by=language", '--quotas={"en": 0.5}')) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"budget is {BUDGET} rows and 6 are left: 0 resemble" in line
    assert "31 are over their quota. Lower the budget, or raise" in line
    assert cli.main(curate(miniature, tmp_path, "--quota_by=language", '--quotas={"en": 1}')) == 0
    assert "fingerprint" in capsys.readouterr().out
    assert cli.main(curate(miniature, tmp_path, "--quota_by=source", '--quotas={"en": 0.5}')) == 1
    assert (
        "was made by a job with other settings (quota_by was 'language', now 'source'; quotas was"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--control=OUT/curated"], "control's uniform/ is 'OUT/curated/uniform'"),
        (["--output=CORPUS/curated"], "output is 'CORPUS/curated' and corpus is 'CORPUS'"),
        (["--output=CORPUS/.."], "output is 'CORPUS/..' and corpus is 'CORPUS'"),
        (["--quotas=[1]"], "quotas is [1]; it must map values to shares"),
        (["--version=١.٠.٠"], "it must be three numbers such as 1.0.0"),
    ],
)
def test_outputs_that_would_lie_in_other_artifacts_are_refused(miniature, tmp_path, capsys, flags, words):
    places = {"OUT": str(tmp_path), "CORPUS": str(miniature / "corpora/pool")}
    for name, path in places.items():
        flags, words = [flag.replace(name, path) for flag in flags], words.replace(name, path)
    assert cli.main(curate(miniature, tmp_path, *flags)) == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert not (miniature / "corpora/pool/curated").exists()


def test_models_learn_from_weights_and_only_where_there_are_some(miniature, tmp_path, capsys):
    assert cli.main(curate(miniature, tmp_path, "--policy=weighted")) == 0
    weights = [row.selection.weight for row in rows_of(tmp_path / "curated")]
    assert np.mean(weights) == pytest.approx(1)
    assert np.std(weights) > 0.05
    assert cli.main(["export", f"--dataset={tmp_path}/curated", "--format=parquet", f"--output={tmp_path}/t"]) == 0
    exported = pd.concat(map(pd.read_parquet, sorted((tmp_path / "t").glob("*.parquet"))))
    assert exported["selection_weight"].tolist() == weights
    train = ["train", f"--workdir={tmp_path}/model", "--steps=3", "--batch_size=8", "--block_size=4", "--resolution=32"]
    train += ["--warmup_steps=1", f"--tokenizer={miniature}/embeddings/tokenizer.model", "--log_every=1", "--weighted"]
    assert cli.main([*train, f"--corpus={miniature}/curated"]) == 1
    assert "has none: curate it with --policy=weighted" in capsys.readouterr().err
    assert cli.main([*train, f"--corpus={tmp_path}/curated"]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "model/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 3
    assert np.isfinite(losses).all()

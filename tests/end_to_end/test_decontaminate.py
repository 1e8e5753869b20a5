"""Curated sets without what an evaluation holds, and without near duplicates: by the command, counted and listed."""

import collections

import numpy as np
import pyarrow.parquet as pq
import pytest

from beam_pipelines import similar
from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests
from schemas import records, shards
from schemas.rejections import Reason
from tests.conftest import picture, write_folder

BUDGET = 12


@pytest.fixture(scope="module")
def evaluation(miniature, tmp_path_factory):
    """An evaluation that holds ten of the pool's pictures, with other texts; and its embeddings."""
    root = tmp_path_factory.mktemp("evaluation")
    write_folder(root / "raw", [(picture(number), f"a known picture {number}") for number in range(0, 20, 2)])
    ingest = ["ingest", f"--source=folder:{root}/raw", "--name=e", f"--output={root}/corpus", "--shards=1"]
    reference = f"--reference={miniature}/workdirs/reference"
    assert cli.main(ingest) == 0
    assert cli.main(["embed", f"--corpus={root}/corpus", reference, f"--output={root}/embeddings"]) == 0
    return root


def curate(miniature, output, *flags):
    inputs = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill"]
    return ["curate", *inputs, f"--output={output}/curated", f"--control={output}/control", *flags, "--shards=1"]


def uids(directory):
    rows = shards.open_dataset(str(directory), manifests.read(str(directory)))
    return [records.record_uid(row) for row in rows.read(range(len(rows)))]


def test_what_the_evaluation_holds_is_left_out_of_all_three_and_listed(miniature, evaluation, tmp_path, capsys):
    flags = [f"--budget={BUDGET}", f"--decontaminate={evaluation}/embeddings", "--contaminated_similarity=0.9999"]
    flags += ["--near_duplicates=0.99"]
    assert cli.main(curate(miniature, tmp_path, *flags)) == 0
    pool = similar.Embeddings(str(miniature / "embeddings"))
    stored = pool.read(range(len(pool)))
    of_uid = dict(zip([row.uid for row in stored], pool.images(stored).astype(float), strict=True))
    held_out = similar.Embeddings(str(evaluation / "embeddings"))
    forbidden = held_out.images(held_out.read(range(10)))
    passed = collections.Counter()
    for name in ("curated", "control/uniform", "control/top_reference"):
        manifest = manifests.read(str(tmp_path / name))
        assert manifest.parent("evaluation").fingerprint == manifests.read(f"{evaluation}/embeddings").fingerprint
        assert manifest.counts.kept == BUDGET
        kept = np.array([of_uid[uid] for uid in uids(tmp_path / name)])
        assert (kept @ forbidden.T.astype(float)).max() < 0.9999
        assert (kept @ kept.T - 2 * np.eye(BUDGET)).max() < 0.99
        rows = [row for path in (tmp_path / name).glob("rejections/*") for row in pq.read_table(path).to_pylist()]
        reasons = collections.Counter(row["reason"] for row in rows)
        alike = (Reason.CONTAMINATED, Reason.NEAR_DUPLICATE)
        assert reasons == {r: n for r, n in manifest.counts.rejected.items() if r in alike}
        passed += reasons
        for row in rows:
            shard, _, number = row["source"].partition("@")
            uid = row["detail"].partition(":")[0]
            found = manifests.read(str(miniature / "corpora/pool")).shards
            [rows_of] = [s.rows for s in found if s.name == shard]
            stored = list(shards.read_all(miniature / "corpora/pool" / shard, rows_of))
            assert records.record_uid(stored[int(number)]) == uid
            assert uid not in uids(tmp_path / name)
        assert verify(str(tmp_path / name)).findings == []
    assert set(passed) == {"contaminated", "near_duplicate"}
    assert cli.main(curate(miniature, tmp_path, *flags)) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert cli.main(curate(miniature, tmp_path, *flags[:1])) == 1


def test_what_cannot_be_compared_is_refused_with_the_cure(miniature, evaluation, tmp_path, capsys):
    train = ["--steps=3", "--batch_size=8", "--block_size=4", "--warmup_steps=1", "--resolution=32", "--seed=7"]
    other = f"{tmp_path}/other"
    assert cli.main(["train", f"--corpus={miniature}/corpora/seed", f"--workdir={other}", *train]) == 0
    embed = ["embed", f"--corpus={evaluation}/corpus", f"--reference={other}", f"--output={tmp_path}/e"]
    assert cli.main(embed) == 0
    budget = f"--budget={BUDGET}"
    for flags, words in (
        ([f"--decontaminate={evaluation}/corpus"], [f"{evaluation}/corpus, a corpus: embed it first", "reference"]),
        ([f"--decontaminate={tmp_path}/e"], [f"{tmp_path}/e was embedded by reference", "embed the evaluation with"]),
        ([f"--decontaminate={other}"], ["holds model; it must be embeddings"]),
        ([f"--decontaminate={tmp_path}/absent"], [f"{tmp_path}/absent"]),
        (["--near_duplicates=0.1"], [f"budget is {BUDGET} rows and ", "Lower the budget, or raise"]),
        (["--near_duplicates=1.1"], ["near_duplicates is 1.1; it is a cosine"]),
    ):
        capsys.readouterr()
        assert cli.main(curate(miniature, tmp_path / "o", budget, *flags)) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        for part in words:
            assert part in line
        assert not list((tmp_path / "o").rglob("*.*"))  # no mark either: other settings may be tried

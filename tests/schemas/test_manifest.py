"""The manifest: counts that add up, fingerprints that mean content, checksums that catch an altered byte."""

import dataclasses
import json
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from schemas import export_json, job_config, manifest
from schemas.errors import ConfigError, DataError, IntegrityError
from schemas.job_config import content
from schemas.manifest import Counts, Manifest, Parent, Shard
from schemas.rejections import Reason


@dataclass(frozen=True, kw_only=True)
class Config:
    path: str = "/a"
    seed: int = content(0)


def make(**changes) -> Manifest:
    fields = {
        "kind": "corpus",
        "name": "n",
        "version": "1.0.0",
        "config": Config(),
        "parents": [Parent(role="corpus", path="/p", fingerprint="f" * 64)],
        "counts": Counts(read=3, kept=2, duplicates=1),
        "shards": [Shard(name="s", bytes=5, sha256="0" * 64, rows=2)],
        "files": [],
    }
    return manifest.make(**fields | changes)


def test_round_trip(tmp_path):
    made = make()
    assert not manifest.exists(str(tmp_path))
    assert manifest.write(str(tmp_path), made) == made
    assert manifest.read(str(tmp_path), kind="corpus") == made


def test_counts_must_add_up():
    with pytest.raises(ValidationError, match="read 5 ≠ kept 2 \\+ duplicates 1 \\+ rejected 1"):
        Counts(read=5, kept=2, duplicates=1, rejected={Reason.EMPTY_TEXT: 1})


def test_reasons_are_closed():
    with pytest.raises(ValidationError):
        Counts(read=1, kept=0, rejected={"because": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "m"},
        {"version": "2.0.0"},
        {"config": Config(path="/b")},
        {"parents": [Parent(role="corpus", path="/q", fingerprint="f" * 64)]},
        {"shards": [Shard(name="t", bytes=5, sha256="0" * 64, rows=2)]},
    ],
)
def test_names_and_paths_stay_out_of_the_fingerprint(changes):
    assert make(**changes).fingerprint == make().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "selections"},
        {"config": Config(seed=1)},
        {"parents": [Parent(role="corpus", path="/p", fingerprint="e" * 64)]},
        {"shards": [Shard(name="s", bytes=5, sha256="1" * 64, rows=2)]},
        {"model": manifest.ModelInfo(parameters="a", preprocessing="b", tokenizer="c")},
    ],
)
def test_content_enters_the_fingerprint(changes):
    assert make(**changes).fingerprint != make().fingerprint


def test_any_altered_field_is_noticed(tmp_path):
    manifest.write(str(tmp_path), make())
    path = tmp_path / manifest.FILE_NAME
    original = json.loads(path.read_text())
    for field, value in (("version", "9.9.9"), ("created", "then"), ("fingerprint", "0" * 64), ("checksum", "0" * 64)):
        path.write_text(json.dumps(original | {field: value}))
        with pytest.raises(IntegrityError, match="was altered"):
            manifest.read(str(tmp_path))


def test_a_missing_manifest_says_what_it_means(tmp_path):
    with pytest.raises(DataError, match=r"not a complete embeddings: it has no manifest\.json"):
        manifest.read(str(tmp_path), kind="embeddings")


def test_another_kind_is_refused(tmp_path):
    manifest.write(str(tmp_path), make())
    with pytest.raises(IntegrityError, match="holds corpus, and model is needed"):
        manifest.read(str(tmp_path), kind="model")


def test_a_retry_adopts_its_own_manifest_and_another_artifact_is_refused(tmp_path):
    first = manifest.write(str(tmp_path), make())
    assert manifest.write(str(tmp_path), make(name="retry")) == first
    with pytest.raises(IntegrityError, match="already holds corpus"):
        manifest.write(str(tmp_path), make(config=Config(seed=1)))


def test_other_settings_are_named():
    existing = dataclasses.asdict(Config(seed=3))
    with pytest.raises(ConfigError, match="seed was 3, now 0"):
        job_config.refuse_other("/d", existing, Config(), ["seed"])


def test_other_inputs_are_named():
    corpus = Parent(role="corpus", path="/c", fingerprint="1" * 64)
    job_config.refuse_other_parents("/d", {"corpus": "1" * 64}, [corpus])
    with pytest.raises(ConfigError, match=f"/d was made from corpus {'2' * 64}, and /c is {'1' * 64}"):
        job_config.refuse_other_parents("/d", {"corpus": "2" * 64}, [corpus])
    with pytest.raises(ConfigError, match="made from corpus and embeddings, and this run reads corpus: choose"):
        job_config.refuse_other_parents("/d", {"embeddings": "3" * 64, "corpus": "1" * 64}, [corpus])


def test_exported_json_schema_is_current():
    assert export_json.PATH.read_text() == export_json.manifest_schema(), "run python -m schemas.export_json"

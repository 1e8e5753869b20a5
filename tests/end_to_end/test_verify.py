"""`superbatch verify`: what was damaged is named, as deeply as was asked."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from beam_pipelines.curate_config import CurateConfig
from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests
from schemas import records, shards
from schemas.errors import IntegrityError
from schemas.identity import example_uid, image_identity
from tests.conftest import picture


@pytest.mark.parametrize("artifact", ["corpora/pool", "embeddings", "curated", "workdirs/distill/selections"])
def test_one_flipped_byte_is_found_and_the_file_named(miniature, tmp_path, artifact, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(miniature / artifact, copy)
    shard = copy / manifests.read(str(copy)).shards[-1].name
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0x10
    shard.write_bytes(content)
    found = verify(str(copy)).findings
    assert len(found) == 1
    assert found[0].startswith(f"{shard.name}: sha256")
    assert cli.main(["verify", str(copy)]) == 1
    assert shard.name in capsys.readouterr().out


def test_missing_extra_and_swapped_shards_are_named(miniature, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(miniature / "corpora/pool", copy)
    first, second = (copy / shard.name for shard in manifests.read(str(copy)).shards)
    (copy / "surprise.txt").write_text("?")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    found = verify(str(copy)).findings
    assert [f.split(":")[0] for f in found] == [first.name, second.name, "surprise.txt"]
    assert f"(that of {second.name})" in found[0]
    first.unlink()
    assert f"{first.name}: missing" in verify(str(copy)).findings


def test_verify_prints_one_json_object(miniature, capsys):
    assert cli.main(["verify", str(miniature / "workdirs/distill"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["ok"]
    assert [artifact["kind"] for artifact in printed["artifacts"]] == ["model", "selections"]


def test_verify_tells_what_is_missing_as_a_finding(miniature, tmp_path, capsys):
    assert cli.main(["verify", "/nowhere", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert "/nowhere is not a complete artifact" in printed["artifacts"][0]["findings"][0]
    copy = tmp_path / "copy"
    shutil.copytree(miniature / "workdirs/distill", copy)
    (copy / "selections/manifest.json").unlink()
    assert cli.main(["verify", str(copy)]) == 1
    assert "selections/manifest.json: missing" in capsys.readouterr().out
    shutil.copy(miniature / "workdirs/distill/selections/manifest.json", copy / "selections/manifest.json")
    (copy / "manifest.json").unlink()
    assert cli.main(["verify", str(copy)]) == 1


def test_every_flipped_bit_of_a_manifest_is_noticed(miniature, tmp_path):
    """By readers if it changes what the manifest says, and by verify if it does not (white space, 1e-05 and 1E-05)."""
    copy = tmp_path / "copy"
    shutil.copytree(miniature / "embeddings", copy)
    original = (copy / "manifest.json").read_bytes()
    recorded, quiet = json.loads(original), 0
    for position in range(0, len(original), 37):
        flipped = bytearray(original)
        flipped[position] ^= 1 << (position % 7)
        (copy / "manifest.json").write_bytes(flipped)
        try:
            quiet += (same := json.loads(flipped) == recorded)
        except ValueError:
            same = False
        if not same:
            with pytest.raises(IntegrityError):
                manifests.read(str(copy))
        else:
            assert verify(str(copy), "shallow").findings[0].startswith("manifest.json: was altered")
    (copy / "manifest.json").write_bytes(original.replace(b"{", b"{ ", 1))
    assert verify(str(copy)).findings == [
        "manifest.json: was altered: its bytes are not those that its own content gives"
    ]


def test_shallow_looks_at_names_sizes_and_rows_only(miniature, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(miniature / "corpora/pool", copy)
    first, second = (copy / shard.name for shard in manifests.read(str(copy)).shards)
    content = bytearray(first.read_bytes())
    content[len(content) // 3] ^= 0x10
    first.write_bytes(content)
    assert verify(str(copy), "shallow").findings == []
    with second.open("ab") as file:
        file.write(b"\0")
    (copy / "features.json").rename(copy / "feature.json")
    assert cli.main(["verify", str(copy), "--shallow"]) == 1
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].split()[-3:] == [manifests.read(str(copy)).fingerprint[:12], "shallow", "FAILED"]
    for words in (f"{second.name}: {second.stat().st_size} bytes", "features.json: missing", "feature.json: not in"):
        assert words in printed
    assert first.name not in printed
    assert cli.main(["verify", str(copy), "--shallow", "--deep"]) == 1
    assert "shallow and deep are both given" in capsys.readouterr().err


def forge(directory, examples: list[records.Example]) -> str:
    """A corpus whose hashes and uids are right, whatever its rows hold."""
    info = manifests.DatasetInfo(name="forged", split="train")
    written = shards.write_shard(directory / shards.shard_name(info, 0, 1), map(records.encode_example, examples))
    counts = manifests.Counts(read=len(examples), kept=len(examples))
    manifest = manifests.make(
        kind="corpus",
        name="forged",
        version="1.0.0",
        config=CurateConfig(corpus="c", selections="s", output="o", budget=1),
        parents=[],
        counts=counts,
        shards=[written.shard],
        files=[],
        dataset=info,
    )
    manifests.write(str(directory), manifest)
    return str(directory)


def example(image: bytes, text: str = "t", width: int = 32) -> records.Example:
    return records.Example(
        image=image, text=text, uid=example_uid(image, text), image_id=image_identity(image), language="und", url="",
        source="s", width=width, height=32,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (example(picture(0)[:-40]), "has an image that cannot be decoded: "),
        (example(b"no image at all"), "has an image that cannot be decoded: cannot identify"),
        (example(picture(0), width=31), "says 31 × 32, its image is 32 × 32"),
        (example(picture(0), text="e\u0301"), "has a text that is not in Unicode NFC"),
    ],
)
def test_deep_decodes_every_image(tmp_path, broken, words):
    path = forge(tmp_path / "c", [example(picture(1)), broken])
    assert verify(path).findings == []  # the uids are right
    [finding] = verify(path, "deep").findings
    assert f"row 1 ({broken.uid}) {words}" in finding


def test_deep_measures_every_vector(miniature, tmp_path):
    shutil.copytree(miniature / "embeddings", tmp_path / "e")
    manifest = manifests.read(str(tmp_path / "e"))
    assert verify(str(tmp_path / "e"), "deep").findings == []
    rows = list(shards.read_all(tmp_path / "e" / manifest.shards[0].name, manifest.shards[0].rows))
    row = records.decode_embedding(rows[3])
    long = (np.frombuffer(row.text_embedding, "<f2") * 2).tobytes()
    rows[3] = records.encode_embedding(replace(row, text_embedding=long))
    (tmp_path / "e" / manifest.shards[0].name).unlink()
    shard = shards.write_shard(tmp_path / "e" / manifest.shards[0].name, rows).shard
    altered = manifest.model_copy(update={"shards": [shard, *manifest.shards[1:]]})
    altered = altered.model_copy(update={"fingerprint": altered.compute_fingerprint()})
    (tmp_path / "e/manifest.json").write_bytes(
        manifests.serialise(altered.model_copy(update={"checksum": altered.compute_checksum()}))
    )
    assert verify(str(tmp_path / "e")).findings == []  # float16 vectors are normalised anew when they are read
    [finding] = verify(str(tmp_path / "e"), "deep").findings
    assert finding.endswith("row 3 (" + row.uid + ") is valid, and its text vector has length 2")


def altered(directory, **changes) -> None:
    """Writes a manifest whose content is another, and whose checksums hold."""
    manifest = manifests.read(str(directory)).model_copy(update=changes)
    manifest = manifest.model_copy(update={"fingerprint": manifest.compute_fingerprint()})
    manifest = manifest.model_copy(update={"checksum": manifest.compute_checksum()})
    (directory / "manifest.json").write_bytes(manifests.serialise(manifest))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../elsewhere", "'../elsewhere' cannot be one of an artifact's files"),
        ("/etc/passwd", "'/etc/passwd' cannot be one of an artifact's files"),
        ("manifest.json", "'manifest.json' cannot be one of an artifact's files"),
        ("features.json", "'features.json' is listed twice"),
    ],
)
def test_manifests_that_name_impossible_files_are_none(miniature, tmp_path, name, words):
    shutil.copytree(miniature / "curated", tmp_path / "c")
    files = manifests.read(str(tmp_path / "c")).files
    altered(tmp_path / "c", files=[*files, files[0].model_copy(update={"name": name})])
    with pytest.raises(IntegrityError, match=words):
        manifests.read(str(tmp_path / "c"))


def test_names_from_a_manifest_cannot_forge_lines(miniature, tmp_path, capsys):
    shutil.copytree(miniature / "curated", tmp_path / "c")
    altered(tmp_path / "c", name="x\n\x1b[32mcorpus fine 1.0.0 ok")
    assert cli.main(["verify", str(tmp_path / "c")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert cli.main(["lineage", str(tmp_path / "c")]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_lineage_ends_where_something_else_lies_now(miniature, tmp_path, capsys):
    """Such as the artifact itself, moved over its parent: that would be a circle."""
    shutil.copytree(miniature / "curated", tmp_path / "pool")
    pool = manifests.as_parent("corpus", str(tmp_path / "pool"), manifests.read(str(miniature / "corpora/pool")))
    altered(tmp_path / "pool", parents=[pool])
    assert cli.main(["lineage", str(tmp_path / "pool")]) == 0
    first, second = capsys.readouterr().out.splitlines()
    itself = manifests.read(str(tmp_path / "pool")).fingerprint[:12]
    assert itself in first
    assert second == f"└─ corpus {pool.fingerprint[:12]} (at {tmp_path}/pool there is {itself} now)"


def test_a_parent_that_cannot_be_reached_is_no_finding(miniature, tmp_path, capsys):
    shutil.copytree(miniature / "embeddings", tmp_path / "e")
    parents = manifests.read(str(tmp_path / "e")).parents
    altered(tmp_path / "e", parents=[parents[0].model_copy(update={"path": str(tmp_path / "gone")}), *parents[1:]])
    assert verify(str(tmp_path / "e")).findings == []

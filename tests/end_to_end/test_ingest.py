"""What `ingest` leaves out by rule, through the real command: counted, with reasons, and the rows traceable."""

import json

import pyarrow.parquet as pq
import pytest

from infra import cli
from schemas import manifest as manifests
from schemas import records, shards
from tests.conftest import picture, write_folder

PAIRS = [(picture(i), "Click to enlarge" if i % 2 else "click to enlarge") for i in range(5)]
PAIRS += [(picture(5), "a red thing"), (picture(6), "a red thing"), (picture(7), "https://example.org/7")]
PAIRS += [PAIRS[0], (picture(8, pixels=10), "a dot")]


def ingest(tmp_path, *flags: str) -> manifests.Manifest:
    source = tmp_path / "raw"
    if not source.exists():
        write_folder(source, PAIRS)
    output = tmp_path / f"corpus{len(list(tmp_path.iterdir()))}"
    arguments = [f"--source=folder:{source}", "--name=pairs", f"--output={output}", "--max_rejected_fraction=0.9"]
    assert cli.main(["ingest", *arguments, "--shards=2", *flags]) == 0
    assert cli.main(["verify", str(output)]) == 0
    return manifests.read(str(output))


def rejected(tmp_path, number: int) -> list[tuple[str, str]]:
    folder = tmp_path / f"corpus{number}" / "rejections"
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return sorted((row["source"].rsplit("/")[-1], row["reason"]) for row in rows)


def test_texts_that_come_again_and_again_are_rejected_with_every_row(tmp_path):
    manifest = ingest(tmp_path, "--max_text_repeats=3")
    assert (manifest.counts.read, manifest.counts.kept, manifest.counts.duplicates) == (10, 2, 1)
    assert rejected(tmp_path, 1) == [
        *((f"000{i}.png", "repeated_text") for i in range(5)),
        ("0007.png", "boilerplate_text"),
        ("0009.png", "image_too_small"),
    ]
    # A bound that all keep within: nothing is rejected for it, and the rows are those of no bound.
    kept, unbounded = ingest(tmp_path, "--max_text_repeats=5"), ingest(tmp_path)
    assert kept.counts == unbounded.counts
    assert kept.counts.kept == 7
    assert [shard.sha256 for shard in kept.shards] == [shard.sha256 for shard in unbounded.shards]


def test_bounds_can_be_lifted(tmp_path):
    manifest = ingest(tmp_path, "--min_letters=0", "--min_side=1")
    assert (manifest.counts.kept, manifest.counts.rejected) == (9, {})


def test_a_language_is_detected_where_there_is_none(tmp_path):
    folder = write_folder(tmp_path / "raw", [])
    captions = [
        ("der kleine Hund läuft schnell über die grüne Wiese", None),
        ("a small dog runs over the green grass of home", "EN_us"),
        ("ok", None),
    ]
    lines = []
    for number, (text, language) in enumerate(captions):
        (folder / f"{number}.png").write_bytes(picture(number))
        lines.append(json.dumps({"file_name": f"{number}.png", "text": text, "language": language}))
    (folder / "captions.jsonl").write_text("\n".join(lines))
    for flags, languages in (([], ["und", "en-US", "und"]), (["--detect_language=0.9"], ["de", "en-US", "und"])):
        corpus = tmp_path / f"corpus{len(list(tmp_path.iterdir()))}"
        manifest = ingest(tmp_path, "--shards=1", *flags)
        rows = [records.decode_example(row) for row in shards.open_dataset(str(corpus), manifest).read(range(3))]
        found = {row.text: row.language for row in rows}
        assert [found[text] for text, _ in captions] == languages


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--max_text_repeats=0", "max_text_repeats is 0; it must be at least 1"),
        ("--max_aspect_ratio=nan", "max_aspect_ratio is nan; it must be at least 1"),
        ("--min_letters=-1", "min_letters is -1; it must be at least 0"),
        ("--detect_language=2", "detect_language is 2.0; it is a probability"),
    ],
)
def test_bounds_are_checked(tmp_path, capsys, flag, words):
    assert cli.main(["ingest", f"--source=folder:{tmp_path}", "--name=x", f"--output={tmp_path}/x", flag]) == 1
    assert words in capsys.readouterr().err

"""What lies beside a curated set: an index of its rows, a Croissant description and a card, by the real command."""

import hashlib
import json
import logging
import re
import shutil
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import yaml

from beam_pipelines import croissant, curate, markdown
from beam_pipelines.verify import verify
from infra import cli
from schemas import features, index, records, shards
from schemas import manifest as manifests

HOSTILE = (
    "<script>alert(1)</script> | [me](javascript:alert(2)) `c` *x* ---\\ ![i](http://evil.example/i) "
    "\U0001f600: # \"q\" 'q'"
)
STATED = [
    "--license=cc-by-sa-4.0", "--homepage=https://example.org/data?a=1&b=2", "--published=2026-11-24",
    f"--attribution={HOSTILE}", "--policy=weighted",
]  # fmt: skip
DATASETS = ("curated", "control/uniform", "control/top_reference")


def command(miniature, output, *flags):
    """The miniature's own curate, with another output."""
    inputs = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16"]
    outputs = [f"--output={output}/curated", f"--control={output}/control", "--name=mini_curated", "--shards=2"]
    return ["curate", *inputs, *outputs, *flags]


@pytest.fixture(scope="module")
def stated(miniature, tmp_path_factory):
    """The miniature's datasets again, with weights and everything stated; the credit is hostile."""
    output = tmp_path_factory.mktemp("stated")
    assert cli.main(command(miniature, output, *STATED)) == 0
    return output


def rows_of(directory):
    manifest = manifests.read(str(directory))
    for shard in manifest.shards:
        for row, record in enumerate(shards.read_all(directory / shard.name, shard.rows)):
            yield shard.name, row, records.decode_example(record)


def load(directory):
    """Loads a dataset with mlcroissant; returns it and what it finds to complain about."""
    import mlcroissant

    dataset = mlcroissant.Dataset(directory / croissant.FILE_NAME)
    issues = dataset.metadata.ctx.issues
    return dataset, sorted(issues.errors), sorted(issues.warnings)


@pytest.mark.parametrize(
    ("made_by", "name", "kind"),
    [
        ("miniature", "curated", "curated"),
        ("miniature", "control/uniform", "corpus"),
        ("stated", "curated", "weighted"),
    ],
)
def test_the_index_is_the_rows(request, made_by, name, kind):
    directory = request.getfixturevalue(made_by) / name
    manifest = manifests.read(str(directory))
    files = [index.file_name(shard.name) for shard in manifest.shards]
    assert set(files) <= {file.name for file in manifest.files}
    assert files[0] == f"index/{manifest.name}-train-00000-of-00002.parquet"
    tables = [pq.read_table(directory / file) for file in files]
    assert [table.num_rows for table in tables] == [shard.rows for shard in manifest.shards]
    assert all(table.schema == index.schema(kind) for table in tables)
    indexed = [row for table in tables for row in table.to_pylist()]
    for row, (shard, place, example) in zip(indexed, rows_of(directory), strict=True):
        known = {name: value for name, value in example.__dict__.items() if name not in ("image", "selection")}
        if example.selection is not None:
            known |= {f"selection_{name}": v for name, v in example.selection.__dict__.items() if v is not None}
        assert row == {**known, "shard": shard, "row_in_shard": place}
    assert ("selection_weight" in indexed[0]) == (kind == "weighted")


@pytest.mark.parametrize("kind", ["corpus", "curated", "weighted"])
def test_the_index_has_every_feature_but_the_image(kind):
    declared = features.declare(kind)
    columns = index.columns(kind)
    assert {column.feature for column in columns if not column.places} == set(declared) - {"image"}
    for column in columns:
        assert re.fullmatch("[a-z_]+", column.name)  # BigQuery takes no slash
        if not column.places and column.feature.startswith("selection/"):
            assert declared[column.feature].np_dtype == column.type.to_pandas_dtype()


@pytest.mark.parametrize("name", DATASETS)
def test_croissant_describes_a_copy_without_a_complaint_and_loads_its_rows(stated, tmp_path, name):
    copy = shutil.copytree(stated / name, tmp_path / "copy")
    dataset, errors, complaints = load(copy)
    assert (errors, complaints) == ([], [])
    assert dataset.metadata.license == ["https://spdx.org/licenses/CC-BY-SA-4.0.html"]
    loaded = list(dataset.records(croissant.RECORDS))
    manifest = manifests.read(str(copy))
    indexed = [r for s in manifest.shards for r in pq.read_table(copy / index.file_name(s.name)).to_pylist()]
    assert len(loaded) == 16
    for record, row in zip(loaded, indexed, strict=True):
        values = {field.removeprefix("rows/"): value for field, value in record.items()}
        assert {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()} == row
    objects = dataset.metadata.file_objects
    assert [found.content_url for found in objects] == [shard.name for shard in manifest.shards]
    for found in objects:
        content = (copy / found.content_url).read_bytes()
        assert (found.content_size, found.sha256) == (f"{len(content)} B", hashlib.sha256(content).hexdigest())


def test_what_is_not_stated_is_left_out_and_said_to_be(miniature, caplog):
    caplog.set_level(logging.CRITICAL, "absl")
    dataset, errors, complaints = load(miniature / "curated")
    assert errors == []
    assert [re.search("(license|citeAs|datePublished)", said)[1] for said in complaints] == [
        "citeAs", "datePublished", "license",
    ]  # fmt: skip
    assert all("is recommended, but does not exist" in said for said in complaints)
    assert len(list(dataset.records(croissant.RECORDS))) == 16
    card = (miniature / "curated/README.md").read_text()
    assert "**The licence is not stated.**" in card
    assert "--license=CC-BY-4.0" in card


def test_the_card_counts_every_row_and_names_every_input(miniature):
    for name in DATASETS:
        card = (miniature / name / "README.md").read_text()
        manifest = manifests.read(str(miniature / name))
        for parent in manifest.parents:
            assert f"| {parent.role} | `{parent.path}` | `{parent.fingerprint}` |" in card
        assert "| read: the pool | 96 | 100.0% |" in card
        assert "| **kept** | 16 | 16.7% |" in card
        for reason, rows in manifest.counts.rejected.items():
            assert f"| `{reason}` | {rows} | {rows / 96:.1%} |" in card
        assert manifest.fingerprint not in card
        assert str(miniature / name) not in card  # it may be copied
        assert ("`selection/visits` | int64" in card) == (name == "curated")
        front = yaml.safe_load(card.split("---\n")[1])
        assert front["license"] == "unknown"
        assert (front["language"], front["size_categories"]) == (["en"], ["n<1K"])
        assert len(list((miniature / name).glob(front["configs"][0]["data_files"][0]["path"]))) == 2


def check_shown(card):
    """The card as a page has our elements and links alone, and shows the hostile credit as it is."""
    from markdown_it import MarkdownIt

    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "cc-by-sa-4.0"
    page = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(card.split("---\n", 2)[2])
    assert set(re.findall(r"<(\w+)", page)) <= {
        "h1", "h2", "h3", "p", "a", "strong", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "ul", "li",
    }  # fmt: skip
    assert re.findall('href="([^"]*)"', page) == [
        "https://spdx.org/licenses/CC-BY-SA-4.0.html", "https://example.org/data?a=1&amp;b=2",
    ]  # fmt: skip
    assert (
        "<p>Credit: &lt;script&gt;alert(1)&lt;/script&gt; | [me](javascript:alert(2)) `c` *x* ---\\ ![i](http" in page
    )


def test_hostile_text_stays_text(stated):
    check_shown((stated / "curated/README.md").read_text())
    described = json.loads((stated / "curated/croissant.json").read_text())
    assert described["creditText"] == HOSTILE
    info = json.loads((stated / "curated/dataset_info.json").read_text())
    assert info["redistributionInfo"]["license"] == "CC-BY-SA-4.0"


def test_rights_change_no_fingerprint_and_cannot_be_changed_in_place(miniature, stated, capsys):
    for name in DATASETS:
        manifest = manifests.read(str(stated / name))
        assert manifest.config["license"] == "cc-by-sa-4.0"
        assert not {"license", "homepage", "attribution", "published"} & set(manifest.content_fields)
        assert verify(str(stated / name)).findings == []
    for name in DATASETS[1:]:  # the policy is the curated one's
        assert manifests.read(str(stated / name)).fingerprint == manifests.read(str(miniature / name)).fingerprint
    assert cli.main(command(miniature, stated, *STATED, "--license=CC0-1.0")) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "license was 'cc-by-sa-4.0', now 'CC0-1.0'" in line
    assert "choose another directory" in line


@pytest.mark.parametrize(
    ("name", "kind"),
    [("curated", "tfrecord"), ("control/uniform", "webdataset"), ("curated", "uids"), ("control/uniform", "parquet")],
)
def test_an_export_repeats_what_its_dataset_states(miniature, stated, tmp_path, capsys, name, kind):
    ours = ["export", f"--format={kind}", f"--output={tmp_path}/o", "--name=other"]
    assert cli.main([*ours, f"--dataset={stated / name}"]) == 0
    manifest = manifests.read(str(tmp_path / "o"))
    assert "README.md" in [file.name for file in manifest.files]
    assert {n: manifest.config[n] for n in ("license", "homepage", "attribution", "published")} == {
        "license": "cc-by-sa-4.0", "homepage": "https://example.org/data?a=1&b=2", "attribution": HOSTILE,
        "published": "2026-11-24",
    }  # fmt: skip
    card = (tmp_path / "o/README.md").read_text()
    check_shown(card)
    origin = manifests.read(str(stated / name))
    assert f"of {markdown.text(origin.name)} 1\\.0\\.0, 16 rows, whose fingerprint is `{origin.fingerprint}`" in card
    if kind == "tfrecord":
        info = json.loads((tmp_path / "o/dataset_info.json").read_text())
        assert info["redistributionInfo"]["license"] == "CC-BY-SA-4.0"
        assert info["citation"] == HOSTILE
        assert info["location"]["urls"] == ["https://example.org/data?a=1&b=2"]
    if kind == "parquet":  # the same rows, of which nothing is stated: the card would be wrong
        assert cli.main([*ours, f"--dataset={miniature / name}"]) == 1
        line = capsys.readouterr().err.splitlines()[-1]
        assert "license was 'cc-by-sa-4.0', now None" in line
        assert "choose another directory" in line


def test_an_index_that_is_missing_or_damaged_is_made_anew_from_its_shard(miniature, tmp_path, monkeypatch, capsys):
    ours = command(miniature, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(curate, "complete_dataset", lambda *_, **__: (_ for _ in ()).throw(OSError("pulled out")))
        assert cli.main(ours) == 1
    first, second = sorted((tmp_path / "curated/index").iterdir())
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "curated").glob("*-of-*")}
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    capsys.readouterr()
    assert cli.main(ours) == 0
    assert f"{second} is damaged and is made anew" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in made} == made
    for name in DATASETS:
        assert manifests.read(str(tmp_path / name)).files == manifests.read(str(miniature / name)).files


def snippets(miniature):
    """The Python on the card that needs no export, of the dataset where it lies now."""
    card = (miniature / "curated/README.md").read_text().replace("PATH", str(miniature / "curated"))
    return [code for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL) if "DATA_DIR" not in code]


def test_the_python_on_the_card_runs_as_it_stands(miniature, tmp_path):
    """In a fresh interpreter outside the checkout, without our code and without TensorFlow."""
    tfds, grain, duckdb, _ = snippets(miniature)
    program = (
        f"{tfds}{grain}{duckdb}import sys\nprint({{'tensorflow', 'schemas', 'beam_pipelines'}} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    example = next(rows_of(miniature / "curated"))[2]
    assert said[0] == f"16 {example.text} (32, 32, 3)"
    assert said[1] == "(8, 224, 224, 3)"
    assert any(re.fullmatch(r"│ en +│ +16 │", line) for line in said)
    assert said[-1] == "set()"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_croissant_on_the_card_runs_as_it_stands(miniature, capsys, caplog):
    caplog.set_level(logging.CRITICAL, "absl")
    *_, program = snippets(miniature)
    assert "mlcroissant" in program
    exec(program, {})  # importing it in a process of its own takes as long as all of this file
    rows = [example for *_, example in rows_of(miniature / "curated")][:3]
    assert capsys.readouterr().out.splitlines() == [f"{row.uid.encode()} {row.text}" for row in rows]

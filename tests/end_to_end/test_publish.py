"""Publishing: versions that are whole or absent and never change, whoever races, dies or meddles; and their aliases."""

import json
import re
import shutil
from pathlib import Path

import pytest

from beam_pipelines import copying
from beam_pipelines.verify import verify
from infra import cli
from schemas import manifest as manifests
from schemas.alias import read_alias
from schemas.claim import read_claim
from tests import gcs, publishers
from tests.end_to_end.test_attempts import before

VERSION = "mini_curated/1.0.0"
# What is written, in this order but for the files between shards and TFDS's metadata.
OTHERS = {"README.md", "croissant.json", "index of shard 0", "index of shard 1"}
WRITES = ["_claim.json", "shard 0", "shard 1", *sorted(OTHERS), "features.json", "dataset_info.json", "manifest.json"]
# After how many writes an attempt dies: with one shard there, with all, with all but the manifest, before the alias.
KILLS = (2, 3, 9, 10)
# One process after another of one that has imported everything: each pulls the plug after its n-th upload.
KILLED = """
import json, os, signal, sys
from infra import cli
from beam_pipelines import publish, store
upload, done = store.Bucket._upload, 0
for number, arguments in json.loads(sys.argv[1]):
    def upload_and_die(self, *what):
        global done
        made, done = upload(self, *what), done + 1
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return made
    child = os.fork()
    if child == 0:
        store.Bucket._upload = upload_and_die
        os._exit(cli.main(arguments))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
READ = """
import gcsfs, sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory(sys.argv[1]).as_data_source("train")
by_name = tfds.builder("mini_curated", data_dir=sys.argv[2]).as_data_source("train")
print(len(source), len(by_name), source[0]["text"].decode(), source[0]["image"].shape)
print(gcsfs.GCSFileSystem().cat(sys.argv[1] + "/manifest.json").decode())
"""


def publish(dataset: object, destination: object, *flags: str) -> list[str]:
    return ["publish", f"--dataset={dataset}", f"--destination={destination}", *flags]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def shown(name: str) -> str:
    """The name of a file without the dataset's."""
    number = re.search(r"(\d{5})-of-", name)
    if number is None:
        return name
    return f"{'index of ' * name.startswith('index/')}shard {int(number[1])}"


def failure(capsys, *arguments: str) -> str:
    """Runs a command that must fail, and returns its one line."""
    capsys.readouterr()
    assert cli.main(list(arguments)) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def other(miniature, tmp_path_factory) -> Path:
    """Another dataset of the same name and version: its shards have the same names, and other rows."""
    output = tmp_path_factory.mktemp("other") / "curated"
    selections = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill"]
    same = ["--budget=16", "--name=mini_curated", "--shards=2"]
    assert cli.main(["curate", *selections, *same, "--seed=1", f"--output={output}"]) == 0
    return output


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("publish")
    with gcs.emulator(scratch / "requests.log") as server:
        server.make_bucket("bucket")
        yield gcs.Bucket(server, scratch)


def objects(bucket: gcs.Bucket, prefix: str) -> dict[str, bytes]:
    names = bucket.server.names("bucket", f"{prefix}/")
    return {name.removeprefix(f"{prefix}/"): bucket.server.get("bucket", name) for name in names}


def killed_at(number: int) -> str:
    return f"killed-{number}"


@pytest.fixture(scope="module")
def left(miniature, bucket) -> dict[int, dict[str, bytes]]:
    """What attempts leave that die after so many uploads."""
    attempts = [(n, publish(miniature / "curated", f"gs://bucket/{killed_at(n)}", "--alias=latest")) for n in KILLS]
    done = bucket.process(KILLED, json.dumps(attempts))
    assert done.stdout.split() == ["-9"] * len(KILLS), done.stderr
    return {number: objects(bucket, killed_at(number)) for number in KILLS}


@pytest.fixture(scope="module")
def ran(miniature, bucket, other, left):
    """Commands on the bucket, in one process: exit code, seconds, output and errors of each."""
    version, pool = f"gs://bucket/data/{VERSION}", "gs://bucket/data/mini_pool/1.0.0"
    selections = [f"--selections={miniature}/workdirs/distill", "--budget=16", "--name=mini_curated", "--shards=2"]
    steps = {
        "publish": publish(miniature / "curated", "gs://bucket/data", "--alias=latest", "--publisher=the first"),
        "again": publish(miniature / "curated", "gs://bucket/data/", "--alias=stable", "--publisher=another"),
        "other content": publish(other, "gs://bucket/data"),
        "mirror": publish(version, "gs://bucket/mirror"),
        "verify": ["verify", version],
        "lineage": ["lineage", version],
        "publish pool": publish(miniature / "corpora/pool", "gs://bucket/data"),
        "curate": ["curate", f"--corpus={pool}", *selections, f"--output={bucket.scratch}/curated"],
        "absent": publish(miniature / "curated", "gs://absent/data"),
    }
    reruns = {
        killed_at(n): publish(miniature / "curated", f"gs://bucket/{killed_at(n)}", "--alias=latest") for n in KILLS
    }
    done = bucket.run(*steps.values(), *reruns.values())
    return dict(zip([*steps, *reruns], done, strict=True))


def test_a_published_folder_is_the_dataset_beside_its_claim(miniature, tmp_path, capsys):
    source, made = miniature / "curated", tmp_path / VERSION
    assert cli.main(publish(source, tmp_path, "--publisher=Ann Example")) == 0
    said = capsys.readouterr().out
    assert f"published corpus mini_curated 1.0.0 at {made}: 16 rows in 2 shards, 6 other files" in said
    assert f'tfds.builder_from_directory("{made}")' in said
    found = contents(made)
    assert found.pop("_claim.json")
    assert found == contents(source)
    claim, manifest = read_claim(str(made)), manifests.read(str(source))
    assert (claim.fingerprint, claim.name, claim.version) == (manifest.fingerprint, manifest.name, manifest.version)
    assert claim.publisher == "Ann Example"
    assert verify(str(made)).findings == []
    assert cli.main(["lineage", str(made)]) == 0
    assert "selections mini_distill" in capsys.readouterr().out

    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert cli.main(publish(source, tmp_path, "--publisher=Bob Example")) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_a_published_version_in_a_bucket_is_the_dataset_too(miniature, bucket, ran):
    for step in ("publish", "mirror", "verify", "publish pool", "curate"):
        code, _, _, errors = ran[step]
        assert code == 0, f"{step}: {errors}"
    source = contents(miniature / "curated")
    for destination in ("data", "mirror"):
        found = objects(bucket, f"{destination}/{VERSION}")
        assert json.loads(found.pop("_claim.json"))["fingerprint"] == json.loads(source["manifest.json"])["fingerprint"]
        assert found == source
    assert "selections mini_distill" in ran["lineage"][2]
    curated = manifests.read(str(bucket.scratch / "curated"))  # out of a published corpus, which is as good as any
    assert curated.fingerprint == manifests.read(str(miniature / "curated")).fingerprint
    again = ran["again"]
    assert again[0] == 0, again[3]
    assert "nothing to do" in again[3]
    assert again[1] < 10


def test_tfds_and_gcsfs_read_it_with_no_code_of_ours(miniature, bucket, ran):
    done = bucket.process(READ, f"gs://bucket/data/{VERSION}", "gs://bucket/data")
    assert done.returncode == 0, done.stderr
    first, _, manifest = done.stdout.partition("\n")
    assert first.startswith("16 16 a ")
    assert first.endswith(" (32, 32, 3)")
    assert manifest.strip() == (miniature / "curated/manifest.json").read_text().strip()


def test_the_claim_comes_first_tfds_files_after_all_others_and_the_manifest_last(bucket, ran):
    for made, writes in (
        (VERSION, WRITES),
        ("mini_pool/1.0.0", [*WRITES[:3], "rejections/part-00000.parquet", *WRITES[-3:]]),
    ):
        written = bucket.server.generations("bucket", f"data/{made}/")
        names = [name.removeprefix(f"data/{made}/") for name in sorted(written, key=lambda name: written[name])]
        order = [shown(name) for name in names]
        others = [name for name in order if name in OTHERS]
        assert set(others) == OTHERS & set(writes)
        first = writes.index("shard 1") + 1
        assert order[first : first + len(others)] == others
        assert order[:first] + sorted(others) + order[first + len(others) :] == writes
        assert ran["publish"][0] == ran["publish pool"][0] == 0
    [alias] = bucket.server.generations("bucket", "data/aliases/mini_curated/latest.json").values()
    assert alias > bucket.server.generations("bucket", f"data/{VERSION}/")[f"data/{VERSION}/manifest.json"]


def test_an_alias_names_a_version_and_moves_although_that_is_complete(miniature, bucket, ran, tmp_path, capsys):
    for alias, publisher in (("latest", "the first"), ("stable", "another")):
        found = json.loads(bucket.server.get("bucket", f"data/aliases/mini_curated/{alias}.json"))
        assert found["path"] == f"gs://bucket/data/{VERSION}"
        assert found["publisher"] == publisher
    # A later version takes the name over; publishing the first again takes it back, and once more is no move.
    later = tmp_path / "later"
    selections = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16"]
    same = ["--name=mini_curated", "--version=1.1.0", "--shards=2", f"--output={later}"]
    assert cli.main(["curate", *selections, *same]) == 0
    for dataset, version in ((miniature / "curated", "1.0.0"), (later, "1.1.0"), (miniature / "curated", "1.0.0")):
        assert cli.main(publish(dataset, tmp_path / "d", "--alias=latest")) == 0
        assert read_alias(str(tmp_path / "d"), "mini_curated", "latest").version == version
    # Nothing but what is published is needed to roll back.
    for version in ("1.1.0", "1.0.0"):
        assert cli.main(publish(tmp_path / "d/mini_curated" / version, tmp_path / "d", "--alias=latest")) == 0
        assert read_alias(str(tmp_path / "d"), "mini_curated", "latest").version == version
    path = tmp_path / "d/aliases/mini_curated/latest.json"
    stands = path.read_bytes()
    assert cli.main(publish(miniature / "curated", tmp_path / "d", "--alias=latest", "--publisher=someone else")) == 0
    assert path.read_bytes() == stands
    assert not list((tmp_path / "d").rglob(".tmp-*"))


@pytest.mark.parametrize("number", KILLS)
def test_a_killed_publication_never_shows_a_manifest_without_every_file_and_is_completed(
    miniature, bucket, left, ran, number
):
    source = contents(miniature / "curated")
    was = {name.removeprefix(f"{VERSION}/"): content for name, content in left[number].items()}
    assert len(was) == number
    assert ("manifest.json" in was) == (number == len(WRITES))
    if "dataset_info.json" in was:  # TFDS would open it
        assert {name for name in source if "-of-" in name} <= set(was)
    assert {name: content for name, content in was.items() if name != "_claim.json"}.items() <= source.items()
    code, _, _, errors = ran[killed_at(number)]
    assert code == 0, errors
    found = objects(bucket, killed_at(number))
    assert json.loads(found.pop("aliases/mini_curated/latest.json"))["version"] == "1.0.0"
    version = source | {"_claim.json": was["_claim.json"]}  # of the attempt that was killed
    assert found == {f"{VERSION}/{name}": content for name, content in version.items()}


def test_what_one_making_of_a_dataset_began_another_one_completes(miniature, tmp_path, capsys):
    """Whose a version is, is decided by content: when it was made, and by which path, does not matter."""
    source, made = miniature / "curated", tmp_path / VERSION
    again = Path(shutil.copytree(source, tmp_path / "again"))
    manifest = manifests.read(str(source)).model_copy(update={"created": "2026-01-01T00:00:00+00:00"})
    manifest = manifest.model_copy(update={"checksum": manifest.compute_checksum()})
    (again / "manifest.json").unlink()
    manifests.write(str(again), manifest)
    assert cli.main(publish(source, tmp_path, "--publisher=the first")) == 0
    (made / "manifest.json").unlink()  # as if it had been killed just before
    (made / ".tmp-0").write_bytes(b"half a shard")
    assert cli.main(publish(again, tmp_path, "--publisher=the second")) == 0
    assert "going on with" in capsys.readouterr().err
    assert manifests.read(str(made)).created == "2026-01-01T00:00:00+00:00"
    assert read_claim(str(made)).publisher == "the first"
    assert not (made / ".tmp-0").exists()
    assert cli.main(publish(source, tmp_path, "--publisher=the first")) == 0
    assert contents(made) == contents(again) | {"_claim.json": (made / "_claim.json").read_bytes()}


@pytest.mark.parametrize("where", ["a bucket", "a folder"])
def test_of_twenty_racing_publishers_one_holds_the_version_and_the_others_are_told_who(
    miniature, other, bucket, tmp_path, where
):
    destination = "gs://bucket/raced" if where == "a bucket" else str(tmp_path)
    names = [f"publisher-{number}" for number in range(20)]
    sources = [str(miniature / "curated"), str(other)]  # they take turns
    said = publishers.race(
        bucket.server.environment, 2, destination=destination, sources=sources, publishers=names
    )  # fmt: skip
    found = objects(bucket, f"raced/{VERSION}") if where == "a bucket" else contents(tmp_path / VERSION)
    claim = json.loads(found.pop("_claim.json"))
    [won] = [source for source in sources if manifests.read(source).fingerprint == claim["fingerprint"]]
    assert found == contents(Path(won))
    assert sorted(one["publisher"] for one in said) == sorted(names)
    for one in said:
        if one["source"] == won:
            assert one["error"] is None
        else:
            assert one["error"].startswith(
                f"ConfigError: {destination}/{VERSION} is held by {claim['publisher']} since "
            )
            assert "make this dataset under another one (--version" in one["error"]
    assert {one["source"] for one in said if one["publisher"] == claim["publisher"]} == {won}


@pytest.mark.parametrize("where", ["a bucket", "a folder"])
def test_of_ten_racing_movers_none_undoes_what_it_has_not_seen(bucket, tmp_path, where):
    destination = "gs://bucket/raced" if where == "a bucket" else str(tmp_path)
    versions = [f"1.0.{number}" for number in range(10)]
    said = publishers.race(bucket.server.environment, 2, destination=destination, versions=versions)
    assert all(one["moved"] for one in said)
    swaps = [tuple(swap) for one in said for swap in one["replaced"]]
    assert len(swaps) == 10
    assert len({generation for generation, _ in swaps}) == 10  # nobody replaced what another one had replaced already
    stands = bucket.server.get("bucket", "raced/aliases/raced/latest.json") if where == "a bucket" else (
        tmp_path / "aliases/raced/latest.json"
    ).read_bytes()  # fmt: skip
    assert stands.decode() in {content for _, content in swaps}


def test_what_the_bucket_refuses_is_one_line(bucket, ran):
    holder = json.loads(bucket.server.get("bucket", f"data/{VERSION}/_claim.json"))
    words = {
        "other content": f"gs://bucket/data/{VERSION} is held by the first since {holder['created']}",
        "absent": "gs://absent does not exist",
    }
    for step, wanted in words.items():
        code, seconds, _, errors = ran[step]
        assert code == 1
        assert wanted in errors.strip().splitlines()[-1]
        assert "Traceback" not in errors
        assert seconds < 20


def test_a_damaged_shard_is_named_and_the_version_stays_absent(miniature, tmp_path, capsys):
    source = Path(shutil.copytree(miniature / "curated", tmp_path / "source"))
    shard = sorted(source.glob("*-of-*"))[1]
    content = bytearray(whole := shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    line = failure(capsys, *publish(source, tmp_path / "d"))
    assert line.startswith(f"superbatch publish: {shard} has {len(whole)} bytes with sha256 ")
    assert line.endswith("it is damaged. Make the dataset again")
    made = tmp_path / "d" / VERSION
    assert not list(made.glob("*.json"))[1:]  # the claim alone
    assert not (made / shard.name).exists()
    shard.unlink()
    assert f"{shard} is missing" in failure(capsys, *publish(source, tmp_path / "d"))
    shard.write_bytes(whole)
    assert cli.main(publish(source, tmp_path / "d")) == 0
    assert verify(str(made)).findings == []


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_files_of_others_in_the_version_are_named_and_left_alone(miniature, tmp_path, capsys, monkeypatch, moment):
    made, command = tmp_path / VERSION, publish(miniature / "curated", tmp_path)
    (made / "notes").mkdir(parents=True)
    if moment == "before":
        (made / "notes/todo.txt").write_text("mine")
    else:
        before(monkeypatch, copying, "complete", lambda: (made / "notes/todo.txt").write_text("mine"))
    assert f"{made}/notes/todo.txt is not ours" in failure(capsys, *command)
    assert not manifests.exists(str(made))
    (made / "notes/todo.txt").unlink()
    shard = manifests.read(str(miniature / "curated")).shards[0]
    (made / shard.name).unlink(missing_ok=True)
    (made / shard.name).write_bytes(b"x" * shard.bytes)
    line = failure(capsys, *command)
    assert f"{made}/{shard.name} has {shard.bytes} bytes with CRC32C" in line
    assert "it is not ours" in line
    assert (made / shard.name).read_bytes() == b"x" * shard.bytes
    (made / shard.name).unlink()
    assert cli.main(command) == 0
    assert verify(str(made)).findings == []


def test_what_cannot_be_published_is_refused_with_the_cure(miniature, other, tmp_path, capsys):
    curated = miniature / "curated"
    assert "holds embeddings; corpus" in failure(capsys, *publish(miniature / "embeddings", tmp_path))
    assert "is not a complete" in failure(capsys, *publish(tmp_path / "nothing", tmp_path))
    assert "gs://BUCKET/PREFIX or a local folder" in failure(capsys, *publish(curated, "s3://bucket/data"))
    assert "there must be a name" in failure(capsys, *publish(curated, "gs://bucket//data"))
    assert "there must be a name" in failure(capsys, *publish(curated, "gs://bucket/./data"))
    assert "where one lies in the other" in failure(capsys, *publish(_nested(curated, tmp_path / "n"), tmp_path / "n"))
    shutil.rmtree(tmp_path / "n")
    assert "100 at most" in failure(capsys, *publish(curated, tmp_path, f"--alias={'a' * 101}"))
    assert "alias is '../x'" in failure(capsys, *publish(curated, tmp_path, "--alias=../x"))
    assert "in its files. Set them where it is made" in failure(capsys, *publish(curated, tmp_path, "--version=2.0.0"))
    assert "publisher is ' '" in failure(capsys, *publish(curated, tmp_path, "--publisher= "))
    assert list(tmp_path.iterdir()) == []
    # What a job has made where versions lie is no published version: nobody claimed it.
    shutil.copytree(other, tmp_path / VERSION)
    assert "already holds corpus" in failure(capsys, *publish(curated, tmp_path))
    assert "it would be published to" in failure(capsys, *publish(tmp_path / VERSION, tmp_path))
    assert not (tmp_path / VERSION / "_claim.json").exists()


def _nested(dataset: Path, destination: Path) -> Path:
    """A copy of a dataset where its versions would lie."""
    return Path(shutil.copytree(dataset, destination / "mini_curated"))


def licensed(miniature: Path, output: Path, *flags: str) -> Path:
    """The miniature's curated set once more, with a licence on its card: the same fingerprint."""
    selections = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16"]
    made = ["curate", *selections, "--name=mini_curated", "--shards=2", "--license=CC-BY-4.0", f"--output={output}"]
    assert cli.main([*made, *flags]) == 0
    assert manifests.read(str(output)).fingerprint == manifests.read(str(miniature / "curated")).fingerprint
    return output


def test_the_same_rows_under_another_card_are_another_version(miniature, tmp_path, capsys):
    stated = licensed(miniature, tmp_path / "stated")
    assert cli.main(publish(miniature / "curated", tmp_path / "d")) == 0
    line = failure(capsys, *publish(stated, tmp_path / "d"))
    assert "for the same rows with other files beside them" in line
    assert "--version" in line
    before = contents(tmp_path / "d" / VERSION)
    # Held, and not complete yet: the other making is refused as well, and nothing of it is there.
    (tmp_path / "d" / VERSION / "manifest.json").unlink()
    (tmp_path / "d" / VERSION / "README.md").unlink()
    assert "for the same rows with other files" in failure(capsys, *publish(stated, tmp_path / "d"))
    assert cli.main(publish(miniature / "curated", tmp_path / "d")) == 0
    assert contents(tmp_path / "d" / VERSION) == before
    # The job's version is part of what it is: a finished directory does not pass for another one.
    same = ["--license=CC-BY-4.0", "--version=1.1.0", f"--output={stated}"]
    selections = [f"--corpus={miniature}/corpora/pool", f"--selections={miniature}/workdirs/distill", "--budget=16"]
    line = failure(capsys, "curate", *selections, "--name=mini_curated", "--shards=2", *same)
    assert "version was '1.0.0', now '1.1.0'" in line
    assert cli.main(publish(licensed(miniature, tmp_path / "new", "--version=1.1.0"), tmp_path / "d")) == 0
    assert verify(str(tmp_path / "d/mini_curated/1.1.0")).findings == []


def test_a_file_that_was_lost_after_publication_comes_back(miniature, tmp_path, capsys):
    assert cli.main(publish(miniature / "curated", tmp_path)) == 0
    before = contents(tmp_path / VERSION)
    sorted((tmp_path / VERSION).glob("*-of-*"))[1].unlink()
    capsys.readouterr()
    assert cli.main(publish(miniature / "curated", tmp_path)) == 0
    said = capsys.readouterr().err
    assert "nothing to do" not in said
    assert "is gone, or has another size" in said
    assert contents(tmp_path / VERSION) == before


def test_verify_names_a_claim_that_was_altered_or_belongs_elsewhere(miniature, other, tmp_path, capsys):
    for source, destination in ((miniature / "curated", "ours"), (other, "theirs")):
        assert cli.main(publish(source, tmp_path / destination)) == 0
    claim = tmp_path / "ours" / VERSION / "_claim.json"
    whole = claim.read_bytes()
    for altered in (whole.replace(b"  ", b" ", 1), (tmp_path / "theirs" / VERSION / "_claim.json").read_bytes()):
        claim.write_bytes(altered)
        [finding] = verify(str(claim.parent)).findings
        assert finding.startswith("_claim.json: ")
    claim.write_bytes(whole[:-2])
    assert f"{claim} was altered" in failure(capsys, *publish(miniature / "curated", tmp_path / "ours"))

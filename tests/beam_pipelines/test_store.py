"""Folders and buckets behave alike: files are created once, and replaced only if they are as they were read."""

import os
import threading

import pytest

from beam_pipelines import store as stores
from beam_pipelines.store import ABSENT, Content, Stored
from schemas import access, storage
from schemas.errors import ConfigError
from tests import gcs
from tests.schemas.test_access import store as answering

HELLO = Stored(5, "mnG7TA==")  # CRC-32C of b"hello", as Google's documentation writes checksums


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with gcs.emulator(tmp_path_factory.mktemp("store") / "requests.log") as server:
        server.make_bucket("bucket")
        yield server


@pytest.fixture
def _forgetful():
    for cached in (access._check_bucket, stores._client):
        cached.cache_clear()
    yield
    for cached in (access._check_bucket, stores._client):
        cached.cache_clear()


@pytest.fixture(params=["folder", "bucket", "a whole bucket"])
def store(request, tmp_path, server, monkeypatch, _forgetful):
    if request.param == "folder":
        return stores.at(str(tmp_path / "data"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    if request.param == "bucket":
        return stores.at(f"gs://bucket/{tmp_path.name}")
    server.make_bucket(name := f"bucket-{os.getpid()}-{tmp_path.name[-9:]}".replace("_", "-").lower())
    return stores.at(f"gs://{name}")


def test_a_file_is_created_once_and_the_store_describes_it(store):
    assert store.describe("a/b") is None
    assert store.read("a/b") is None
    assert stores.put(store, "a/b", b"hello")
    assert store.describe("a/b") == HELLO
    assert not stores.put(store, "a/b", b"other")
    assert store.read("a/b").content == b"hello"
    assert stores.put(store, ".hidden", b"")
    assert store.sizes() == {"a/b": 5, ".hidden": 0}


def test_a_large_file_arrives_whole(store):
    """Beyond 8 MiB Google's client uploads in another way."""
    content, ours = os.urandom(9 << 20), stores.Checksum()
    ours.update(content)
    assert stores.put(store, "large", content)
    assert store.describe("large") == ours.stored()


def test_a_file_is_replaced_only_if_it_is_the_one_that_was_read(store):
    assert not store.replace("pointer", b"1", "12345")
    assert store.replace("pointer", b"1", ABSENT)
    assert not store.replace("pointer", b"2", ABSENT)
    first = store.read("pointer")
    assert first.content == b"1"
    assert store.replace("pointer", b"2", first.generation)
    assert not store.replace("pointer", b"3", first.generation)
    assert store.read("pointer") == Content(b"2", store.read("pointer").generation)


def test_of_many_that_create_or_replace_at_once_one_does(store):
    stores.put(store, "pointer", b"0")
    read = store.read("pointer").generation
    for act in (lambda n: stores.put(store, "new", n), lambda n: store.replace("pointer", n, read)):
        barrier, done = threading.Barrier(8), []

        def go(number: int, act=act, barrier=barrier, done=done) -> None:
            barrier.wait()
            done.append(act(str(number).encode()))

        threads = [threading.Thread(target=go, args=[number]) for number in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(done) == [False] * 7 + [True]


def test_temporary_files_are_no_files_and_an_empty_place_has_none(tmp_path):
    store = stores.at(str(tmp_path / "data"))
    assert store.sizes() == {}
    with storage.temporary_file(store.url("a")) as temporary:
        temporary.write_bytes(b"half")
        assert store.sizes() == {}


@pytest.mark.usefixtures("_forgetful")
@pytest.mark.parametrize(("status", "kind"), [(403, PermissionError), (404, OSError), (400, OSError)])
def test_what_the_bucket_answers_is_told_in_one_line(monkeypatch, status, kind):
    with answering(403) as (url, _):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        store = stores.at("gs://bucket/data")
    with answering(status) as (url, _):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        with pytest.raises(kind, match=rf"^gs://bucket/data: the store answers {status}$"):
            store.sizes()


@pytest.mark.parametrize("root", ["", "s3://bucket/data", "gs://", "gs:///data", "http://example.org"])
def test_other_addresses_are_refused(root):
    with pytest.raises(ConfigError, match="destination is"):
        stores.check_address("destination", root)


@pytest.mark.parametrize("root", ["gs://bucket", "gs://bucket/a/b/", "/data", "relative", "~/data"])
def test_folders_and_buckets_are_addresses(root):
    stores.check_address("destination", root)

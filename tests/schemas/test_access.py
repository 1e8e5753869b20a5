"""Whether a bucket can be used: each way in which it cannot ends in one line, at once."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from schemas import access, manifest, shards, storage
from schemas.errors import DataError


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch, tmp_path):
    access._check_bucket.cache_clear()
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    yield
    access._check_bucket.cache_clear()


@contextlib.contextmanager
def store(status: int):
    """A server that answers every request with a status; yields its address and what was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, format, *args):  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    "touch",
    [
        lambda: manifest.read("gs://bucket/corpus", kind="corpus"),
        lambda: manifest.exists("gs://bucket/corpus"),
        lambda: shards.ShardReader("gs://bucket/corpus/shard", 1),
        lambda: storage.read_bytes("gs://bucket/tokenizer.model"),
        lambda: storage.hash_file("gs://bucket/model.npz"),
        lambda: storage.replace("gs://bucket/config.json", b"{}"),
        lambda: storage.write_once("gs://bucket/manifest.json", b"{}"),
        lambda: storage.relative_files("gs://bucket/workdir"),
    ],
)
def test_without_credentials_every_first_touch_of_a_bucket_says_what_to_do(touch):
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"gs://bucket cannot be used: no Google credentials .*gcloud auth"):
        touch()
    assert time.monotonic() - begin < 10


def test_a_damaged_key_file_is_named(monkeypatch, tmp_path):
    (tmp_path / "key.json").write_text("{}")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(DataError, match=r"gs://bucket cannot be used.*key\.json"):
        access.check("gs://bucket/x")


@pytest.mark.parametrize(
    ("status", "words"), [(401, r"refuses these credentials.*gcloud auth"), (404, "gs://bucket does not exist")]
)
def test_what_the_store_answers_is_said(monkeypatch, status, words):
    with store(status) as (url, _):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        with pytest.raises(DataError, match=words):
            access.check("gs://bucket/x")


@pytest.mark.parametrize("status", [200, 403])
def test_a_bucket_is_asked_once_and_need_not_be_listable(monkeypatch, status):
    with store(status) as (url, asked):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url.removeprefix("http://"))
        access.check("gs://bucket/x")
        access.check("gs://bucket/y/z")
        access.check("gs://other")
    assert [path.split("?")[0] for path in asked] == ["/storage/v1/b/bucket/o", "/storage/v1/b/other/o"]


def test_a_store_that_does_not_answer_is_told(monkeypatch):
    with store(200) as (url, _):
        pass
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
    with pytest.raises(DataError, match=r"gs://bucket cannot be reached"):
        access.check("gs://bucket/x")


def test_local_paths_are_not_asked_about(tmp_path):
    access.check(tmp_path)
    access.check("relative/path")


def test_a_service_account_is_known_by_its_address_and_a_person_is_not(monkeypatch, tmp_path):
    assert access.service_account() is None  # nobody
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(*form).decode()
    account = {
        "type": "service_account", "client_email": "publish@a-project.iam.gserviceaccount.com", "private_key": key,
        "token_uri": "https://oauth2.googleapis.com/token",
    }  # fmt: skip
    person = {"type": "authorized_user", "client_id": "x", "client_secret": "y", "refresh_token": "z"}
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    for credentials, address in ((account, account["client_email"]), (person, None)):
        (tmp_path / "key.json").write_text(json.dumps(credentials))
        assert access.service_account() == address

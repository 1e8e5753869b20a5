"""Claims and aliases: what is written is read back, and a single other bit is noticed."""

import json

import pytest

from schemas import alias, claim
from schemas.alias import Alias, read_alias
from schemas.claim import Claim, read_claim
from schemas.errors import ConfigError, DataError, IntegrityError

CLAIM = Claim(
    fingerprint="f" * 64,
    files="e" * 64,
    name="pool",
    version="1.0.0",
    publisher="Zoë Ångström",
    created="2026-11-24T10:00:00+00:00",
)
ALIAS = Alias(
    name="pool", version="1.0.0", fingerprint="f" * 64, path="gs://b/pool/1.0.0", moved="2026-11-24T10:00:00+00:00",
    publisher="Zoë Ångström",
)  # fmt: skip


def test_a_claim_is_read_back(tmp_path):
    with pytest.raises(DataError, match=r"was not published: it has no _claim\.json"):
        read_claim(str(tmp_path))
    (tmp_path / claim.FILE_NAME).write_bytes(CLAIM.serialise())
    assert read_claim(str(tmp_path)) == CLAIM


def test_an_alias_is_read_back(tmp_path):
    with pytest.raises(DataError, match="pool has no alias 'latest' in"):
        read_alias(str(tmp_path), "pool", "latest")
    path = tmp_path / alias.file_name("pool", "latest")
    path.parent.mkdir(parents=True)
    path.write_bytes(ALIAS.serialise())
    assert read_alias(str(tmp_path), "pool", "latest") == ALIAS


@pytest.mark.parametrize("record", [CLAIM, ALIAS], ids=["claim", "alias"])
def test_every_flipped_bit_is_noticed(record):
    whole = record.serialise()
    for bit in range(8 * len(whole)):
        altered = bytearray(whole)
        altered[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError, match=r"^there was altered"):
            type(record).parse(bytes(altered), "there")


@pytest.mark.parametrize(
    "alter",
    [
        lambda fields: json.dumps(fields),  # other white space
        lambda fields: json.dumps(fields | {"version": "2.0.0"}, indent=2) + "\n",
        lambda fields: json.dumps(fields | {"more": ""}, indent=2) + "\n",
        lambda fields: json.dumps({"name": "pool"}),
        lambda fields: "[]",
        lambda fields: "3",
        lambda fields: "",
        lambda fields: "[" * 100_000,
        lambda fields: json.dumps(fields | {"publisher": "\ud800"}),
    ],
)
def test_what_is_no_claim_is_refused(alter):
    with pytest.raises(IntegrityError, match="there was altered"):
        Claim.parse(alter(json.loads(CLAIM.serialise())).encode(), "there")


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words", "a\n"])
def test_aliases_are_file_names(name):
    with pytest.raises(ConfigError, match="alias is"):
        alias.check_alias(name)


@pytest.mark.parametrize("name", ["latest", "v1.2-rc_3", "2026-11"])
def test_usual_aliases_are_fine(name):
    alias.check_alias(name)

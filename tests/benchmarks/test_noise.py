"""The noisy pool: stated shares, truth that is true, and nothing of it in what jobs read."""

import json
from collections import Counter

from benchmarks.noise import Noise, Pair, Truth, corrupt, disjoint, write_folder, write_truth
from schemas.identity import example_uid
from tests.conftest import picture

PAIRS = [
    Pair(family=str(i // 2), image=picture(i), suffix=".png", text=f"thing {i}", language="en" if i % 3 else "de")
    for i in range(300)
]
NOISE = Noise(mismatched=0.5, boilerplate=0.1, duplicates=0.05, broken=0.02)


def test_shares_are_as_stated():
    pool = corrupt(PAIRS, NOISE, seed=0)
    assert len(pool) == 300 + 15 + 6
    kinds = Counter(noisy.truth for noisy in pool[:300])
    assert 120 < kinds[Truth.MISMATCHED] < 180
    assert 15 < kinds[Truth.BOILERPLATE] < 45
    assert sum(noisy.truth is None for noisy in pool) == 6
    assert pool == corrupt(PAIRS, NOISE, seed=0) != corrupt(PAIRS, NOISE, seed=1)


def test_mismatched_captions_are_of_another_family_in_the_same_language():
    owner = {pair.text: pair for pair in PAIRS}
    for before, noisy in zip(PAIRS, corrupt(PAIRS, NOISE, seed=0), strict=False):
        if noisy.truth == Truth.MATCHED:
            assert noisy.pair == before
        if noisy.truth == Truth.MISMATCHED:
            assert owner[noisy.pair.text].family != before.family
            assert owner[noisy.pair.text].language == before.language


def test_the_truth_is_kept_apart(tmp_path):
    pool = corrupt(PAIRS, NOISE, seed=0)
    write_folder(tmp_path / "pool", [noisy.pair for noisy in pool], seed=0)
    write_truth(tmp_path / "truth.json", pool)
    truth = json.loads((tmp_path / "truth.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "pool/captions.jsonl").read_text().splitlines()]
    assert len(lines) == len(pool)
    assert set(lines[0]) == {"file_name", "text", "language"}
    uids = Counter(example_uid((tmp_path / "pool" / line["file_name"]).read_bytes(), line["text"]) for line in lines)
    assert set(truth) <= set(uids)
    assert sum(n for uid, n in uids.items() if uid not in truth) == 6


def test_no_picture_is_in_two_parts():
    parts = disjoint({"evaluation": PAIRS[:3], "seed": [PAIRS[2], *PAIRS[3:5]], "pool": [*PAIRS[4:6], PAIRS[0]]})
    assert parts == {"evaluation": PAIRS[:3], "seed": PAIRS[3:5], "pool": PAIRS[5:6]}

"""The Terraform folder that a team copies: checked offline, and what its alerts look for is what our jobs say."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from beam_pipelines import job
from schemas import errors
from schemas import manifest as manifests
from tests import commands

EXAMPLE = commands.ROOT / "infra" / "terraform" / "examples" / "minimal"
# fmt, validate and test against a provider that knows schemas only; it is no part of this repository.
CHECK = Path(os.environ.get("TERRAFORM_CHECK") or commands.ROOT.parent / "shared/terraform-check/terraform-offline")


def test_terraforms_own_tests_pass_offline():
    if not CHECK.exists():
        pytest.skip(f"{CHECK} is not there: name a script that runs terraform offline with TERRAFORM_CHECK")
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not on the path")
    done = subprocess.run([CHECK, EXAMPLE], capture_output=True, text=True, timeout=540, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    passed, failed = re.search(r"(\d+) passed, (\d+) failed", done.stdout).groups()
    runs = sum(file.read_text().count('run "') for file in (EXAMPLE / "tests").iterdir())
    assert (int(passed), int(failed)) == (runs, 0)


def test_an_alert_finds_the_line_of_a_job_that_rejected_too_much():
    alerts = (EXAMPLE / "superbatch" / "alerts.tf").read_text()
    wanted = set(re.findall(r'(?:textPayload|jsonPayload\.message):"([^"]+)"', alerts))
    assert wanted
    with pytest.raises(errors.DataError) as raised:
        job.check_rejected(manifests.Counts(read=4, kept=1, rejected={"not_an_image": 3}), 0.05)
    assert all(words in str(raised.value) for words in wanted)


def test_nothing_is_granted_to_everybody_or_by_a_primitive_role():
    """Also where Terraform's own tests cannot run."""
    files = list(EXAMPLE.rglob("*.tf"))
    assert len(files) > 10
    for file in files:
        text = re.sub(r"#.*|(?:error_message|description) *=.*", "", file.read_text())
        assert not re.search(r"allUsers|allAuthenticatedUsers|roles/(owner|editor|viewer)\b", text), file
        assert not re.search(r'"google_\w+_iam_(?:binding|policy)"', text) or file.name == "published.tf"

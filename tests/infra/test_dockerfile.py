"""The Dockerfile: linted, bases by digest, and it installs what the lock says."""

import re
import subprocess
import sys
from pathlib import Path

from infra.flex import templates
from tests import commands

DOCKERFILE = commands.ROOT / "infra" / "flex" / "Dockerfile"
TEXT = DOCKERFILE.read_text()


def test_hadolint_has_nothing_to_say():
    lint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([lint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_every_base_is_an_argument_that_must_name_a_digest():
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", TEXT, re.MULTILINE)
    names = {name for _, name in stages}
    bases = {image for image, _ in stages if image not in names}
    assert bases == {"${PYTHON_IMAGE}", "${BEAM_IMAGE}", "${LAUNCHER_IMAGE}"}
    assert not re.search(r"^ARG (PYTHON|BEAM|LAUNCHER)_IMAGE=", TEXT, re.MULTILINE)
    check = re.search(r"RUN (for image in .*?done)$", TEXT, re.MULTILINE | re.DOTALL)[1].replace("\\\n", "")
    for image, code in (("python@sha256:0", 0), ("python:3.11", 1), ("", 1)):
        environment = {"PYTHON_IMAGE": image, "BEAM_IMAGE": "a@sha256:0", "LAUNCHER_IMAGE": "b@sha256:0"}
        done = subprocess.run(["bash", "-ec", check], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert code == 0 or "is not named by its digest" in done.stderr


def test_it_knows_every_job_and_sets_nothing_else_for_the_launcher():
    [jobs] = re.findall(r"for job in ([a-z ]+); do", TEXT)
    assert set(jobs.split()) == {template.job for template in templates.TEMPLATES}
    assert set(re.findall(r"FLEX_TEMPLATE_\w+(?==)", TEXT)) == {"FLEX_TEMPLATE_PYTHON_PY_FILE"}
    assert re.search(r'^ENTRYPOINT \["/opt/apache/beam/boot"\]$', TEXT, re.MULTILINE)


def test_its_beam_is_the_locked_one():
    """The commands in the README copy Beam's harness of this very version."""
    [locked] = re.findall(r"^apache-beam==(\S+)", (commands.ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert f"apache/beam_python3.11_sdk:{locked}" in (DOCKERFILE.parent / "README.md").read_text()


def test_what_is_copied_is_let_through_and_there():
    ignored = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [line.split()[1:-1] for line in TEXT.splitlines() if re.match(r"COPY (?!--from)", line)]
    paths = {word for words in copied for word in words if not word.startswith("--")}
    assert {"schemas", "trainer", "beam_pipelines", "infra", "requirements.lock"} <= paths
    for path in paths:
        assert (commands.ROOT / path).exists()
        assert f"!{path.split('/')[0]}" in ignored

"""The shape of the project: imports point one way, and TensorFlow stays out of workers and trainers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "schemas": set(),
    "trainer": {"schemas"},
    "beam_pipelines": {"schemas", "trainer"},
    "infra": {"schemas", "trainer", "beam_pipelines"},
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        ours = imported(path) & {*MAY_IMPORT, "benchmarks", "tests"}
        assert ours <= MAY_IMPORT[package] | {package}, path


@pytest.mark.parametrize(
    "module",
    [
        "beam_pipelines.ingest", "beam_pipelines.embed", "beam_pipelines.curate", "beam_pipelines.export",
        "beam_pipelines.publish", "trainer.loop", "infra.cli",
    ],
)  # fmt: skip
def test_tensorflow_stays_out(module):
    program = f"import sys, {module}; sys.exit(bool({{'tensorflow', 'mlcroissant'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, check=False).returncode == 0


def test_decoding_needs_no_jax():
    program = "import sys, trainer.decode; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_every_module_says_what_it_is():
    for package in (*MAY_IMPORT, "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            assert path.name == "__init__.py" or ast.get_docstring(ast.parse(path.read_text())), path

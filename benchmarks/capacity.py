"""What ten billion examples would take, on paper: `superbatch plan` for a cloud, at the paper's super-batch.

    python -m benchmarks.capacity --name=cpu

Enters: generated JPEGs of 256 pixels, and `benchmarks/capacity.toml`. Leaves: `benchmarks/results/capacity-NAME.json`
and its place in docs/operations.md. What a core does is measured here (checking, decoding, writing, choosing); what
devices do follows from their peak and a stated share of it.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import generated, performance_page
from benchmarks.noise import write_folder

_ROUND = Path(__file__).parent / "capacity.toml"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to plan."""

    name: str = "cpu"  # of the machine, in the result file's name
    device: str = "tpu-v5e"
    devices: int = 256
    workers: int = 1024  # vCPUs of the Beam jobs
    rows: int = 1024  # generated
    pixels: int = 256  # a side


def main(options: Options) -> None:
    """Measures, plans, keeps the figures, and writes the page anew."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_folder(folder / "raw", list(generated.pairs(options.rows, options.pixels)), seed=0)
        (folder / "round.toml").write_text(_ROUND.read_text().replace("FOLDER", scratch))
        said = generated.said(
            "plan", f"--config={folder / 'round.toml'}", f"--device={options.device}", f"--devices={options.devices}",
            f"--workers={options.workers}", "--epochs=1", "--task_rows=10000", "--json",
        )  # fmt: skip
    plan = json.loads(said)
    del plan["options"]["config"]  # where it lay
    (performance_page.RESULTS / f"capacity-{options.name}.json").write_text(json.dumps(plan, indent=1) + "\n")
    performance_page.write()


if __name__ == "__main__":
    import tyro

    main(tyro.cli(Options, description=__doc__))

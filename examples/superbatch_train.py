"""Trains a SigLIP model on a curated dataset with Superbatch's own trainer, and measures how well it retrieves.

    pip install superbatch
    python examples/superbatch_train.py --dataset=gs://bucket/curated/1.0.0 --held_out=gs://bucket/held_out/1.0.0 \\
        --workdir=gs://bucket/runs/first --preset=B/16 --steps=50000 --batch_size=1024

It is these two commands, and a look at the metrics between them:

    superbatch train --corpus=DATASET --workdir=WORKDIR --preset=B/16 --steps=50000 --batch_size=1024
    superbatch evaluate --checkpoint=WORKDIR --corpus=HELD_OUT

What to expect: the loss at the first steps and at the last, and recall at 1, 5 and 10 in both directions. The loss
begins near 10 and falls fast at first; recall tells more, and on little data it is best before the loss is lowest.
Started again, it goes on at the last checkpoint; when all is done, it only measures.
"""

import argparse
import json
import sys

from infra import cli
from schemas import storage


def main() -> int:
    """Runs both commands; flags that it does not know are `superbatch train`'s own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="directory of the dataset to train on, local or gs://")
    parser.add_argument("--held_out", required=True, help="directory of a corpus to measure on")
    parser.add_argument("--workdir", required=True, help="directory for checkpoints, metrics and the model")
    flags, training = parser.parse_known_args()

    code = cli.main(["train", f"--corpus={flags.dataset}", f"--workdir={flags.workdir}", "--log_every=1", *training])
    if code != 0:
        return code
    lines = storage.read_bytes(storage.as_path(flags.workdir) / "metrics.jsonl").splitlines()
    losses = [metrics["loss"] for metrics in map(json.loads, lines) if "loss" in metrics]
    tenth = max(1, len(losses) // 10)
    first, last = (sum(part) / tenth for part in (losses[:tenth], losses[-tenth:]))
    print(f"loss {first:.4f} at the first tenth of {len(losses)} steps, {last:.4f} at the last")
    return cli.main(["evaluate", f"--checkpoint={flags.workdir}", f"--corpus={flags.held_out}"])


if __name__ == "__main__":
    sys.exit(main())

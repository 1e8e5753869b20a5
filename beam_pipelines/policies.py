"""Which rows a curated dataset takes: from picks and offers to a ranked table. Pure; no Beam.

Enters: the picks and super-batches of a distill run. Leaves: one row for every corpus row that was ever picked, best
first. All orders are total (ties are settled by uid), so a budget cuts them reproducibly.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Policy = Literal["visits", "learnability", "recent"]

_ORDERS: dict[Policy, list[tuple[str, str]]] = {
    # Within one epoch every count is 0 or 1; the mean conditional logit then decides.
    "visits": [("visits_per_offer", "descending"), ("conditional", "descending"), ("uid", "ascending")],
    "learnability": [("learnability", "descending"), ("uid", "ascending")],
    "recent": [("last_step", "descending"), ("visits_per_offer", "descending"), ("uid", "ascending")],
}


def aggregate(picks: pa.Table, offers: np.ndarray) -> pa.Table:
    """Sums up every picked row: visits, visits per offer, first and last step, mean conditional and learnability.

    Args:
      picks: as `schemas.selections.PICKS`.
      offers: how often each corpus row was a candidate [rows].
    """
    learnability = pc.subtract(  # type: ignore[attr-defined]
        picks["learner_nll"].cast(pa.float64()), picks["reference_nll"].cast(pa.float64())
    )
    table = picks.append_column("learnability", learnability)
    rows = table.group_by(["row", "uid"], use_threads=False).aggregate(
        [("step", "count"), ("step", "min"), ("step", "max"), ("conditional", "mean"), ("learnability", "mean")]
    )
    visits = rows["step_count"].to_numpy()
    return pa.table(
        {
            "row": rows["row"],
            "uid": rows["uid"],
            "visits": visits,
            "visits_per_offer": visits / offers[rows["row"].to_numpy()],
            "first_step": rows["step_min"],
            "last_step": rows["step_max"],
            "conditional": rows["conditional_mean"],
            "learnability": rows["learnability_mean"],
        }
    )


def count_offers(superbatches: pa.Table, block_size: int, rows: int) -> np.ndarray:
    """Returns how often each corpus row was offered, from the block ids of every step [rows].

    The last block may be filled up with rows of the first; those copies were marked invalid and do not count.
    """
    blocks = superbatches["blocks"].combine_chunks().flatten().to_numpy()
    per_block = np.bincount(blocks, minlength=-(-rows // block_size))
    return np.repeat(per_block, block_size)[:rows]


def rank(aggregated: pa.Table, policy: Policy) -> pa.Table:
    """Returns the rows that `aggregate` found, best first under a policy."""
    return aggregated.sort_by(_ORDERS[policy])

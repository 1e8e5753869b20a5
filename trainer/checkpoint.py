"""Checkpoints: everything a run needs to go on as if it had never stopped, saved by Orbax.

Parameters, optimiser and step are one item; the rows of the selections part that is still open are another
(Arrow streams, hexadecimal). The data position and all randomness follow from (seed, step).
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from schemas import storage
from schemas.errors import IntegrityError

CHECKPOINTS = "checkpoints"
_KEPT = 2


@dataclass(frozen=True)
class Restored:
    """The newest checkpoint's contents."""

    step: int
    state: Any
    open_rows: dict[str, bytes]  # Arrow stream of every table of the open selections part


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, directory: str):
        self._manager = ocp.CheckpointManager(
            storage.absolute(directory),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT, enable_async_checkpointing=False, cleanup_tmp_directories=True
            ),
        )

    def close(self) -> None:
        """Waits for writes and releases the manager."""
        self._manager.close()

    def save(self, step: int, state: Any, open_rows: dict[str, bytes]) -> None:
        """Saves the state after `step` updates; a step already saved stays."""
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                open_rows=ocp.args.JsonSave({name: rows.hex() for name, rows in open_rows.items()}),
            ),
        )
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> Restored | None:
        """Restores the newest checkpoint into the shapes and placement of `like`; None if there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, like)),
                open_rows=ocp.args.JsonRestore(),
            ),
        )
        rows = {name: bytes.fromhex(text) for name, text in found["open_rows"].items()}
        return Restored(step, found["state"], rows)


def restore_parameters(directory: str, like: Any) -> Any:
    """Restores only the parameters of the newest checkpoint.

    Raises:
      IntegrityError: there is no checkpoint.
    """
    options = ocp.CheckpointManagerOptions(create=False, read_only=True)
    manager = ocp.CheckpointManager(storage.absolute(directory), options=options)
    try:
        step = manager.latest_step()
        if step is None:
            raise IntegrityError(f"{directory} holds no checkpoint")
        abstract = {"parameters": jax.tree.map(ocp.utils.to_shape_dtype_struct, like)}
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    abstract,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
                    partial_restore=True,
                )
            ),
        )
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise IntegrityError(f"{directory}: the checkpoint cannot be restored: {reason}") from None
    finally:
        manager.close()
    return jax.tree.map(np.asarray, restored["state"]["parameters"])

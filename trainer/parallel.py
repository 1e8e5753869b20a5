"""Where a training step's arrays lie: on one device, or over a mesh of all devices of all processes.

Enters: a run's settings, and each process's own candidates. Leaves: a `Layout`, which places arrays on the mesh and
says inside a program how they lie. There is one mesh axis, `data`: candidates, sub-batches and activations are split
over it, and so are parameters and the optimiser's moments if they are fully sharded (XLA then gathers a layer's weights
when they are used).

A super-batch is split equally, and its picks are not: a device may hold many of them and another none. `Layout.take`
evens them out: every device ends with an equal share, in drawing order.
"""

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from schemas.errors import ConfigError, DataError, Stopped, SuperbatchError
from trainer.placement import Shard

_AXIS = "data"
_SMALLEST_SHARDED = 1 << 14  # elements; splitting smaller parameters costs more than it saves
_SPLIT, _WHOLE = PartitionSpec(_AXIS), PartitionSpec()
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """How arrays lie; hashable, so that it can be a static argument. Without a mesh, everything is on one device."""

    mesh: Mesh | None = None
    shard_parameters: bool = False

    @property
    def devices(self) -> int:
        """The number of devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.size

    # --- On the host -------------------------------------------------------------------------------------------

    def place_batch(self, own: Any) -> Any:
        """Makes global arrays, split over the devices, of what each process holds: its part, in process order."""
        if self.mesh is None:
            return jax.tree.map(jnp.asarray, own)
        split = NamedSharding(self.mesh, _SPLIT)
        return jax.tree.map(lambda array: jax.make_array_from_process_local_data(split, np.asarray(array)), own)

    def place_parameters(self, tree: Any) -> Any:
        """Places arrays that every process holds alike, whole on each device or fully sharded."""
        if self.mesh is None:
            return tree

        def placed(array: Any) -> jax.Array:
            host = np.asarray(array)
            return jax.make_array_from_callback(host.shape, self._of_parameter(host), lambda index: host[index])

        return jax.tree.map(placed, tree)

    def to_host(self, tree: Any) -> Any:
        """Copies parameters, wherever they lie, into every process's memory."""
        if self.mesh is not None and self.shard_parameters:
            tree = jax.jit(lambda t: t, out_shardings=NamedSharding(self.mesh, _WHOLE))(tree)
        return jax.tree.map(np.asarray, tree)

    def own_rows(self, count: int) -> range:
        """Which of `count` rows, split over the devices, lie on this process's."""
        share = count // jax.process_count()
        return range(share * jax.process_index(), share * (jax.process_index() + 1))

    # --- Inside a program ----------------------------------------------------------------------------------------

    def split(self, tree: Any) -> Any:
        """Says that arrays are split over the devices along their first axis."""
        return self._constrained(tree, _SPLIT)

    def whole(self, tree: Any) -> Any:
        """Says that every device has all of these arrays."""
        return self._constrained(tree, _WHOLE)

    def parameters(self, tree: Any) -> Any:
        """Says that these lie as `place_parameters` places them."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda a: lax.with_sharding_constraint(a, self._of_parameter(a)), tree)

    def in_batches(self, array: Array, size: int) -> Array:
        """Cuts an array that is split over the devices into batches of at most `size` rows for each device.

        [B, …] → [batches, n, …], every batch split over the devices. Nothing moves: a batch takes the next rows of each
        device. The last ones are filled up with zeros.
        """
        own = len(array) // self.devices
        batches = -(-own // size)
        length = -(-own // batches)
        by_device = array.reshape(self.devices, own, *array.shape[1:])
        padded = jnp.pad(by_device, [(0, 0), (0, batches * length - own)] + [(0, 0)] * (array.ndim - 1))
        cut = jnp.moveaxis(padded.reshape(self.devices, batches, length, *array.shape[1:]), 1, 0)
        return self._constrained(cut.reshape(batches, -1, *array.shape[1:]), PartitionSpec(None, _AXIS))

    def from_batches(self, array: Array, rows: int) -> Array:
        """Undoes `in_batches`: [batches, n, …] → [rows, …]."""
        batches, own = len(array), rows // self.devices
        by_device = jnp.moveaxis(array.reshape(batches, self.devices, -1, *array.shape[2:]), 0, 1)
        whole = by_device.reshape(self.devices, -1, *array.shape[2:])[:, :own]
        return self.split(whole.reshape(rows, *array.shape[2:]))

    def take(self, array: Array, index: Int[Array, "n"]) -> Array:
        """Evens out rows of a split array over the devices: [B, …] → [n, …], split in the order of `index`.

        Devices contribute the rows that they hold and zeros for the others, and the sum is scattered: exact, and every
        row crosses the interconnect once for each device on its way. It is done in slices, such that a device never
        holds more than about its own share of the result beside it.
        """
        if self.mesh is None:
            return array[index]
        share = len(index) // self.devices
        shard = Shard(len(array), _AXIS)
        slice_ = max(n for n in range(1, share + 1) if share % n == 0 and n <= max(1, share // self.devices))

        def exchange(own: Array, index: Array) -> Array:
            def one(wanted: Int[Array, "rows"]) -> Array:
                return lax.psum_scatter(shard.held(own, wanted), _AXIS, scatter_dimension=0, tiled=True)

            # Slice s holds rows s·slice … of every device's share.
            slices = jnp.moveaxis(index.reshape(self.devices, -1, slice_), 1, 0).reshape(-1, self.devices * slice_)
            return lax.map(one, slices).reshape(share, *own.shape[1:])

        return jax.shard_map(exchange, mesh=self.mesh, in_specs=(_SPLIT, _WHOLE), out_specs=_SPLIT)(array, index)

    def _constrained(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda array: lax.with_sharding_constraint(array, sharding), tree)

    def _of_parameter(self, array: Any) -> NamedSharding:
        """Fully sharded, a parameter is split along its largest axis that the devices can share."""
        assert self.mesh is not None
        fitting = [axis for axis, length in enumerate(array.shape) if length % self.mesh.size == 0]
        if not (self.shard_parameters and fitting and math.prod(array.shape) >= _SMALLEST_SHARDED):
            return NamedSharding(self.mesh, _WHOLE)
        longest = max(fitting, key=lambda axis: array.shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * longest, _AXIS))


def layout(*, shard_parameters: bool = False, shared: dict[str, int]) -> Layout:
    """The layout over all devices of all processes.

    Args:
      shared: by name, what each device gets an equal share of.

    Raises:
      ConfigError: something cannot be shared equally; names the nearest number that can.
    """
    devices = jax.device_count()
    for name, count in shared.items():
        if count % devices:
            near = max(devices, round(count / devices) * devices)
            raise ConfigError(
                f"{name} is {count}, which {devices} devices cannot share equally: choose a multiple of {devices}, "
                f"such as {near}, or use another number of devices"
            )
    if devices == 1:
        return Layout()
    return Layout(jax.make_mesh((devices,), (_AXIS,), axis_types=(AxisType.Auto,)), shard_parameters)


# --- Processes --------------------------------------------------------------------------------------------------------


def start_processes() -> None:
    """Joins the processes of a run; must come before anything else that JAX does.

    TPU pods, Slurm, MPI and Kubernetes tell JAX who is there. Elsewhere three environment variables do:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      ConfigError: nobody says who is there, or they do not find each other.
    """
    if jax.distributed.is_initialized():
        return
    # XLA's CPU backend would run independent collectives of one program in an order of its own in each process, which
    # then wait for each other. Accelerators have one order.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_enable_concurrency_optimized_scheduler=false"
    )
    count, own = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(num_processes=int(count) if count else None, process_id=int(own) if own else None)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"--distributed: the processes of this run cannot be joined ({' '.join(str(error).split())}). Start it on "
            "a TPU pod or under Slurm, MPI or Kubernetes, or set JAX_COORDINATOR_ADDRESS (host:port of process 0), "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID in every process"
        ) from None


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Ends this process at once if the block fails, where it is one of several.

    The others may be waiting for it inside a program, and would for minutes if it left in the usual way, which begins
    by waiting for them. So they lose the connection instead, and fail as well.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if jax.process_count() == 1:
            raise
        told = isinstance(error, SuperbatchError)
        log.error("process %d of this run failed: %s", jax.process_index(), error, exc_info=None if told else error)
        logging.shutdown()
        os._exit(1)


def is_primary() -> bool:
    """Whether this process is the one that writes what all share."""
    return jax.process_index() == 0


@contextlib.contextmanager
def primary_first() -> Iterator[None]:
    """Lets the primary process go through the block before the others enter it.

    Raises:
      DataError: in the others, if the block failed in the primary process.
    """
    if is_primary():
        try:
            yield
        except BaseException:
            multihost_utils.broadcast_one_to_all(np.int32(1))
            raise
        multihost_utils.broadcast_one_to_all(np.int32(0))
        return
    if multihost_utils.broadcast_one_to_all(np.int32(0)):
        raise DataError("the first process of this run failed: its own message says why")
    yield

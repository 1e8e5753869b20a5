"""Where a super-batch's candidates lie: all on one device, or an equal share on each along a mesh axis.

Enters: arrays of candidates, and a mesh or none. Leaves: the few operations in which devices have to agree (the highest
logits of all, the rows of those that were picked), the same whether there is one device or many.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from schemas.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """This device's candidates among all of them: the whole super-batch, or an equal share along a mesh axis.

    An index is always the candidate's in the super-batch, and the same on every device.
    """

    candidates: int  # B, in the whole super-batch
    axis: str | None

    def own(self, whole: Array) -> Array:
        """This device's part of an array that every device has: [B] → [shard]."""
        if self.axis is None:
            return whole
        devices = lax.axis_size(self.axis)
        padded = _pad(whole, -self.candidates % devices)
        length = len(padded) // devices
        return lax.dynamic_slice_in_dim(padded, lax.axis_index(self.axis) * length, length)

    def top(self, logits: Float[Array, "shard"], count: int) -> Int[Array, "n"]:
        """The indices of the `count` highest logits of all devices, descending, ties to the lower index.

        Nobody beyond a device's own best `count` can be among them. They are gathered in the devices' order, which is
        the order of the indices, so ties fall as they do on one device.
        """
        if self.axis is None:
            return lax.top_k(logits, count)[1].astype(jnp.int32)
        values, place = lax.top_k(logits, min(count, len(logits)))
        index = place.astype(jnp.int32) + self._first(len(logits))
        values, index = (lax.all_gather(a, self.axis, tiled=True, to="invarying") for a in (values, index))
        return index[lax.top_k(values, count)[1]]

    def take(self, array: Array, index: Int[Array, "n"]) -> Array:
        """Those candidates' rows of a sharded array, on every device: [shard, …] → [n, …]."""
        if self.axis is None:
            return array[index]
        return lax.psum(self.held(array, index), self.axis)

    def held(self, array: Array, index: Int[Array, "n"]) -> Array:
        """Those of a sharded array's rows that this device holds, and zeros for the others: [shard, …] → [n, …].

        One device has the row and all others have zeros, so a sum over the devices is exact.
        """
        place = index - self._first(len(array))
        here = ((place >= 0) & (place < len(array))).reshape(-1, *[1] * (array.ndim - 1))
        return jnp.where(here, array[jnp.clip(place, 0, len(array) - 1)], jnp.zeros((), array.dtype))

    def close(self, open_: Bool[Array, "shard"], index: Int[Array, "n"]) -> Bool[Array, "shard"]:
        """Marks picked candidates as no longer open."""
        if self.axis is None:
            return open_.at[index].set(False)
        place = index - self._first(len(open_))
        return open_.at[jnp.where(place < 0, len(open_), place)].set(False, mode="drop")

    def _first(self, length: int) -> Array:
        assert self.axis is not None
        return (lax.axis_index(self.axis) * length).astype(jnp.int32)


def bring(inputs: Any, mesh: Mesh, shard: Shard) -> Any:
    """Copies arrays that are committed to other devices to those of the mesh: JAX refuses to mix them."""
    devices = set(mesh.devices.flat)

    def copied(array):
        if not isinstance(array, jax.Array) or isinstance(array, Tracer) or not array.is_fully_addressable:
            return array
        if not array.committed or array.sharding.device_set == devices:
            return array
        split = array.ndim and len(array) == shard.candidates and len(array) % mesh.shape[shard.axis] == 0
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(shard.axis) if split else PartitionSpec()))

    return jax.tree.map(copied, inputs)


def place(inputs: Any, layout: Any, mesh: Mesh, shard: Shard) -> Any:
    """Lays the inputs out on the mesh as `layout` says, inside a program; nothing moves that lies so already.

    Devices hold equally many candidates: what is missing to that is filled up with zeros, so with candidates that are
    not valid.
    """
    missing = -shard.candidates % mesh.shape[shard.axis]

    def laid_out(spec, array):
        return jax.device_put(_pad(array, missing) if any(spec) else array, NamedSharding(mesh, spec))

    return jax.tree.map(laid_out, layout, inputs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def data_axis(mesh: Mesh) -> str:
    """The mesh axis over which candidates are sharded: the one called `data`, or the only one.

    Raises:
      ConfigError: there are several, and none is called so.
    """
    if "data" in mesh.axis_names:
        return "data"
    if len(mesh.axis_names) == 1:
        return mesh.axis_names[0]
    raise ConfigError(
        f"the mesh has the axes {', '.join(map(str, mesh.axis_names))}; candidates are sharded over one called 'data': "
        "name the axis so, or pass a mesh of one axis"
    )


def _pad(array: Array, rows: int) -> Array:
    return jnp.pad(array, [(0, rows)] + [(0, 0)] * (array.ndim - 1)) if rows else array

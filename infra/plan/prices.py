"""The price table: a TOML file that its user edits, checked when it is read.

Enters: `infra/prices.toml`, or another. Leaves: `Prices`, which knows whether anyone has compared them with the pages
that they are from.
"""

import tomllib
from pathlib import Path

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from schemas import storage
from schemas.errors import ConfigError

DEFAULT = Path(__file__).parent.parent / "prices.toml"
GIB = 2**30


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Workers(_Strict):
    """What Dataflow's workers cost."""

    source: str
    vcpu_hour: float = Field(ge=0)
    gib_hour: float = Field(ge=0)
    gib_per_vcpu: float = Field(gt=0)
    shuffle_gib: float = Field(ge=0)

    @property
    def hour(self) -> float:
        """Of one vCPU with its memory."""
        return self.vcpu_hour + self.gib_per_vcpu * self.gib_hour


class Storage(_Strict):
    """What buckets cost."""

    source: str
    gib_month: float = Field(ge=0)
    writes_per_10000: float = Field(ge=0)
    reads_per_10000: float = Field(ge=0)


class Device(_Strict):
    """A TPU chip or a GPU."""

    source: str
    hour: float = Field(ge=0)
    peak_tflops: float = Field(gt=0)
    memory_gib: float = Field(gt=0)
    host_vcpus: float = Field(gt=0)


class Prices(_Strict):
    """The whole table."""

    checked: str
    currency: str
    region: str
    workers: Workers
    storage: Storage
    devices: dict[str, Device]

    def device(self, name: str) -> Device:
        """One device.

        Raises:
          ConfigError: the table has none of this name.
        """
        if name not in self.devices:
            raise ConfigError(
                f"device is {name!r}; the price table has {', '.join(self.devices)}: choose one, or add it there"
            )
        return self.devices[name]


def read(path: str | None) -> Prices:
    """Reads a table; the one beside this package if no other is named.

    Raises:
      ConfigError: it cannot be read, or something is missing, unknown or negative.
    """
    path = path or str(DEFAULT)
    try:
        return Prices.model_validate(tomllib.loads(storage.read_bytes(path).decode()))
    except OSError as error:
        raise ConfigError(f"prices {path} cannot be read: {error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"prices {path} is not TOML: {error}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f" is {first['input']!r}"
        raise ConfigError(f"prices {path}: {name}{given}: {first['msg'].lower()}; compare {DEFAULT}") from None

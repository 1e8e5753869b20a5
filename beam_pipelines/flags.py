"""Switches that are given as `--x=true` and `--x=false`: templates of jobs know no other way.

A Flex template passes every parameter as one word, `--name=value`. The flags of our configs (`--x`, `--no_x`) and
Beam's (`--x` alone) refuse a value. Here both spellings become the one that their parsers know. Nothing of Beam is
imported.
"""

import argparse
import dataclasses
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from schemas.errors import ConfigError

# What a switch is replaced by when it is true, and when it is false; None takes it away: its default is false.
Switches = Mapping[str, tuple[str, str | None]]


def of_config(config: type[Any]) -> Switches:
    """Lists the switches of a config dataclass, as tyro spells them: each bool field, with its negation."""
    hints, switches = typing.get_type_hints(config), dict[str, tuple[str, str | None]]()
    for field in dataclasses.fields(config):
        if hints[field.name] is bool:
            on, off = f"--{field.name}", f"--no_{field.name}"
            for spelled in (on, on.replace("_", "-")):
                switches[spelled] = (on, off)
            for spelled in (off, off.replace("_", "-")):
                switches[spelled] = (off, on)
    return switches


def of_parser(parser: argparse.ArgumentParser) -> Switches:
    """Lists the switches of a parser: each flag that takes no value, with the one that says the opposite, if any."""
    actions = [action for action in parser._actions if action.nargs == 0 and isinstance(action.const, bool)]
    switches: dict[str, tuple[str, str | None]] = {}
    for action in actions:
        opposite = (other for other in actions if other.dest == action.dest and other.const is not action.const)
        off = next((_long(other.option_strings) for other in opposite), None)
        switches |= {name: (name, off) for name in action.option_strings}
    return switches


def spell_out(arguments: Sequence[str], switches: Switches) -> list[str]:
    """Replaces `--x=true` and `--x=false` of known switches by what their parser takes; of several the last one counts.

    Raises:
      ConfigError: a switch has another value.
    """
    words: list[str] = []
    for argument in arguments:
        name, given, value = argument.partition("=")
        if not given or name not in switches:
            words.append(argument)
            continue
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{name.lstrip('-')} is {value!r}; it is a switch: {name}=true or {name}=false")
        on, off = switches[name]
        spelled = on if value.lower() == "true" else off
        if spelled is None:
            words = [word for word in words if word != on]
        else:
            words.append(spelled)
    return words


def _long(names: Iterable[str]) -> str:
    return max(names, key=len)

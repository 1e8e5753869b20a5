"""A stage of a round as a command line, for whatever runs it elsewhere.

Enters: a stage. Leaves: the words that `superbatch` or `python -m beam_pipelines.JOB` would be called with, or the
parameters of the job's Flex template.
"""

import json
from typing import Any

from infra.stages import Stage


def command(stage: Stage) -> list[str]:
    """The whole command, `superbatch` first."""
    return ["superbatch", stage.job, *flags(stage)]


def flags(stage: Stage) -> list[str]:
    """The flags of `superbatch JOB`; what is off is `--no-NAME`."""
    words = []
    for name, value in stage.config.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words.append(f"--{name}={_word(value)}")
    return words


def parameters(stage: Stage) -> dict[str, str]:
    """The parameters of the job's Flex template, which Dataflow turns into `--name=value`."""
    return {name: _word(value) for name, value in stage.config.items() if value is not None}


def _word(value: Any) -> str:
    """One word for a value: JSON for what has parts, true and false for those."""
    if isinstance(value, bool | dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)

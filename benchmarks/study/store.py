"""The records of the study's runs: `benchmarks/results/study/<corpus>-<noise>.json`, one run a line.

Only the process that schedules writes them, each file in one move. A run has one record, which its comparisons rest on.
It may have to be carried out again, for its parameters, where rounding makes it come out otherwise: such a repetition
is kept inside the record.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.study.runs import Reference, Run, name_of

RESULTS = Path(__file__).parents[1] / "results" / "study"


class Store:
    """All records, by the names of their runs."""

    def __init__(self, directory: Path = RESULTS):
        self._directory = directory
        self._records: dict[str, dict[str, Any]] = {}
        for path in sorted(directory.glob("*.json")):
            self._records |= {record["name"]: record | {"file": path.name} for record in json.loads(path.read_text())}

    def __contains__(self, run: Run) -> bool:
        return name_of(run) in self._records

    def __getitem__(self, run: Run) -> dict[str, Any]:
        return self._records[name_of(run)]

    def __len__(self) -> int:
        return len(self._records)

    def parameters_of(self, run: Run) -> list[str]:
        """The fingerprints of a run's parameters: the record's, then each repetition's."""
        record = self[run]
        return [one["fingerprints"]["parameters"] for one in (record, *record.get("repeats", []))]

    def add_repeat(self, run: Run, record: dict[str, Any]) -> None:
        """Keeps what a repetition came to beside the run's record, unless it is known to the bit."""
        if record["fingerprints"]["parameters"] not in self.parameters_of(run):
            again = {name: value for name, value in record.items() if name not in ("run", "columns")}
            self.add(run, self[run] | {"repeats": [*self[run].get("repeats", []), again]})

    def add(self, run: Run, record: dict[str, Any]) -> None:
        """Keeps a record in place of any before, and writes the file that it belongs to."""
        file = f"{run.corpus}-{'references' if isinstance(run, Reference) else f'{run.noise:g}'}.json"
        self._records[name_of(run)] = {"name": name_of(run), **record, "file": file}
        lines = [
            json.dumps({key: value for key, value in record.items() if key != "file"})
            for _, record in sorted(self._records.items())
            if record["file"] == file
        ]
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / f".{file}.tmp"
        temporary.write_text("[\n" + ",\n".join(lines) + "\n]\n")
        temporary.replace(self._directory / file)

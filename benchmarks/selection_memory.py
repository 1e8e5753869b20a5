"""What one form of selection needs at its peak: `python -m benchmarks.selection_memory FORM B d f` prints bytes.

Its inputs and its program are there before the measurement begins, so what is measured is temporaries and outputs: on
a CPU the growth of the process's resident memory to its high-water mark, on other devices that of the allocator.
"""

import sys
from pathlib import Path

import jax

from benchmarks import selection
from trainer.selection import SelectionConfig


def main(form: str, candidates: int, width: int, filter_ratio: float) -> int:
    """Runs the form once; returns the bytes at its peak beyond what was there before."""
    arguments = selection.inputs(candidates, width)
    program = selection.compiled(form, arguments, SelectionConfig(filter_ratio=filter_ratio))
    device = jax.devices()[0]
    if device.platform != "cpu":
        before = device.memory_stats()["bytes_in_use"]
        program()
        return device.memory_stats()["peak_bytes_in_use"] - before
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to what is resident now
    before = _status("VmRSS")
    program()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    print(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))

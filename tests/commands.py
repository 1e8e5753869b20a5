"""Commands in processes of their own: to be killed, to be one of several, or to see other devices.

All tests and their processes share one folder of compiled programs (tests/conftest.py).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(arguments: list[str], **environment: str) -> subprocess.Popen:
    """Starts `superbatch` with these arguments."""
    return start_module("infra.cli", arguments, **environment)


def start_module(module: str, arguments: list[str], **environment: str) -> subprocess.Popen:
    """Starts a module of ours with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-W", "ignore", "-m", module, *arguments], cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def start_processes(count: int, devices: int, arguments: list[str]) -> list[subprocess.Popen]:
    """Starts the processes of one run, with `devices` fake devices in all."""
    environment = fake_devices(devices // count)
    if count == 1:
        return [start(arguments, **environment)]
    coordinator = f"127.0.0.1:{free_port()}"
    return [
        start(
            [*arguments, "--distributed"], JAX_COORDINATOR_ADDRESS=coordinator, JAX_NUM_PROCESSES=str(count),
            JAX_PROCESS_ID=str(number), **environment,
        )
        for number in range(count)
    ]  # fmt: skip


def fake_devices(count: int) -> dict[str, str]:
    """The environment of a process with so many devices on one CPU.

    What is compared there is processes with processes; they compile the same programs, and quicker ones to compile.
    """
    return {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"
    }  # fmt: skip


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def finish(processes: list[subprocess.Popen], seconds: float = 240) -> list[tuple[int, str]]:
    """Waits for processes; returns each one's exit code and what it said. One that takes too long says where it is."""
    end, said = time.monotonic() + seconds, []
    for process in processes:
        try:
            said.append(process.communicate(timeout=max(1.0, end - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # it tells where its threads are
            said.append(process.communicate()[0])
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]

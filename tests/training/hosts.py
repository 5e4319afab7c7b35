"""Processes that are the hosts of a run, on the loopback address."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.limits import HANG

ROOT = Path(__file__).resolve().parents[2]


def start_hosts(commands):
    """Starts a Python process for each name -> arguments, all in one cluster."""
    sockets = [socket.create_server(("localhost", 0)) for _ in commands]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    clusters = [
        {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        for index in range(len(commands))
    ]
    return {
        name: start(arguments, TF_CONFIG=json.dumps(cluster))
        for (name, arguments), cluster in zip(commands.items(), clusters, strict=True)
    }


def start(arguments, **environment):
    """Starts a Python process whose outputs are pipes of text."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    """Waits for a process to end well; returns what it printed."""
    try:
        output, errors = process.communicate(timeout=HANG)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return output

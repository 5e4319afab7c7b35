"""`TF_CONFIG`: the hosts of a run, and which of them this process is.

    {"cluster": {"worker": ["a:1234", "b:1234"]}, "task": {"type": "worker", "index": 0}}

It is checked here first: with a wrong value TensorFlow runs alone, waits for ever or fails with an
unclear error.
"""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

VARIABLE = "TF_CONFIG"
_JOBS = ("chief", "worker")  # in the order of their hosts


class Cluster(NamedTuple):
    """The hosts of a run."""

    addresses: tuple[str, ...]  # host:port of each, the chief first
    host: int  # index of this process


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Reads and checks `TF_CONFIG`.

    Args:
        environment: The environment variables.

    Returns:
        The hosts; None if the variable is unset or empty.

    Raises:
        ValueError: Invalid JSON, no list of workers, jobs other than chief and worker, a duplicate
            address, or a task that is not in the cluster.

    Example:
        >>> cluster, task = '{"worker": ["a:1", "b:1"]}', '{"type": "worker", "index": 1}'
        >>> read_cluster({"TF_CONFIG": f'{{"cluster": {cluster}, "task": {task}}}'})
        Cluster(addresses=('a:1', 'b:1'), host=1)
    """
    text = environment.get(VARIABLE, "").strip()
    if not text:
        return None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{VARIABLE}: expected JSON, got {text!r} ({error})") from None
    if not isinstance(content, dict) or not content:
        raise _wrong('{"cluster": ..., "task": ...}', content)
    jobs = content.get("cluster")
    if not isinstance(jobs, dict) or not jobs.get("worker"):
        raise _wrong('"cluster" with a list "worker" of host:port', jobs)
    for job, addresses in jobs.items():
        if job not in _JOBS:
            raise _wrong('no jobs in "cluster" but chief and worker', job)
        if not isinstance(addresses, list) or not all(map(_is_address, addresses)):
            raise _wrong(f'a list of host:port in "cluster" at "{job}"', addresses)
    if len(jobs.get("chief", [])) > 1:
        raise _wrong("one chief at most", jobs["chief"])
    addresses = [address for job in _JOBS for address in jobs.get(job, [])]
    if len(set(addresses)) < len(addresses):
        raise _wrong("different addresses", addresses)
    task = content.get("task")
    if not isinstance(task, dict) or task.get("type") not in jobs:
        raise _wrong(f'"task" with "type" {" or ".join(jobs)} and "index"', task)
    count = len(jobs[task["type"]])
    index = task.get("index")
    if type(index) is not int or not 0 <= index < count:
        raise _wrong(f'"task" with an "index" from 0 to {count - 1}', task)
    return Cluster(tuple(addresses), addresses.index(jobs[task["type"]][index]))


def _is_address(address: Any) -> bool:
    host, colon, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host and colon and port.isdecimal())


def _wrong(expected: str, got: Any) -> ValueError:
    return ValueError(f"{VARIABLE}: expected {expected}, got {json.dumps(got)}")

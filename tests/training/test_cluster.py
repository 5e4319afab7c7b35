import json

import pytest

from fcos_tf.training.cluster import Cluster, read_cluster

JOBS = {"worker": ["a:1", "b:2"]}


def read(cluster, task):
    return read_cluster({"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})})


@pytest.mark.parametrize("environment", [{}, {"TF_CONFIG": ""}, {"TF_CONFIG": " "}])
def test_without_the_variable_there_is_no_cluster(environment):
    assert read_cluster(environment) is None


def test_workers_are_counted_in_their_order():
    assert read(JOBS, {"type": "worker", "index": 1}) == Cluster(("a:1", "b:2"), 1)


def test_a_chief_comes_first():
    jobs = {"worker": ["a:1", "b:2"], "chief": ["c:3"]}
    assert read(jobs, {"type": "chief", "index": 0}) == Cluster(("c:3", "a:1", "b:2"), 0)
    assert read(jobs, {"type": "worker", "index": 1}).host == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("{cluster", r"expected JSON, got '\{cluster'"),
        ("[]", r'expected \{"cluster": ..., "task": ...\}, got \[\]'),
        ('{"task": {}}', r'"cluster" with a list "worker" of host:port, got null'),
        ('{"cluster": {"worker": []}}', r'"cluster" with a list "worker".*got \{"worker": \[\]\}'),
        ('{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}}', 'chief and worker, got "ps"'),
        (
            '{"cluster": {"worker": "a:1"}}',
            r'host:port in "cluster" at "worker", got "a:1"',
        ),
        ('{"cluster": {"worker": ["a"]}}', r'a list of host:port.*got \["a"\]'),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', r"different addresses, got"),
        ('{"cluster": {"worker": ["a:1"], "chief": ["b:1", "c:1"]}}', "one chief at most"),
        ('{"cluster": {"worker": ["a:1"]}}', r'"task" with "type" worker and "index", got null'),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(ValueError, match=f"TF_CONFIG: .*{message}"):
        read_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize(
    "task, message",
    [
        ({"type": "master", "index": 0}, r'"type" worker .*got \{"type": "master"'),
        ({"type": "worker", "index": 2}, r'"index" from 0 to 1, got .*"index": 2'),
        ({"type": "worker", "index": "0"}, r'"index" from 0 to 1, got .*"index": "0"'),
        ({"type": "worker"}, r'"index" from 0 to 1'),
    ],
)
def test_a_task_that_is_not_in_the_cluster_is_named(task, message):
    with pytest.raises(ValueError, match=message):
        read(JOBS, task)

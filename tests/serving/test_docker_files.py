"""The files in docker/, as far as they can be checked without Docker."""

import json
import re
import subprocess
from fnmatch import fnmatch

import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

from tests.serving.docker_files import DOCKER, DOCKERFILES, ROOT, committed, compose, instructions

INSTRUCTIONS = {
    "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR"
}  # fmt: skip

# tensorflow/serving: g3doc/serving_config.md and model_servers/main.cc
SERVER_FLAGS = {
    "port", "rest_api_port", "rest_api_num_threads", "grpc_max_threads", "rest_api_timeout_in_ms",
    "model_name",
    "model_base_path", "enable_batching", "batching_parameters_file", "monitoring_config_file",
    "file_system_poll_wait_seconds", "enable_model_warmup",
}  # fmt: skip

# Fields of tensorflow/serving's messages: the wrapper of google.protobuf, or a plain type.
MESSAGES = {
    # servables/tensorflow/session_bundle_config.proto
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    # config/monitoring_config.proto
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
}


def parse(file, message):
    """A message of TensorFlow Serving from its text form."""
    kinds = descriptor_pb2.FieldDescriptorProto
    described = descriptor_pb2.FileDescriptorProto(
        name="messages.proto", syntax="proto3", dependency=["google/protobuf/wrappers.proto"]
    )
    for name, fields in MESSAGES.items():
        kind = described.message_type.add(name=name)
        for number, (field, text) in enumerate(fields.items(), 1):
            label, _, base = text.rpartition(" ")
            added = kind.field.add(name=field, number=number)
            added.label = kinds.LABEL_REPEATED if label else kinds.LABEL_OPTIONAL
            if base[0].islower():
                added.type = getattr(kinds, f"TYPE_{base.upper()}")
            else:
                package = "" if base in MESSAGES else ".google.protobuf"
                added.type, added.type_name = kinds.TYPE_MESSAGE, f"{package}.{base}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(described)
    empty = message_factory.GetMessageClass(pool.FindMessageTypeByName(message))()
    return text_format.Parse((DOCKER / file).read_text(), empty)


def test_batching_and_monitoring_are_what_the_server_reads():
    batching = parse("batching.config", "BatchingParameters")
    # A request may ask for more than is run at once only where large batches are split.
    assert batching.enable_large_batch_splitting.value
    assert 1 <= batching.max_execution_batch_size.value <= batching.max_batch_size.value
    monitoring = parse("monitoring.config", "MonitoringConfig").prometheus_config
    assert monitoring.enable
    # The address in the comments of compose.yaml.
    assert f"http://localhost:8501{monitoring.path}\n" in (DOCKER / "compose.yaml").read_text()


def test_a_misspelt_parameter_is_noticed(tmp_path):
    (tmp_path / "bad.config").write_text("max_batchsize { value: 8 }")
    with pytest.raises(text_format.ParseError, match="max_batchsize"):
        parse(tmp_path / "bad.config", "BatchingParameters")


def test_flags_of_the_server_exist_and_name_files_that_are_copied():
    (default,) = (text for name, text in instructions("Dockerfile.serving") if name == "CMD")
    flags = [yaml.safe_load(default), compose("compose.batching.yaml")["command"]]
    (copied,) = (
        text.split()
        for name, text in instructions("Dockerfile.serving")
        if name == "COPY" and "--from" not in text
    )
    assert copied[-1] == "/config/"
    for flag in (*flags[0], *flags[1]):
        name, _, value = flag.removeprefix("--").partition("=")
        assert name in SERVER_FLAGS, flag
        if name.endswith("_file"):
            assert value in [f"/config/{file}" for file in copied[:-1]]
    # Batching adds to the default.
    assert flags[1][: len(flags[0])] == flags[0]
    # "batching_parameters_file is set without enable_batching" would end the server.
    assert "--enable_batching" in flags[1]


def test_compose_mounts_the_model_where_the_server_looks():
    serving = compose()
    (mount,) = serving["volumes"]
    # The entry point's --model_base_path is /models/${MODEL_NAME}.
    assert mount["target"] == f"/models/{serving['environment']['MODEL_NAME']}"
    assert mount["read_only"] is True
    assert mount["source"].startswith("${EXPORT:?")
    assert [port.rpartition("}:")[2] for port in serving["ports"]] == ["8500:8500", "8501:8501"]
    build = serving["build"]
    assert (DOCKER / build["context"] / build["dockerfile"]).is_file()
    stages = [
        text.split(" AS ") for name, text in instructions(build["dockerfile"])[1:] if name == "FROM"
    ]
    assert build["target"] == stages[0][1]
    assert serving["restart"] == "unless-stopped"
    assert serving["init"] is True and serving["pids_limit"] > 0 and serving["cpus"]
    assert serving["mem_limit"] == serving["memswap_limit"]
    assert re.fullmatch(r"/tmp:size=\d+m", serving["tmpfs"])


def test_the_health_check_asks_for_the_status_of_the_model():
    (check,) = (text for name, text in instructions("Dockerfile.serving") if name == "HEALTHCHECK")
    url = "http://localhost:8501/v1/models/${MODEL_NAME} "
    command = check.partition(" CMD ")[2]
    assert command.startswith(f"curl --fail --silent {url}")
    # What TensorFlow Serving answers, and the shell pipe of the check behind it.
    pipe = command.partition("|")[2]
    for state, code, status in (
        ("AVAILABLE", "OK", 0), ("LOADING", "OK", 1), ("START", "OK", 1), ("END", "UNAVAILABLE", 1),
        ("UNLOADING", "UNAVAILABLE: not AVAILABLE", 1),
    ):  # fmt: skip
        answer = {"version": "1", "state": state, "status": {"error_code": code}}
        text = json.dumps({"model_version_status": [answer]}, indent=1)
        assert subprocess.run(pipe, shell=True, input=text, text=True).returncode == status, state
    (default,) = (text for name, text in instructions("Dockerfile.serving") if name == "ENV")
    assert default == "MODEL_NAME=${MODEL_NAME}"


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_instructions(dockerfile):
    names = [name for name, _ in instructions(dockerfile)]
    assert set(names) <= INSTRUCTIONS
    assert names[0] == "ARG" and names[1] == "FROM"
    # The last stage has no compiler, and brings nothing that only a build needs.
    runs = [text for name, text in instructions(dockerfile) if name == "RUN"]
    assert not [text for text in runs if "build-essential" in text or "gcc" in text]
    (user,) = (text for name, text in instructions(dockerfile) if name == "USER")
    assert user not in ("root", "0")


@pytest.mark.parametrize(
    "dockerfile, context",
    [("Dockerfile", "."), ("Dockerfile.runtime", "docker"), ("Dockerfile.serving", "docker")],
)
def test_what_is_copied_is_in_git_and_not_ignored(dockerfile, context):
    files = committed(context)
    ignore = DOCKER / f"{dockerfile}.dockerignore"
    lines = ignore.read_text().splitlines() if ignore.exists() else ["!*"]
    kept = [line[1:] for line in lines if line.startswith("!")]
    sources = [
        source
        for name, text in instructions(dockerfile)
        if name == "COPY" and "--from" not in text
        for source in text.split()[:-1]
    ]
    for source in sources:
        assert any(file == source or file.startswith(f"{source}/") for file in files), source
        assert any(fnmatch(source, pattern) for pattern in kept), source
    if ignore.exists():
        assert lines[1] == "*" and set(kept) == set(sources)


def test_serving_has_the_version_that_exports():
    requirements = (ROOT / "requirements.txt").read_text()
    (version,) = re.findall(r"^tensorflow==(\S+) ", requirements, re.MULTILINE)
    assert instructions("Dockerfile.serving")[0] == (
        "ARG",
        f"SERVING_IMAGE=tensorflow/serving:{version}",
    )

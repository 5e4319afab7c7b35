"""A model behind TensorFlow Serving as an `OpenedModel`: REST, or gRPC."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fcos_tf.detecting.exported import read_description, refusal, request_of, to_labels
from fcos_tf.detecting.models import OpenedModel

TIMEOUT = 300.0  # seconds per request; the first may wait for the model's warm-up


class ServedModel(OpenedModel):
    """A served model; images are sent as files, frames of a video as PNG.

    Args:
        address: "http://host:8501/v1/models/NAME", optionally with "/versions/N", or
            "grpc://host:8500/NAME", which needs the package tensorflow-serving-api.
        description: `assets/description.json` of the export, for names and ids, which the server
            does not give; without it labels are category ids.

    Raises:
        FileNotFoundError: there is no such description.
        ValueError: another form of address or description, or that package is missing.
    """

    def __init__(self, address: str, description: str | Path | None = None):
        super().__init__(*(read_description(description) if description else ()))
        self._predict: Callable[[str, Mapping], dict[str, np.ndarray]]
        if re.fullmatch(r"https?://[^/]+/v1/models/.+", address):
            self._predict = _Rest(address)
        elif match := re.fullmatch(r"grpc://([^/]+)/([^/]+)", address):
            self._predict = _Grpc(*match.groups())
        else:
            raise ValueError(
                "model: expected http://host:8501/v1/models/NAME or grpc://host:8500/NAME, "
                f"got {address}"
            )

    def find(self, pictures, score_threshold):
        """See `OpenedModel`.

        Raises:
            OSError: the server cannot be reached, or refuses the request itself.
            ValueError: its response is not that of an exported detector.
        """
        try:
            found = self._predict(*request_of(pictures, score_threshold))
        except _RefusalError as error:
            raise refusal(pictures, str(error)) from error
        return to_labels(found, self.category_ids)


class _RefusalError(Exception):
    """The server reports invalid input."""


class _Rest:
    def __init__(self, address: str):
        self._address = f"{address.rstrip('/')}:predict"

    def __call__(self, signature, inputs):
        images = [{"b64": base64.b64encode(data).decode()} for data in inputs["image_bytes"]]
        options = {name: x.tolist() for name, x in inputs.items() if name != "image_bytes"}
        rows = zip(images, *options.values(), strict=True)
        keys = ("image_bytes", *options)
        instances = [dict(zip(keys, row, strict=True)) for row in rows] if options else images
        request = urllib.request.Request(
            self._address,
            json.dumps({"signature_name": signature, "instances": instances}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                answer = json.loads(response.read())
            rows = answer["predictions"]
            return {name: np.array([row[name] for row in rows]) for name in rows[0]}
        except urllib.error.HTTPError as error:
            text = _message(error.read())
            # A missing signature is not an error of the images.
            if error.code == 400 and "signature" not in text:
                raise _RefusalError(text) from error
            raise OSError(f"model: {self._address} answers {error.code}: {text}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise OSError(f"model: cannot reach {self._address}: {reason}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"model: {self._address} does not answer as an exported detector: {error!r}"
            ) from error


def _message(body: bytes) -> str:
    """The text of an error, which TensorFlow Serving sends as {"error": text}."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


class _Grpc:
    def __init__(self, host: str, name: str):
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(
                "model: grpc:// needs the package tensorflow-serving-api, which is not "
                f"installed ({error})"
            ) from error
        self._grpc, self._requests = grpc, predict_pb2
        self._host, self._name = host, name
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(host, options=unlimited)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def __call__(self, signature, inputs):
        import tensorflow as tf

        request = self._requests.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        try:
            answer = self._service.Predict(request, timeout=TIMEOUT)
        except self._grpc.RpcError as error:
            if error.code() == self._grpc.StatusCode.INVALID_ARGUMENT:
                raise _RefusalError(error.details()) from error
            raise OSError(
                f"model: grpc://{self._host}/{self._name}: {error.code().name}: {error.details()}"
            ) from error
        return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

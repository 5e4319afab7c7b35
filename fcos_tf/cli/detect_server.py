"""A model behind TensorFlow Serving, for `tools/detect.py`: REST, or gRPC."""

import base64
import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence

import numpy as np

from fcos_tf.cli.detect_backends import (
    FILES_SIGNATURE,
    Classes,
    Found,
    Picture,
    portable_bytes,
    refusal,
    split_batch,
)

TIMEOUT = 300.0  # seconds for one request; a first one may wait for a model to warm up


class ServerBackend:
    """A served model; images travel as files, frames of a video as PNG.

    Args:
        address: "http://host:8501/v1/models/NAME", with "/versions/N" for one of them, or
            "grpc://host:8500/NAME", which needs the package tensorflow-serving-api.
        classes: the server does not tell names and ids; without them labels are category ids.

    Raises:
        ValueError: another kind of address, or that package is missing.
    """

    def __init__(self, address: str, classes: Classes | None = None):
        self.classes = classes or Classes()
        if re.fullmatch(r"https?://[^/]+/v1/models/.+", address):
            self._predict = _Rest(address)
        elif match := re.fullmatch(r"grpc://([^/]+)/([^/]+)", address):
            self._predict = _Grpc(*match.groups())
        else:
            raise ValueError(
                "--server: expected http://host:8501/v1/models/NAME or grpc://host:8500/NAME, "
                f"got {address}"
            )

    def detect(self, pictures: Sequence[Picture]) -> list[Found]:
        """What is found in each picture, in its own pixels.

        Raises:
            ImageError: the server refuses an image; names it if it is the only one.
            OSError: it cannot be reached, or refuses the request as such.
            ValueError: its answer is not that of an exported detector.
        """
        try:
            found = self._predict([portable_bytes(picture) for picture in pictures])
        except _RefusalError as error:
            raise refusal(pictures, str(error)) from error
        return split_batch(found, self.classes)


class _RefusalError(Exception):
    """The server calls the input invalid."""


class _Rest:
    def __init__(self, address: str):
        self._address = f"{address.rstrip('/')}:predict"

    def __call__(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        body = {
            "signature_name": FILES_SIGNATURE,
            "instances": [{"b64": base64.b64encode(image).decode()} for image in images],
        }
        request = urllib.request.Request(
            self._address,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                answer = json.loads(response.read())
            rows = answer["predictions"]
            return {name: np.array([row[name] for row in rows]) for name in rows[0]}
        except urllib.error.HTTPError as error:
            text = _message(error.read())
            # A model without the signature is no fault of the images.
            if error.code == 400 and "signature" not in text:
                raise _RefusalError(text) from error
            raise OSError(f"--server: {self._address} answers {error.code}: {text}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise OSError(f"--server: cannot reach {self._address}: {reason}") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"--server: {self._address} does not answer as an exported detector: {error!r}"
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
                "--server: grpc:// needs the package tensorflow-serving-api, which is not "
                f"installed ({error})"
            ) from error
        self._grpc, self._requests = grpc, predict_pb2
        self._host, self._name = host, name
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        channel = grpc.insecure_channel(host, options=unlimited)
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)

    def __call__(self, images: Sequence[bytes]) -> dict[str, np.ndarray]:
        import tensorflow as tf

        request = self._requests.PredictRequest()
        request.model_spec.name = self._name
        request.model_spec.signature_name = FILES_SIGNATURE
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(images)))
        try:
            answer = self._service.Predict(request, timeout=TIMEOUT)
        except self._grpc.RpcError as error:
            if error.code() == self._grpc.StatusCode.INVALID_ARGUMENT:
                raise _RefusalError(error.details()) from error
            raise OSError(
                f"--server: grpc://{self._host}/{self._name}: {error.code().name}: "
                f"{error.details()}"
            ) from error
        return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}

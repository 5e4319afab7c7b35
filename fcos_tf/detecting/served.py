"""A model behind TensorFlow Serving as an `OpenedModel`: REST, or gRPC.

A server need not be trusted: the size, the time and the form of its answers are limited.
"""

import base64
import io
import json
import math
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from fcos_tf.data.images import read_header
from fcos_tf.detecting.exported import read_description, refusal, request_of, to_labels
from fcos_tf.detecting.models import OpenedModel
from fcos_tf.detecting.pictures import Picture

TIMEOUT = 300.0  # seconds for a whole answer; the first may wait for the model's warm-up
MAX_ANSWER_BYTES = 1 << 24  # 100,000 detections
_MAX_MESSAGE = 500  # characters of an error's text


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

    turns_images = True

    def __init__(self, address: str, description: str | Path | None = None):
        super().__init__(*(read_description(description) if description else ()))
        self._address = address
        self._predict: Callable[[str, Mapping], dict[str, np.ndarray]]
        if _has_host(address, r"https?://[^/\s?#@]+/v1/models/[^\s?#]+"):
            self._predict = _Rest(address)
        elif _has_host(address, r"grpc://[^/\s?#@]+/[^/\s]+"):
            self._predict = _Grpc(*address.removeprefix("grpc://").split("/"))
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
        if self.category_ids is None:
            # Without a description it is unknown whether the server turns images by EXIF.
            pictures = [_unturned(picture) for picture in pictures]
        try:
            found = self._predict(*request_of(pictures, score_threshold))
            labelled = to_labels(found, self.category_ids, len(pictures))
        except _RefusalError as error:
            raise refusal(pictures, str(error)) from error
        except ValueError as error:
            raise ValueError(
                f"model: {self._address} does not answer as an exported detector: {error}"
            ) from error
        sides = np.array([picture.pixels.shape[1::-1] * 2 for picture in pictures])[:, None]
        boxes = labelled["boxes"]
        if ((boxes < -1) | (boxes > sides + 1)).any():
            raise ValueError(f"model: {self._address} answers boxes outside of the images")
        return labelled


def _unturned(picture: Picture) -> Picture:
    """The picture, without the bytes of a file that EXIF turns."""
    header = read_header(io.BytesIO(picture.data)) if picture.data else None
    return picture._replace(data=None) if header and header[1] > 1 else picture


def _has_host(address: str, pattern: str) -> bool:
    try:
        return bool(re.fullmatch(pattern, address) and urlsplit(address).port != 0)
    except ValueError:  # a port that is none
        return False


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
        body = json.dumps({"signature_name": signature, "instances": instances}).encode()
        status, answer = self._post(body)
        if status != 200:
            text = _message(answer)
            # A missing signature is not an error of the images.
            if status == 400 and "signature" not in text:
                raise _RefusalError(text)
            raise OSError(f"model: {self._address} answers {status}: {text}")
        try:
            rows = json.loads(answer)["predictions"]
            if not isinstance(rows[0], dict):  # REST leaves out the name of a single output
                raise ValueError("expected the outputs of a detector, got one, as of a classifier")
            return {name: _numbers([row[name] for row in rows]) for name in rows[0]}
        except Exception as error:  # of any form of JSON, such as deep lists
            raise ValueError(repr(error)[:_MAX_MESSAGE]) from error

    def _post(self, body: bytes) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        results: queue.SimpleQueue = queue.SimpleQueue()

        def ask():
            try:
                results.put(_ask(self._address, body))
            except Exception as error:  # raised below
                results.put(error)

        # A timeout of the socket starts anew with every byte, so another thread waits for them.
        threading.Thread(target=ask, daemon=True).start()
        try:
            result = results.get(timeout=TIMEOUT)
        except queue.Empty:
            result = OSError(f"no whole answer within {TIMEOUT:g} seconds")
        if isinstance(result, Exception):
            reason = getattr(result, "reason", result)
            raise OSError(f"model: cannot reach {self._address}: {reason}") from result
        return result


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """None: pictures are sent to no other address; the redirect becomes an error."""


def _ask(address: str, body: bytes) -> tuple[int, bytes]:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        response = urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        answer = response.read(MAX_ANSWER_BYTES + 1)
    if len(answer) > MAX_ANSWER_BYTES:
        raise OSError(f"expected an answer of at most {MAX_ANSWER_BYTES} bytes, got more")
    if 300 <= response.status < 400:
        raise OSError(f"refused a redirect to {response.headers.get('Location')}")
    return response.status, answer


def _numbers(values: list) -> np.ndarray:
    """Nested lists of numbers as an array; text would become numbers, and need much memory."""
    rest = [values]
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += value
        elif type(value) not in (int, float):
            raise ValueError(f"expected numbers, got {str(value)[:99]!r}")
    return np.asarray(values, np.float64)


def _message(body: bytes) -> str:
    """The text of an error, which TensorFlow Serving sends as {"error": text}."""
    try:
        return str(json.loads(body)["error"])[:_MAX_MESSAGE]
    except Exception:  # of any form of JSON, or none
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
        limits = {"send": -1, "receive": MAX_ANSWER_BYTES}
        options = [(f"grpc.max_{way}_message_length", most) for way, most in limits.items()]
        channel = grpc.insecure_channel(host, options=options)
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
        for value in answer.outputs.values():  # one number can stand for all of a large shape
            sides = [dim.size for dim in value.tensor_shape.dim]
            if min(sides, default=0) < 0 or math.prod(sides) > MAX_ANSWER_BYTES:
                raise ValueError(f"expected at most {MAX_ANSWER_BYTES} numbers, got {sides}")
        try:
            return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}
        except Exception as error:  # of types and contents that do not fit
            raise ValueError(repr(error)[:_MAX_MESSAGE]) from error

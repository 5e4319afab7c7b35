"""A server that speaks the REST API of TensorFlow Serving, for tests on machines without it.

    python -m tests.serving.stand_in --model_name=fcos --model_base_path=export/fcos \\
        --rest_api_port=8501

Its flags are those of TensorFlow Serving. Addresses and messages follow tensorflow/serving's
g3doc/api_rest.md and model_servers/http_server.cc. Not spoken: classify, regress, labels of
versions, gRPC, batching of requests, versions other than the newest.
"""

import argparse
import json
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import tensorflow as tf

from tests.limits import HANG
from tests.serving.served_model import RequestError, ServedModel

MOST_BYTES = 1 << 26  # of a request
_PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(/metadata|:predict)?")
_STATUS = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.OUT_OF_RANGE: 400,
    tf.errors.NOT_FOUND: 404,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.UNIMPLEMENTED: 501,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.DEADLINE_EXCEEDED: 504,
}


class _Handler(BaseHTTPRequestHandler):
    timeout = HANG  # seconds to wait for a client's next bytes

    def do_GET(self):
        self._answer(self._get)

    def do_POST(self):
        self._answer(self._post)

    def _answer(self, method):
        try:
            status, body = 200, method()
        except RequestError as error:
            status, body = error.status, {"error": str(error)}
        except tf.errors.OpError as error:
            status, body = _STATUS.get(error.error_code, 500), {"error": error.message}
        except OSError:  # the client is gone or stopped talking
            raise
        except Exception as error:
            status, body = 500, {"error": repr(error)}
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _get(self):
        name, version, what = self._address()
        if what == ":predict":
            raise RequestError(f"Malformed request: GET {self.path}")
        if what == "/metadata":
            return self._served(name, version).metadata()
        model = self.server.model
        if name != model.name:
            raise RequestError(f"Could not find any versions of model {name}", 404)
        if version not in (None, model.version):
            raise RequestError(f"Could not find version {version} of model {name}", 404)
        return model.status()

    def _post(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            raise RequestError(f"expected a Content-Length up to {MOST_BYTES}, got {length}")
        body = self.rfile.read(int(length))
        name, version, what = self._address()
        if what != ":predict":
            raise RequestError(f"Malformed request: POST {self.path}")
        model = self._served(name, version)
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"JSON Parse error: {error}") from error
        return model.predict(request)

    def _address(self):
        match = _PATH.fullmatch(self.path)
        if not match:
            raise RequestError(f"Malformed request: {self.command} {self.path}")
        name, version, what = match.groups()
        return name, version and int(version), what

    def _served(self, name, version):
        model = self.server.model
        if name != model.name or version not in (None, model.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(f"Servable not found for request: {wanted}", 404)
        return model

    def log_message(self, *arguments):
        pass


class StandIn(ThreadingHTTPServer):
    """The server; `serve_forever` runs it.

    Args:
        model: what it serves.
        port: on loopback; 0 for any that is free, `server_port` tells which.
        num_threads: most requests at the same time; others wait for their turn.
    """

    request_queue_size = 128

    def __init__(self, model: ServedModel, port: int = 0, *, num_threads: int = 8):
        super().__init__(("127.0.0.1", port), _Handler)
        self.model = model
        self._threads = ThreadPoolExecutor(num_threads)

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        """A thread of the pool in place of one for each connection."""
        self._threads.submit(self.process_request_thread, request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are no matter."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serves until it is stopped; says on standard output where."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--model_base_path", type=Path, required=True)
    parser.add_argument("--rest_api_port", type=int, default=0)
    parser.add_argument("--rest_api_num_threads", type=int, default=8)
    options = parser.parse_args(arguments)
    model = ServedModel(options.model_name, options.model_base_path)
    server = StandIn(model, options.rest_api_port, num_threads=options.rest_api_num_threads)
    print(f"http://127.0.0.1:{server.server_port}/v1/models/{model.name}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()

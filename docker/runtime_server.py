"""Serves a detector in an .onnx or .xml file of tools/export.py over HTTP, without TensorFlow.

    MODEL=voc.onnx python docker/runtime_server.py
    curl --data-binary @photo.jpg 'http://127.0.0.1:8080/detect?score_threshold=0.5'

It needs Starlette and uvicorn, and what runtime_model.py needs. docs/serving.md lists the answers
and the settings, which are environment variables.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable

import uvicorn
from runtime_model import ImageError, TooManyPixelsError, detect, open_model
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol


def setting(name: str, default: int, *, least: int = 1, most: int = 1 << 31) -> int:
    """A whole number from the environment."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        sys.exit(f"{name}: expected a whole number from {least} to {most}, got {text!r}")
    return int(text)


MAX_BYTES = setting("MAX_BYTES", 1 << 24)  # of a request
MAX_PIXELS = setting("MAX_PIXELS", 1 << 25)  # of its image
MAX_REQUESTS = setting("MAX_REQUESTS", 16)  # read, waiting and in work; others get 503 at once
WORKERS = setting("WORKERS", 2)  # images in work
READ_SECONDS = setting("READ_SECONDS", 10)  # for the head of a request, and for its body
STOP_SECONDS = setting("STOP_SECONDS", 30, least=0)  # for requests in work after SIGTERM


def make_app(about: dict, run: Callable) -> Starlette:
    """The HTTP interface of what `open_model` returns."""
    workers, requests = asyncio.Semaphore(WORKERS), set()

    async def read(request, most=MAX_BYTES) -> bytes:
        data, size = bytearray(), 0
        async for part in request.stream():  # of too much, too: clients listen after sending
            size += len(part)
            data += part if size <= most else b""
        if size > most:
            raise HTTPException(413, f"expected at most {most} bytes, got {size}")
        return bytes(data)

    async def without(request, error):
        """Answers with an error, after a body that is not kept."""
        with contextlib.suppress(asyncio.TimeoutError, ClientDisconnect, HTTPException):
            await asyncio.wait_for(read(request, most=0), READ_SECONDS)
        raise error

    def threshold_of(request) -> float:
        text = request.query_params.get("score_threshold", str(about["score_threshold"]))
        try:
            value = float(text)
        except ValueError:
            value = -1
        if not 0 <= value <= 1:
            raise HTTPException(400, f"score_threshold: expected 0 to 1, got {text[:40]!r}")
        return value

    async def answer(request):
        try:
            threshold = threshold_of(request)
        except HTTPException as error:
            await without(request, error)
        if len(requests) >= MAX_REQUESTS:
            await without(request, HTTPException(503, "busy", {"Retry-After": "1"}))
        requests.add(request)
        try:
            data = await asyncio.wait_for(read(request), READ_SECONDS)
            async with workers:
                found = await run_in_threadpool(detect, about, run, data, threshold, MAX_PIXELS)
            return JSONResponse(found)
        except (asyncio.TimeoutError, ClientDisconnect):
            raise HTTPException(408, f"expected the body within {READ_SECONDS} s") from None
        except TooManyPixelsError as error:
            raise HTTPException(413, str(error)) from None
        except ImageError as error:
            raise HTTPException(400, str(error)) from None
        finally:
            requests.discard(request)

    async def health(_):
        return JSONResponse({"status": "ready", "requests": len(requests)})

    async def refuse(_, error):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def fault(_, error):  # the traceback goes to the log
        return JSONResponse({"error": "the server failed"}, 500)

    handlers = {HTTPException: refuse, Exception: fault}
    routes = [Route("/detect", answer, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, exception_handlers=handlers)


class TimedProtocol(H11Protocol):
    """Closes a connection whose request has no complete head in time."""

    def connection_made(self, transport):
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.loop.call_later(READ_SECONDS, lambda: self.cycle is None and transport.close())


def main() -> None:
    """Opens the model, then serves it until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # uvicorn raises it again at its end
    file = os.environ.get("MODEL", "")
    if not os.path.isfile(file) or not file.endswith((".onnx", ".xml")):
        sys.exit(f"MODEL: expected an .onnx or .xml file, got {file!r}")
    try:
        about, run = open_model(file, setting("THREADS", 0, least=0))
    except ImportError as error:
        sys.exit(f"MODEL: {file} needs a package that is not installed: {error}")
    except Exception as error:  # those of the runtimes have no common class but this one
        sys.exit(f"MODEL: expected a file of tools/export.py, got {file}: {error!r}")
    uvicorn.run(
        make_app(about, run),
        host=os.environ.get("HOST", "127.0.0.1"),
        port=setting("PORT", 8080, most=65535),
        http=TimedProtocol,
        ws="none",
        h11_max_incomplete_event_size=1 << 14,  # of a head
        headers=[("Connection", "close")],  # so that `TimedProtocol` sees every request
        limit_concurrency=16 * MAX_REQUESTS,  # connections
        timeout_graceful_shutdown=STOP_SECONDS,
        server_header=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main()

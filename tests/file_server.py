"""A server of files on this machine, honest or with the faults of a bad connection."""

import contextlib
import http.server
import threading
import time
from urllib.parse import urlsplit


class FileServer(http.server.ThreadingHTTPServer):
    """Serves bytes with ranges.

    Attributes:
        files: path -> contents.
        requests: (path, Range header or None) of each request.
        breaks: for each of the next requests, the number of bytes after which it breaks off.
        stalls: whether it waits for `go_on` in place of breaking off.
        ranges: whether it knows ranges.
        lengths: whether it says how many bytes follow.
        redirects: path -> address.
        delay: seconds before each answer.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.redirects, self.requests, self.breaks = {}, {}, [], []
        self.ranges, self.lengths, self.stalls, self.delay = True, True, False, 0.0
        self.go_on = threading.Event()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients that go away are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, urlsplit(self.path).path
        asked = self.headers.get("Range")
        server.requests.append((path, asked))
        time.sleep(server.delay)
        if path in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[path])
            self.end_headers()
            return
        if path not in server.files:
            self.send_error(404)
            return
        data = server.files[path]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        start = start if server.ranges else 0
        if start and start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.lengths:
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if not server.breaks:
            self.wfile.write(data[start:])
            return
        self.wfile.write(data[start : start + server.breaks.pop(0)])
        self.wfile.flush()
        if server.stalls:
            server.go_on.wait(60)

    def log_message(self, *_):
        """Nothing."""


@contextlib.contextmanager
def serving():
    """A server in a thread."""
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()

"""The proxy: it passes everything on, counts it, and makes every request wait."""

import http.client
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import object_storage
from tests import commands

BODY = bytes(range(256)) * 1000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format, *args):  # noqa: A002
        pass


@pytest.fixture
def upstream():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_requests_connections_and_bytes_are_counted_and_requests_wait(upstream):
    port = commands.free_port()
    command = [sys.executable, "-m", "benchmarks.counting_proxy", str(port), str(upstream), "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            assert proxy.stdout.readline() == "ready\n"
            begin = time.monotonic()
            for requests in (2, 1):
                connection = http.client.HTTPConnection("127.0.0.1", port)
                for _ in range(requests):
                    connection.request("GET", "/")
                    assert connection.getresponse().read() == BODY
                connection.close()
            assert time.monotonic() - begin > 0.3
            counted = object_storage.counts(port)
            assert (counted["requests"], counted["connections"]) == (3, 2)
            assert 3 * len(BODY) < counted["bytes"] < 3 * len(BODY) + 3000
            assert object_storage.counts(port) == {"requests": 0, "connections": 0, "bytes": 0}
        finally:
            proxy.terminate()

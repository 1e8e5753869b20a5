"""A TCP proxy before an object store: counts requests and bytes, and makes every request wait.

    python -m benchmarks.counting_proxy PORT UPSTREAM_PORT SECONDS_A_REQUEST

Loopback answers at once; a store in the same region takes some 20 ms. Only requests without a body are counted and
delayed one by one, which is what readers send. Whoever connects and sends `counts` gets the counts since the last
time, as JSON. Bytes are those passed on to the client, whether it looked at them or not.
"""

import asyncio
import contextlib
import json
import sys

_PIECE = 1 << 16


class Proxy:
    """Passes connections on to another port."""

    def __init__(self, upstream: int, delay: float):
        self._upstream = upstream
        self._delay = delay
        self._counts = {"requests": 0, "connections": 0, "bytes": 0}

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection until either side closes it."""
        first = await reader.read(_PIECE)
        if first.strip() == b"counts":
            writer.write(json.dumps(self._counts).encode())
            self._counts = dict.fromkeys(self._counts, 0)
            writer.close()
            return
        self._counts["connections"] += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        await asyncio.gather(self._requests(first, reader, up_writer), self._answers(up_reader, writer))

    async def _requests(self, piece: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece:
                requests = piece.count(b" HTTP/1.1\r\n")
                self._counts["requests"] += requests
                await asyncio.sleep(requests * self._delay)
                writer.write(piece)
                await writer.drain()
                piece = await reader.read(_PIECE)
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                self._counts["bytes"] += len(piece)
                writer.write(piece)
                await writer.drain()
        writer.close()


async def serve(port: int, upstream: int, delay: float) -> None:
    """Serves until the process ends."""
    server = await asyncio.start_server(Proxy(upstream, delay).connection, "127.0.0.1", port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))

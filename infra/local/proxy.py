"""A proxy that gives the local API Gateway an address with the Horde's paths.

On AWS the stack's address has these paths already. The local gateway prefixes them with
``/_aws/execute-api/<id>/$default``. The proxy changes nothing else.
"""

import asyncio
import json
import threading
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from yarl import URL

HOST = "127.0.0.1"
HOP_BY_HOP = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)
CORS = {"Access-Control-Allow-Origin": "*"}


class Proxy:
    """A proxy in a thread of this process; ``target`` may be set after the start."""

    def __init__(self, port: int = 0) -> None:
        self.target: str | None = None
        """The API's address, up to and including its stage."""
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        """The base URL for clients, to which their SDKs add ``/api/v2``."""
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        """Start serving; raises OSError if the port is taken."""
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        # Responses pass through with their encoding.
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=60),
        )
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, HOST, self.port).start()
        except BaseException:
            await self._stop()
            raise
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        if self.target is None:
            return unavailable("The local cloud is still starting.")
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP]
        if request.content_length is not None:
            headers.append(("Content-Length", str(request.content_length)))
        try:
            async with self._session.request(
                request.method,
                URL(self.target + request.raw_path, encoded=True),
                headers=headers,
                data=request.content if request.can_read_body else None,
                allow_redirects=False,
            ) as upstream:
                answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
                for name, value in upstream.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        answer.headers.add(name, value)
                answer.content_length = upstream.content_length
                await answer.prepare(request)
                async for chunk in upstream.content.iter_chunked(65536):
                    await answer.write(chunk)
                await answer.write_eof()
                return answer
        except (aiohttp.ClientError, TimeoutError) as error:
            return unavailable(f"The local cloud does not answer ({type(error).__name__}).")


def unavailable(message: str) -> web.Response:
    """Return a 502 as JSON, since Horde clients crash on HTML."""
    text = json.dumps({"message": message, "rc": "BadGateway"})
    return web.Response(status=502, text=text, content_type="application/json", headers=CORS)

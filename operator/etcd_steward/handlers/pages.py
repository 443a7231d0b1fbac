"""Pages over HTTP while something runs: probes and metrics."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from etcd_steward.errors import InvalidInput

Page = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def serving(pages: Mapping[str, Page], port: int, *, what: str) -> AsyncIterator[None]:
    """Answer these paths while the body runs.

    Raises `InvalidInput` naming `what` if the port can't be had.
    """
    application = web.Application()
    for path, page in pages.items():
        application.router.add_get(path, page)
    runner = web.AppRunner(application, access_log=None, keepalive_timeout=0.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, port=port).start()
        except OSError as error:
            raise InvalidInput(f"{what} port {port}: {error.strerror}") from error
        yield
    finally:
        await runner.cleanup()

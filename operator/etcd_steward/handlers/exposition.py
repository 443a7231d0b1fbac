"""`/metrics`: the board's page over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from etcd_steward.handlers.pages import serving
from etcd_steward.metrics import Board


@asynccontextmanager
async def serving_metrics(board: Board, port: int) -> AsyncIterator[None]:
    """Answer `/metrics` while the body runs. Raises `InvalidInput` if the port is taken."""

    async def metrics(_: web.Request) -> web.Response:
        page = await asyncio.to_thread(board.page)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async with serving({"/metrics": metrics, "/": metrics}, port, what="metrics"):
        yield

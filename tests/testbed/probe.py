"""A look at a server's HTTP health page, as readiness checks need it."""

import asyncio
import http.client
import ssl
import urllib.error
import urllib.request
from pathlib import Path


async def http_status(
    url: str, *, ca_file: Path | None = None, token: str = "", timeout: float = 5
) -> int:
    """GET `url` past any proxy and return the status; 0 when nobody answers (yet)."""
    return await asyncio.to_thread(_get, url, ca_file, token, timeout)


def _get(url: str, ca_file: Path | None, token: str, timeout: float) -> int:
    request = urllib.request.Request(url)  # noqa: S310  # our own loopback servers
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if ca_file:
        context = ssl.create_default_context(cafile=str(ca_file))
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=timeout) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, http.client.HTTPException):
        return 0

"""Kept connections to a bucket's host, for GETs whose answers are small.

The standard library's client takes half of the CPU that urllib3's takes. There is no proxying here.
"""

import ssl
from collections import deque
from dataclasses import dataclass, field
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection
from typing import Final
from urllib.parse import SplitResult

from botocore.exceptions import ReadTimeoutError  # type: ignore[import-untyped]

_AGENT: Final = {"user-agent": "etcd-steward"}
_ERRORS: Final = 400
_LONGEST_ERROR: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: HTTPMessage
    body: bytes = field(repr=False)
    """Of a success no more than was asked for."""


class Wire:
    """Connections to one host. Thread-safe."""

    def __init__(
        self, url: SplitResult, trusted: str, *, connect_timeout: float, read_timeout: float
    ) -> None:
        """`trusted` is a file of certificates, needed for https alone; time-outs in seconds."""
        self._url = url
        self._trusted = trusted
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._idle: deque[HTTPConnection] = deque()
        self._closed = False

    def get(self, target: str, headers: dict[str, str], limit: int) -> Answer | None:
        """The answer with no more than `limit` bytes of its body; None if the connection fails.

        Raises `ReadTimeoutError` if the server is silent for too long.
        """
        connection = self._connection()
        if connection is None:
            return None
        whole = False
        try:
            connection.request("GET", target, headers=_AGENT | headers)
            with connection.getresponse() as answer:
                body = answer.read(limit if answer.status < _ERRORS else _LONGEST_ERROR)
                # Nothing of it is left to be read, and the server did not say that it hangs up.
                whole = answer.isclosed() and not answer.will_close
                return Answer(answer.status, answer.headers, body)
        except TimeoutError as error:
            where = f"{self._url.scheme}://{self._url.netloc}{target}"
            raise ReadTimeoutError(endpoint_url=where, error=error) from error
        except (OSError, HTTPException, ValueError):
            return None
        finally:
            if whole and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()

    def _connection(self) -> HTTPConnection | None:
        """One that is idle, else a new one; None if there is none to be had."""
        try:
            return self._idle.pop()
        except IndexError:
            pass
        host, seconds = self._url.hostname or "", self._connect_timeout
        try:
            connection = (
                HTTPSConnection(host, self._url.port, timeout=seconds, context=self._tls)
                if self._url.scheme == "https"
                else HTTPConnection(host, self._url.port, timeout=seconds)
            )
            connection.connect()
        except (OSError, HTTPException):
            return None
        connection.sock.settimeout(self._read_timeout)
        return connection

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._trusted)

    def close(self) -> None:
        """Close what is idle now, and what is in use when its answer has come."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

"""What the servers of the bed have in common: they come up whole, or are stopped again."""

import contextlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self


class Part(ABC):
    """`async with` starts it; what `_start` has put on the stack is undone at the end, last first.

    A start that fails undoes what it had done. `directory` holds its data and logs, and is made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        async with self._stack:
            await self._start()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @abstractmethod
    async def _start(self) -> None:
        """Start what it consists of, each thing's end put on `_stack`."""

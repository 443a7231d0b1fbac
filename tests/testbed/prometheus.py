"""Prometheus and Alertmanager as a site would have them: one scrapes and judges, one pages."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, ClientTimeout, web

from tests.testbed import process
from tests.testbed.binaries import binary
from tests.testbed.part import Part
from tests.testbed.ports import reserved_ports
from tests.testbed.probe import http_status
from tests.testbed.process import Server, TestbedError

INTERVAL = "1s"
"""Between two scrapes and two evaluations of rules; a site has 30 s or a minute."""
QUERY_TIMEOUT = ClientTimeout(total=30)


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer: its labels and newest value."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer over time: its labels, and seconds since 1970 with their values."""

    labels: Mapping[str, str]
    values: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert as Alertmanager has sent it on."""

    status: str
    """`firing` or `resolved`."""
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def name(self) -> str:
        """What the rule is called."""
        return self.labels["alertname"]


async def promtool(*arguments: str | Path, stdin: bytes | None = None) -> process.Output:
    """Run promtool and return what it says, whatever its exit status."""
    return await process.run(await binary("promtool"), *arguments, stdin=stdin, timeout=120)


class Prometheus(Part):
    """`async with Prometheus(directory, {"etcd-steward": ["127.0.0.1:8080"]}):` scrapes each job.

    `rules` are rule files, whose alerts go to `alertmanager`.
    """

    def __init__(
        self,
        directory: Path,
        jobs: Mapping[str, Sequence[str]],
        *,
        rules: Sequence[Path] = (),
        alertmanager: "Alertmanager | None" = None,
        interval: str = INTERVAL,
    ) -> None:
        super().__init__(directory)
        self.url = ""
        self.server: Server
        self._jobs = jobs
        self._rules = rules
        self._alertmanager = alertmanager
        self._interval = interval

    async def _start(self) -> None:
        self.server = await self._make_server()
        await self._stack.enter_async_context(self.server)

    async def _make_server(self) -> Server:
        (port,) = self._stack.enter_context(reserved_ports(1))
        self.url = f"http://127.0.0.1:{port}"
        config = self.directory / "prometheus.yaml"
        config.write_text(yaml.safe_dump(self._config()))
        return Server(
            "prometheus",
            [
                await binary("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--rules.alert.resend-delay=1s",
            ],
            directory=self.directory,
            ready=self._ready,
        )

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": self._interval,
                "scrape_timeout": self._interval,
                "evaluation_interval": self._interval,
            },
            "rule_files": [str(rules.absolute()) for rules in self._rules],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in self._jobs.items()
            ],
        }
        if self._alertmanager is not None:
            target = self._alertmanager.url.removeprefix("http://")
            targets = [{"static_configs": [{"targets": [target]}]}]
            config["alerting"] = {"alertmanagers": targets}
        return config

    async def _ready(self) -> bool:
        return await http_status(f"{self.url}/-/ready") == 200

    async def query(self, expression: str) -> list[Sample]:
        """Return an instant query's answer. Raises TestbedError with Prometheus' own words."""
        answer = await self._get("query", {"query": expression})
        if answer["resultType"] == "scalar":
            return [Sample({}, float(answer["result"][1]))]
        return [Sample(one["metric"], float(one["value"][1])) for one in answer["result"]]

    async def history(self, expression: str, since: float, step: float) -> list[Series]:
        """Return an expression's answers from a moment on until now, `step` seconds apart."""
        window = {"start": str(since), "end": str(time.time()), "step": str(step)}
        answer = await self._get("query_range", {"query": expression, **window})
        return [
            Series(one["metric"], [(float(at), float(value)) for at, value in one["values"]])
            for one in answer["result"]
        ]

    async def label_values(self, label: str, selector: str) -> list[str]:
        """Return the values of a label in the series that a selector matches."""
        values: list[str] = await self._get(f"label/{label}/values", {"match[]": selector})
        return values

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire now, whether or not they were sent."""
        answer = await self._get("alerts", {})
        return {one["labels"]["alertname"] for one in answer["alerts"] if one["state"] == "firing"}

    async def _get(self, path: str, parameters: Mapping[str, str]) -> Any:  # noqa: ANN401, it is JSON
        async with (
            ClientSession(timeout=QUERY_TIMEOUT) as session,
            session.get(f"{self.url}/api/v1/{path}", params=parameters) as response,
        ):
            answer = await response.json()
        if answer["status"] != "success":
            raise TestbedError(f"{path} {dict(parameters)}: {answer['error']}")
        return answer["data"]


@dataclass(slots=True)
class Pager:
    """Where Alertmanager sends its alerts: what somebody's telephone would show."""

    received: list[Alert] = field(default_factory=list)
    """All that came, in that order."""

    def states(self, name: str) -> list[str]:
        """Return what was said of an alert, repetitions left out."""
        said = [alert.status for alert in self.received if alert.name == name]
        return [one for index, one in enumerate(said) if index == 0 or said[index - 1] != one]

    async def receive(self, request: web.Request) -> web.Response:
        """Take what Alertmanager's webhook brings."""
        for alert in (await request.json())["alerts"]:
            self.received.append(Alert(alert["status"], alert["labels"], alert["annotations"]))
        return web.Response()


class Alertmanager(Part):
    """`async with Alertmanager(directory) as manager:` pages `manager.pager` within a second."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.url = ""
        self.pager = Pager()
        self.server: Server

    async def _start(self) -> None:
        self.server = await self._make_server()
        await self._stack.enter_async_context(self.server)

    async def _make_server(self) -> Server:
        port, pager_port = self._stack.enter_context(reserved_ports(2))
        self.url = f"http://127.0.0.1:{port}"
        await self._listen(pager_port)
        config = {
            "route": {
                "receiver": "pager",
                "group_by": ["alertname"],
                "group_wait": "0s",
                "group_interval": "1s",
                "repeat_interval": "1h",
            },
            "receivers": [
                {
                    "name": "pager",
                    "webhook_configs": [{"url": f"http://127.0.0.1:{pager_port}/"}],
                }
            ],
        }
        file = self.directory / "alertmanager.json"  # which is YAML too
        file.write_text(json.dumps(config))
        return Server(
            "alertmanager",
            [
                await binary("alertmanager"),
                f"--config.file={file}",
                f"--storage.path={self.directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            directory=self.directory,
            ready=self._ready,
        )

    async def _listen(self, port: int) -> None:
        app = web.Application()
        app.router.add_post("/", self.pager.receive)
        runner = web.AppRunner(app)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", port).start()

    async def _ready(self) -> bool:
        return await http_status(f"{self.url}/-/ready") == 200

"""Every command of README.md and docs/ runs, and prints what the page shows."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.testbed.docs import Sandbox, pages, sandbox
from tests.testbed.pages import ROOT, Unrun, steps

# Shell blocks that nobody runs, by their first line, and why not.
NOT_RUN = {
    "make demo    # the story": "tests/e2e/test_demo.py runs the demo; this very run is the other",
    "make setup && . .venv": "this very run has it; the sandbox sets the variables",
    "export ETCD_STEWARD_STORE=s3://etcd-backups/prod ETCD": "the sandbox sets the same variables",
    "mkdir -p /root/stopped": "done on hosts with a kubelet: the sandbox stops its own servers",
    "mv /root/stopped/etcd.yaml": "done on hosts with a kubelet: the sandbox starts its members",
    "mv /root/stopped/kube-": "done on hosts with a kubelet: the sandbox starts its API server",
    "aws s3 cp": "needs the AWS tools; the next block does the same with a directory",
    "kubectl wait --for=condition=Failed": "would wait in vain for a run that succeeded",
    "kubectl describe esnap -n etcd-steward  ": "needs a Pod, so a node",
    "openssl rand -base64 32": "tests/e2e/test_s3_fields.py uses such a key and Secret",
    "aws s3api put-bucket-lifecycle": "tests/integration/test_lifecycle_rule.py puts that rule",
    "kubectl get lease etcd-steward": "the sandbox has one operator, and no Deployment to scale",
    "make image": "needs docker, podman or buildah, and an image registry",
    "make setup   ": "this very run",
    "cd /etc/kubernetes/pki/etcd": "done on a control plane host, with kubeadm's CA",
    "kubectl delete ebk,esnap --all -A": "would take the sandbox down for the other pages",
    "etcd-steward restore undo s3://": "tests/integration/test_cli_restore.py undoes a restore",
    "INSTALL httpfs": "tests/integration/test_sidecar.py asks DuckDB this over S3",
    "python -m tests.testbed up": "this very run; tests/integration/testbed runs `up`",
}
SILENT = {"text", "yaml", "python", "json", ""}  # for reading only; named YAML files are used


@pytest.fixture(scope="module")
async def reader(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with sandbox(tmp_path_factory.mktemp("docs")) as bed:
        yield bed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
async def test_commands_do_what_the_page_shows(page: Path, reader: Sandbox) -> None:
    _, ran = await reader.read(page)
    faults = [fault for one in ran for fault in one.faults()]
    assert not faults, "\n\n".join(faults)


def test_only_listed_blocks_are_not_run() -> None:
    unused = set(NOT_RUN)
    for page in pages():
        for step in steps(page.read_text(encoding="utf-8")):
            if not isinstance(step, Unrun) or step.language in SILENT:
                continue
            first = step.text.splitlines()[0]
            reasons = [start for start in NOT_RUN if first.startswith(start)]
            assert reasons, f"{page.name}, line {step.line}: nobody runs `{first}`"
            unused -= set(reasons)
    assert not unused, "these are on no page any more"


def test_links_lead_somewhere() -> None:
    for page in pages():
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith("https://"):
                continue
            path, _, heading = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name}: {target}"
            if heading:
                assert heading in headings(file), f"{page.name}: {target}"


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}

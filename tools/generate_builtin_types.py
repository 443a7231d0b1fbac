"""Generate `registry/builtin/types.binpb.xz`: every built-in type of Kubernetes, as data.

The `generated.proto` files of the Kubernetes modules that the test bed pins say how an object is
stored. How it is printed stands in Go's struct tags alone (what is left out when empty, what is
`null`, what is inlined), so these are read from the same modules and put where protobuf has a place
for a field's name in JSON. The API version of a package is its file's name.

Run it after a change of the pins and commit what it writes; `--check` only compares and fails on a
difference. Needs the test bed's copy of these sources, which Go fetches once.
"""

import argparse
import asyncio
import lzma
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.testbed.binaries import kubernetes_types

TARGET = (
    Path(__file__).resolve().parent.parent / "operator/etcd_steward/registry/builtin/types.binpb.xz"
)
OWN_JSON = frozenset(
    {
        "k8s.io.apimachinery.pkg.api.resource.Quantity",
        "k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime",
        "k8s.io.apimachinery.pkg.apis.meta.v1.Time",
        "k8s.io.apimachinery.pkg.runtime.RawExtension",
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString",
    }
)
"""Types that write their JSON themselves in Go: `builtin/printing.py` knows each, as it does the
four of CRDs' schemas."""
UNUSED = frozenset(
    {
        "k8s.io.apimachinery.pkg.api.resource.QuantityValue",
        "k8s.io.apimachinery.pkg.apis.meta.v1.Duration",
    }
)
"""Types that `printing.py` does not know, since no stored type has a field of them. They are left
out: if ever one has, loading the file fails."""

Tags = dict[int, str]
"""By field number, what `json_name` becomes."""


def generate() -> bytes:
    """Compile, annotate and compress all types; the same bytes for the same pins."""
    root = asyncio.run(kubernetes_types())
    files = compiled(root)
    names = {file.name: api_version(root / file.name) or file.name for file in files}
    result = FileDescriptorSet()
    for file in files:
        used = [m for m in file.message_type if f"{file.package}.{m.name}" not in UNUSED]
        tags = go_structs((root / file.name).parent, root)
        for message in used:
            annotate(message, tags.get(message.name), f"{file.package}.{message.name}")
        result.file.add(
            name=names[file.name],
            package=file.package,
            dependency=[names[name] for name in file.dependency],
            message_type=used,
        )
    return lzma.compress(result.SerializeToString(deterministic=True), preset=9)


def compiled(root: Path) -> list[FileDescriptorProto]:
    """What protoc makes of every `generated.proto`, dependencies first."""
    sources = sorted(path.relative_to(root) for path in root.rglob("generated.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "set"
        command: list[str | Path] = [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            f"-I{root}",
            "--include_imports",
            f"--descriptor_set_out={target}",
            *sources,
        ]
        # Its warnings of unused imports, one per import, are of no interest.
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            sys.exit(f"protoc failed: {run.stderr}")
        return list(FileDescriptorSet.FromString(target.read_bytes()).file)


def api_version(proto: Path) -> str | None:
    """`apps/v1` for a package that is the version of an API group; None for any other."""
    register = proto.with_name("register.go")
    found = register.exists() and re.search(
        r'^const GroupName = "(.*)"$', register.read_text(), re.MULTILINE
    )
    if not found or not re.fullmatch(r"v\d\w*", proto.parent.name):
        return None
    return f"{found[1]}/{proto.parent.name}".removeprefix("/")


def go_structs(directory: Path, root: Path) -> dict[str, Tags]:
    """Every struct of a Go package with its fields' tags, those it has from other packages too."""
    text = "".join(path.read_text() for path in sorted(directory.glob("*.go")))
    found = {
        name: dict(go_fields(body))
        for name, body in re.findall(
            r"^type (\w+) struct \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL
        )
    }
    meta = root / "k8s.io/apimachinery/pkg/apis/meta/v1"
    packages = {"v1": directory.parent / "v1", "metav1": meta}
    for name, package, other in re.findall(
        r"^type (\w+) =? ?(v1|metav1)\.(\w+)$", text, re.MULTILINE
    ):
        tags = go_structs(packages[package], root).get(other)
        if tags is not None:
            found[name] = tags
    return found


def go_fields(body: str) -> Iterator[tuple[int, str]]:
    """Number, and JSON name with flags, of every field that has a number.

    The flags: `o` omitempty, `z` omitzero, `p` a pointer, `i` inlined into its parent.
    """
    for line in body.splitlines():
        match = re.match(r"\s*(\w*?)\s*(\*?)[\w.*\[\]]+\s+`(.*)`", line)
        number = match and re.search(r'protobuf:"\w+,(\d+)', match[3])
        if match is None or number is None:
            continue
        go_name, pointer, tags = match.groups()
        json = re.search(r'json:"([^"]*)"', tags)
        name, *options = json[1].split(",") if json else [go_name]
        flags = "".join(
            letter
            for letter, holds in (
                ("o", "omitempty" in options),
                ("z", "omitzero" in options),
                ("p", bool(pointer)),
                ("i", "inline" in options),
            )
            if holds
        )
        yield int(number[1]), f"{name},{flags}"


def annotate(message: DescriptorProto, tags: Tags | None, full_name: str) -> None:
    """Put a message's tags in place. Fails on a field that has none."""
    if full_name in OWN_JSON:
        return
    only = message.field[0] if len(message.field) == 1 else None
    if tags is None and only and only.name == "items" and only.label == only.LABEL_REPEATED:
        only.json_name = "[]"  # a Go slice, which protobuf can only say as a message
        return
    for field in message.field:
        if tags is None or field.number not in tags:
            sys.exit(f"no Go field has the tags of {full_name}.{field.name}")
        field.json_name = tags[field.number]


def main() -> None:
    """Generate into the source tree, or with `--check` compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    check = parser.parse_args().check
    data = generate()
    if not check:
        TARGET.write_bytes(data)
    elif lzma.decompress(TARGET.read_bytes()) != lzma.decompress(data):
        sys.exit(f"stale: {TARGET.name}; run python tools/generate_builtin_types.py")


if __name__ == "__main__":
    main()

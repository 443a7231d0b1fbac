"""Generate `etcd_steward/etcd/_generated` from the `.proto` files in `etcd_steward/etcd/proto`.

Run it after a change to one of them and commit what it writes; `--check` only compares and fails on
a difference. grpcio-tools types the messages, but not the service stubs: the last step writes their
`.pyi`, for `grpc.aio` channels, which is the only kind that this project uses.
"""

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc

PACKAGE = Path("etcd_steward/etcd/_generated")
ROOT = Path(__file__).resolve().parent.parent / "operator"
PROTO = ROOT / "etcd_steward/etcd/proto"
SOURCES = ("auth.proto", "kv.proto", "rpc.proto")


def generate(root: Path) -> None:
    """Write all generated files below `root`."""
    (root / PACKAGE).mkdir(parents=True, exist_ok=True)
    descriptors = root / "descriptors.bin"
    arguments = [
        "protoc",
        f"-I{PACKAGE}={PROTO}",  # so that generated modules import each other by full name
        f"-I{resources.files('grpc_tools') / '_proto'}",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"--grpc_python_out={root}",
        f"--descriptor_set_out={descriptors}",
        *(str(PACKAGE / name) for name in SOURCES),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protoc failed: its message is above")
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors.read_bytes()).file
    descriptors.unlink()
    for file in files:
        target = root / PACKAGE / f"{Path(file.name).stem}_pb2_grpc.py"
        if file.service:
            target.with_suffix(".pyi").write_text(stub_types(file))
        else:
            target.unlink()
    (root / PACKAGE / "__init__.py").write_text(
        '"""Written by tools/generate_etcd_stubs.py: do not edit."""\n'
    )


def stub_types(file: descriptor_pb2.FileDescriptorProto) -> str:
    """Type declarations of the `*Stub` classes of one file."""
    module = f"{Path(file.name).stem}_pb2"
    lines = [
        "from grpc import aio",
        f"from {'.'.join(PACKAGE.parts)} import {module} as {module}",
    ]
    for service in file.service:
        lines += ["", f"class {service.name}Stub:"]
        lines += ["    def __init__(self, channel: aio.Channel) -> None: ..."]
        for method in service.method:
            kind = "Stream" if method.client_streaming else "Unary"
            kind += "Stream" if method.server_streaming else "Unary"
            types = ", ".join(
                f"{module}.{name.rpartition('.')[2]}"
                for name in (method.input_type, method.output_type)
            )
            lines.append(f"    {method.name}: aio.{kind}MultiCallable[{types}]")
    return "\n".join(lines) + "\n"


def differences(left: Path, right: Path) -> list[str]:
    """Names of generated files that are not the same in both folders."""
    found = {
        side: {path.name: path.read_bytes() for path in side.iterdir() if path.is_file()}
        for side in (left, right)
    }
    names = found[left].keys() | found[right].keys()
    return sorted(name for name in names if found[left].get(name) != found[right].get(name))


def main() -> None:
    """Generate into the source tree, or with `--check` compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        stale = differences(Path(scratch) / PACKAGE, ROOT / PACKAGE)
    if stale:
        sys.exit(f"stale: {', '.join(stale)}; run python tools/generate_etcd_stubs.py")


if __name__ == "__main__":
    main()

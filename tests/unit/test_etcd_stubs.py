"""Our stubs stand in for `etcd3.etcdrpc`: they must hold all that etcd3 expects of it."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import grpc

from etcd_steward.etcd import stubs

ROOT = Path(__file__).parents[2]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )


def shipped() -> Path:
    """The folder of etcd3's own etcdrpc, which can't be imported."""
    spec = importlib.util.find_spec("etcd3")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "etcdrpc"


def public_names(source: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_every_name_of_etcd3s_own_etcdrpc_is_there() -> None:
    modules = {path.name for path in shipped().glob("*.py")}
    assert modules == {
        "__init__.py",
        "auth_pb2.py",
        "kv_pb2.py",
        "rpc_pb2.py",
        "rpc_pb2_grpc.py",
    }, "etcd3's layout has changed: look at etcd_steward/etcd/stubs.py again"
    expected = public_names(shipped() / "rpc_pb2.py") | public_names(shipped() / "rpc_pb2_grpc.py")
    assert {"KVStub", "RangeRequest", "NOSPACE", "MaintenanceStub"} <= expected
    assert expected <= set(vars(stubs.etcdrpc))


def test_etcd3_works_over_them_with_todays_protobuf() -> None:
    done = run(
        "import etcd_steward.etcd.stubs as stubs\n"
        "import etcd3, etcd3.exceptions\n"
        "from etcd3.transactions import Mod\n"
        "assert etcd3.etcdrpc is stubs.etcdrpc\n"
        "assert issubclass(etcd3.exceptions.ConnectionFailedError, etcd3.Etcd3Exception)\n"
        "request = etcd3.Etcd3Client._build_get_range_request(None, b'a', b'b', keys_only=True)\n"
        "assert request == stubs.RangeRequest(key=b'a', range_end=b'b', keys_only=True)\n"
        "assert (Mod('k') == 7).build_message() == stubs.Compare("
        "    key=b'k', target=stubs.Compare.MOD, mod_revision=7)\n"
        "from google.protobuf.internal import api_implementation\n"
        "assert api_implementation.Type() == 'upb'\n"
    )
    assert done.returncode == 0, done.stderr


def test_another_etcdrpc_loaded_before_is_refused_in_words() -> None:
    done = run(
        "import sys, types\n"
        "sys.modules['etcd3.etcdrpc'] = types.ModuleType('etcd3.etcdrpc')\n"
        "import etcd_steward.etcd.stubs\n"
    )
    assert done.returncode == 1
    assert "import etcd_steward.etcd.stubs first" in done.stderr


def test_generated_code_is_what_the_proto_files_give() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools/generate_etcd_stubs.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_methods_are_called_by_etcds_own_paths() -> None:
    paths: list[str] = []

    class Channel:
        def unary_unary(self, path: str, **_: object) -> None:
            paths.append(path)

        unary_stream = unary_unary

    stubs.KVStub(Channel())  # type: ignore[arg-type]
    stubs.MaintenanceStub(Channel())  # type: ignore[arg-type]
    assert {"/etcdserverpb.KV/RangeStream", "/etcdserverpb.Maintenance/MoveLeader"} <= set(paths)


def test_wire_has_etcds_field_numbers() -> None:
    # As etcd 3.6 sends them: Status' storageVersion = 11 and dbSizeQuota = 12, HashKV's
    # hash_revision = 4, Snapshot's version = 4.
    status = stubs.etcdrpc.StatusResponse.FromString(b"\x5a\x053.6.0\x60\x07")
    assert (status.storageVersion, status.dbSizeQuota) == ("3.6.0", 7)
    assert stubs.etcdrpc.HashKVResponse.FromString(b"\x20\x09").hash_revision == 9
    assert stubs.etcdrpc.SnapshotResponse.FromString(b"\x22\x053.6.0").version == "3.6.0"


async def test_stubs_take_asynchronous_channels() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        snapshot = stubs.MaintenanceStub(channel).Snapshot
        assert isinstance(snapshot, grpc.aio.UnaryStreamMultiCallable)

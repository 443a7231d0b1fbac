"""What flags mean: etcdctl's connection flags and variables, stores, sizes, durations."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from etcd_steward.cli.etcd_flags import etcd_options
from etcd_steward.cli.framework import Verb
from etcd_steward.cli.store_flags import parse_store, spool_options
from etcd_steward.cli.values import DURATION, SIZE, human_age, parse_duration, parse_size
from etcd_steward.config import EtcdFlags
from etcd_steward.errors import InvalidInput
from etcd_steward.models.connection import LocalSettings, S3Settings
from etcd_steward.models.run import SpoolSettings
from etcd_steward.units import size


def etcd(
    *words: str, env: dict[str, str | None] | None = None, optional: bool = False
) -> tuple[Any, Result]:
    """The connection that a verb gets, and what was said about it."""
    got: list[EtcdFlags | None] = []

    @click.command(cls=Verb, examples="")
    @etcd_options(optional=optional)
    def verb(etcd: EtcdFlags | None) -> None:
        got.append(etcd)

    result = CliRunner().invoke(verb, words, env=env)
    return (got[0] if got else None), result


def test_defaults_are_etcdctls() -> None:
    flags, _ = etcd()
    assert flags == EtcdFlags()
    assert flags.endpoints == ("127.0.0.1:2379",)
    assert flags.use_proxy is False


def test_flags_and_durations() -> None:
    flags, _ = etcd(
        "--endpoints=https://10.0.0.1:2379, 10.0.0.2:2379",
        "--cacert", "ca.crt", "--cert=c.crt", "--key=c.key",
        "--dial-timeout=1m30s", "--command-timeout", "500ms", "--use-proxy",
    )  # fmt: skip
    assert flags.endpoints == ("https://10.0.0.1:2379", "10.0.0.2:2379")
    assert (flags.cacert, flags.cert, flags.key) == (Path("ca.crt"), Path("c.crt"), Path("c.key"))
    assert (flags.dial_timeout, flags.command_timeout, flags.use_proxy) == (90.0, 0.5, True)


def test_variables_stand_for_flags() -> None:
    flags, _ = etcd(
        env={
            "ETCDCTL_ENDPOINTS": "a:1,b:2",
            "ETCDCTL_CACERT": "ca.crt",
            "ETCDCTL_DIAL_TIMEOUT": "3s",
            "ETCDCTL_USER": "root:a:b",
        }
    )
    assert flags.endpoints == ("a:1", "b:2")
    assert flags.cacert == Path("ca.crt")
    assert flags.dial_timeout == 3.0
    assert (flags.user, flags.password.get_secret_value()) == ("root", "a:b")


@pytest.mark.parametrize("name", ["endpoints", "cacert", "user", "dial-timeout"])
def test_a_variable_beside_its_flag_is_an_error(name: str) -> None:
    variable = f"ETCDCTL_{name.upper().replace('-', '_')}"
    value = {"dial-timeout": "5s", "user": "a:b"}.get(name, "x")
    _, result = etcd(f"--{name}={value}", env={variable: value})
    assert result.exit_code == 2
    assert f"conflicting environment variable '{variable}'" in result.output


def test_an_empty_variable_is_not_set() -> None:
    flags, result = etcd("--endpoints=a:1", env={"ETCDCTL_ENDPOINTS": "", "ETCDCTL_USER": ""})
    assert result.exit_code == 0
    assert (flags.endpoints, flags.user) == (("a:1",), None)


def test_an_unknown_variable_is_named_and_etcdctls_own_are_not() -> None:
    _, result = etcd(env={"ETCDCTL_ENDPOINT": "a:1", "ETCDCTL_API": "3", "ETCDCTL_HEX": "true"})
    assert result.stderr == "Warning: the variable ETCDCTL_ENDPOINT is unknown, and ignored\n"


def test_a_password_of_its_own_leaves_colons_to_the_name() -> None:
    flags, _ = etcd("--user=a:b", "--password=c:d")
    assert (flags.user, flags.password.get_secret_value()) == ("a:b", "c:d")
    assert "c:d" not in repr(flags)


def test_a_missing_password_without_a_terminal_is_said() -> None:
    _, result = etcd("--user=root")
    assert result.exit_code == 2
    assert "the password of user 'root' is missing" in result.output
    _, result = etcd("--password=x")
    assert "--password needs --user" in result.output


def test_what_cannot_be_honoured_is_refused_in_words() -> None:
    for words, env in (
        (["--insecure-skip-tls-verify"], {}),
        (["--insecure-skip-tls-verify=true"], {}),
        ([], {"ETCDCTL_INSECURE_SKIP_TLS_VERIFY": "true"}),
    ):
        _, result = etcd(*words, env={**env})
        assert result.exit_code == 2
        assert "--cacert" in result.output
    _, result = etcd("--discovery-srv=example.com")
    assert result.exit_code == 2
    assert "name the members by --endpoints" in " ".join(result.output.split())
    assert etcd("--insecure-skip-tls-verify=false")[1].exit_code == 0


def test_insecure_transport_means_what_it_means_to_etcdctl() -> None:
    endpoints = "--endpoints=a:1,http://b:2"
    assert etcd(endpoints, "--insecure-transport")[0].endpoints == ("a:1", "http://b:2")
    secure = ("https://a:1", "http://b:2")
    assert etcd(endpoints, "--insecure-transport=false")[0].endpoints == secure
    by_variable = etcd(endpoints, env={"ETCDCTL_INSECURE_TRANSPORT": "false"})[0]
    assert by_variable.endpoints == secure


def test_an_empty_endpoint_is_an_error() -> None:
    assert "empty endpoint" in etcd("--endpoints=a:1,,b:2")[1].output


def test_etcd_may_be_left_out_where_it_is_optional() -> None:
    assert etcd(optional=True)[0] is None
    assert etcd("--endpoints=a:1", optional=True)[0].endpoints == ("a:1",)
    assert etcd(optional=True, env={"ETCDCTL_ENDPOINTS": "a:1"})[0].endpoints == ("a:1",)
    _, result = etcd("--cacert=ca.crt", optional=True)
    assert result.exit_code == 2
    assert "give --endpoints as well" in result.output


@pytest.mark.parametrize(
    ("url", "bucket", "prefix"),
    [
        ("s3://etcd-backups", "etcd-backups", ""),
        ("s3://etcd-backups/", "etcd-backups", ""),
        ("s3://etcd-backups/prod/eu/", "etcd-backups", "prod/eu"),
    ],
)
def test_stores_in_s3(url: str, bucket: str, prefix: str) -> None:
    settings = parse_store(url, s3_endpoint="https://s3.example.com", s3_path_style=True)
    assert isinstance(settings, S3Settings)
    assert (settings.bucket, settings.prefix) == (bucket, prefix)
    assert settings.endpoint == "https://s3.example.com"
    assert settings.force_path_style is True


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///var/backups", "/var/backups"),
        ("file://localhost/var/backups", "/var/backups"),
        ("file:///a%20b", "/a b"),
    ],
)
def test_stores_in_a_directory(url: str, path: str) -> None:
    assert parse_store(url) == LocalSettings(path=Path(path))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("/var/backups", "it has no scheme"),
        ("bucket/prefix", "it has no scheme"),
        ("gs://bucket/prefix", "the scheme 'gs' is unknown"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("file://var/backups", "not an absolute path. write file:///var/backups"),
        ("file:backups", "not an absolute path"),
        ("file://", "not an absolute path"),
        ("s3://bucket/a?b=c", "query"),
        ("s3://key:secret@bucket/a", "user or password"),
    ],
)
def test_stores_that_cannot_be_meant(url: str, said: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse_store(url)
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_ca_that_cannot_be_read_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"the CA file of S3 /no/ca can't be read"):
        parse_store("s3://bucket", s3_ca=Path("/no/ca"))


def spool(*words: str) -> SpoolSettings:
    got: list[SpoolSettings] = []

    @click.command(cls=Verb, examples="")
    @spool_options
    def verb(spool: SpoolSettings) -> None:
        got.append(spool)

    CliRunner().invoke(verb, words, catch_exceptions=False)
    return got[0]


def test_the_spool(tmp_path: Path) -> None:
    given_one = spool(f"--spool-dir={tmp_path}", "--spool-limit=2Gi")
    assert given_one == SpoolSettings(directory=tmp_path, limit=2 * 2**30)


def test_the_spool_of_nobody_in_particular_is_this_users_alone() -> None:
    directory = spool().directory
    assert directory.stat().st_mode & 0o777 == 0o700
    assert directory.stat().st_uid == Path("/proc/self").stat().st_uid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("1m30s", 90), ("1h", 3600), ("250ms", 0.25), ("1.5s", 1.5), ("2h0m1s", 7201)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "0s", "5s!", "1d"])
def test_no_durations(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration such as 5s"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "count"), [("2Gi", 2**31), ("500M", 500_000_000), ("1024", 1024), ("1.5Ki", 1536)]
)
def test_sizes(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["0", "-1", "2GB", "Gi", "lots", "0.1"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no size such as 500Mi"):
        SIZE.convert(text, None, None)


@given(st.integers(min_value=0, max_value=10**16))
def test_sizes_in_words_have_at_most_three_digits_and_are_right(count: int) -> None:
    number, unit = size(count).split()
    factor = 1000 ** ("B", "kB", "MB", "GB", "TB").index(unit)
    assert abs(float(number) * factor - count) <= 0.0051 * max(count, 1)
    assert len(number.replace(".", "")) <= 3 or unit == "TB"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0s"), (5, "5s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")],
)
def test_ages(seconds: float, words: str) -> None:
    assert human_age(seconds) == words

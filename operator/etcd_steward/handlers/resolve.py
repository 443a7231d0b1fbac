"""From an EtcdBackup's spec to connections: reads Secrets, and says who may use what.

A tenant's EtcdBackup must never be able to copy the whole registry into the tenant's bucket: the
operator's own etcd, its own disk and its own identity serve the allowed namespaces only.
"""

from pathlib import Path

from pydantic import SecretStr

from etcd_steward.config import OperatorConfig
from etcd_steward.errors import InvalidInput, Refused
from etcd_steward.kube import Key, Kube
from etcd_steward.models.connection import (
    EtcdConnection,
    EtcdTLS,
    LocalSettings,
    S3Encryption,
    S3Settings,
    StoreSettings,
)
from etcd_steward.models.kinds import EtcdBackupSpec
from etcd_steward.models.maintenance_kinds import EtcdMaintenanceSpec
from etcd_steward.models.places import S3, Encryption, StoreSpec
from etcd_steward.models.restore_kinds import EtcdRestoreSpec


async def resolve_etcd(
    spec: EtcdBackupSpec | EtcdRestoreSpec | EtcdMaintenanceSpec,
    namespace: str,
    config: OperatorConfig,
    kube: Kube,
) -> EtcdConnection:
    """How to reach the etcd that a spec means."""
    if spec.etcd is None or not spec.etcd.endpoints:
        allow(namespace, config, "the operator's own etcd", "set spec.etcd")
        if config.etcd is None:
            raise InvalidInput(
                "spec.etcd is not set, and the operator was installed without an etcd of its own",
                hint="Set spec.etcd, or start the operator with --endpoints",
            )
        return config.etcd.connection()
    tls = None
    if spec.etcd.tls is not None:
        secret = await kube.secret(Key(namespace, spec.etcd.tls.secret_name))
        pair = secret.get("tls.crt") is not None or secret.get("tls.key") is not None
        tls = EtcdTLS(
            ca=secret.need("ca.crt"),
            cert=secret.need("tls.crt") if pair else None,
            key=SecretStr(secret.need("tls.key")) if pair else None,
            server_name=spec.etcd.server_name,
        )
    elif any(endpoint.startswith("https://") for endpoint in spec.etcd.endpoints):
        tls = EtcdTLS(server_name=spec.etcd.server_name)
    user = password = None
    if spec.etcd.auth is not None:
        secret = await kube.secret(Key(namespace, spec.etcd.auth.secret_name))
        user, password = secret.need_line("username"), SecretStr(secret.need_line("password"))
    return EtcdConnection(endpoints=spec.etcd.endpoints, tls=tls, user=user, password=password)


async def resolve_store(
    spec: EtcdBackupSpec, namespace: str, config: OperatorConfig, kube: Kube
) -> StoreSettings:
    """Where a spec's backups lie, with the credentials for it."""
    return await resolve_place(spec.store, namespace, config, kube)


async def resolve_place(
    store: StoreSpec, namespace: str, config: OperatorConfig, kube: Kube
) -> StoreSettings:
    """A store, with the credentials for it."""
    if store.local is not None:
        allow(namespace, config, "the operator's own disk", "use spec.store.s3")
        return LocalSettings(path=Path(store.local.path))
    if store.s3 is None:  # the API server's rule says that there is one
        raise InvalidInput("spec.store names no store", hint="Set s3 or local")
    return await _resolve_s3(store.s3, namespace, config, kube)


async def _resolve_s3(
    spec: S3, namespace: str, config: OperatorConfig, kube: Kube
) -> StoreSettings:
    ca = access_key = secret_key = session_token = None
    if spec.ca_secret_name is not None:
        ca = (await kube.secret(Key(namespace, spec.ca_secret_name))).need("ca.crt")
    if spec.credentials_secret_name is None:
        allow(
            namespace,
            config,
            "the operator's own S3 identity",
            "set spec.store.s3.credentialsSecretName",
        )
    else:
        secret = await kube.secret(Key(namespace, spec.credentials_secret_name))
        access_key = secret.need_line("AWS_ACCESS_KEY_ID")
        secret_key = SecretStr(secret.need_line("AWS_SECRET_ACCESS_KEY"))
        if secret.get("AWS_SESSION_TOKEN") is not None:
            session_token = SecretStr(secret.need_line("AWS_SESSION_TOKEN"))
    return S3Settings(
        bucket=spec.bucket,
        prefix=spec.prefix,
        endpoint=spec.endpoint,
        region=spec.region,
        force_path_style=spec.force_path_style,
        ca=ca,
        access_key=access_key,
        secret_key=secret_key,
        session_token=session_token,
        storage_class=spec.storage_class,
        sse=None if spec.sse is None else await _resolve_encryption(spec.sse, namespace, kube),
        tags=spec.tags,
    )


async def _resolve_encryption(spec: Encryption, namespace: str, kube: Kube) -> S3Encryption:
    key = None
    if spec.customer_key_secret_name is not None:
        secret = await kube.secret(Key(namespace, spec.customer_key_secret_name))
        key = SecretStr(secret.need("customer.key").strip())
    return S3Encryption(type=spec.type, kms_key_id=spec.kms_key_id, customer_key=key)


def allow(namespace: str, config: OperatorConfig, what: str, instead: str) -> None:
    """Raise `Refused` where a namespace may not use what is the operator's own."""
    if namespace not in config.etcd_namespaces:
        raise Refused(
            f"namespace {namespace} may not use {what}",
            hint=f"Allow it by --etcd-namespaces at the operator, or {instead}",
        )

"""What a Pod asks of its node, read once from its JSON into fields.

Names are the API's in snake case, amounts stay texts (`gateway.wire.kube.quantity`), absent reads as
empty. Objects of the API were judged when they were stored; those of files are judged where they are read.
Source: Kubernetes API, core/v1 Pod.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct, field

from edge.pods.podnames import misnamed
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject, nests_within

MAX_DEPTH: Final = 64
"""Tables within tables of a Pod."""
IntOrText: TypeAlias = int | str
Strings: TypeAlias = dict[str, str]


class _Part(Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """Of the API's names: `podIP` and its like are named by hand."""


class KeyRef(_Part, frozen=True):
    """A key of a ConfigMap or Secret."""

    name: str = ""
    key: str = ""
    optional: bool | None = None


class FieldRef(_Part, frozen=True):
    api_version: str = ""
    field_path: str = ""


class ResourceFieldRef(_Part, frozen=True):
    container_name: str = ""
    resource: str = ""
    divisor: str | int | None = None


class FileKeyRef(_Part, frozen=True):
    volume_name: str = ""
    path: str = ""
    key: str = ""
    optional: bool | None = None


class EnvSource(_Part, frozen=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None
    file_key_ref: FileKeyRef | None = None


class EnvVar(_Part, frozen=True):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class ObjectRef(_Part, frozen=True):
    name: str = ""
    optional: bool | None = None


class EnvFrom(_Part, frozen=True):
    prefix: str = ""
    config_map_ref: ObjectRef | None = None
    secret_ref: ObjectRef | None = None


class Port(_Part, frozen=True):
    name: str = ""
    container_port: int = 0
    host_port: int = 0
    host_ip: str = field(name="hostIP", default="")
    protocol: str = "TCP"


class Resources(_Part, frozen=True):
    limits: dict[str, str | int | float] = {}
    requests: dict[str, str | int | float] = {}


class VolumeMount(_Part, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = ""
    recursive_read_only: str = ""


class VolumeDevice(_Part, frozen=True):
    name: str
    device_path: str


class ExecAction(_Part, frozen=True):
    command: list[str] = []


class HttpHeader(_Part, frozen=True):
    name: str
    value: str = ""


class HttpGetAction(_Part, frozen=True):
    path: str = ""
    port: IntOrText = 0
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HttpHeader] = []


class TcpAction(_Part, frozen=True):
    port: IntOrText = 0
    host: str = ""


class GrpcAction(_Part, frozen=True):
    port: int = 0
    service: str = ""


class SleepAction(_Part, frozen=True):
    seconds: int = 0


class Handler(_Part, frozen=True):
    """What a probe or a hook does: one of these."""

    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpAction | None = None
    grpc: GrpcAction | None = None
    sleep: SleepAction | None = None


class Probe(Handler, frozen=True):
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(_Part, frozen=True):
    post_start: Handler | None = None
    pre_stop: Handler | None = None
    stop_signal: str = ""


class Capabilities(_Part, frozen=True):
    add: list[str] = []
    drop: list[str] = []


class SeccompProfile(_Part, frozen=True):
    type: str = ""
    localhost_profile: str = ""


class SecurityContext(_Part, frozen=True):
    """Of a container."""

    privileged: bool | None = None
    capabilities: Capabilities | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str = ""
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: SeccompProfile | None = None
    se_linux_options: Strings = {}


class Sysctl(_Part, frozen=True):
    name: str
    value: str = ""


class PodSecurityContext(_Part, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    fs_group_change_policy: str = ""
    supplemental_groups: list[int] = []
    supplemental_groups_policy: str = ""
    sysctls: list[Sysctl] = []
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: SeccompProfile | None = None
    se_linux_options: Strings = {}


class ExitCodes(_Part, frozen=True):
    operator: str = ""
    values: list[int] = []


class RestartRule(_Part, frozen=True):
    action: str = ""
    exit_codes: ExitCodes | None = None


class Container(_Part, frozen=True):
    """A container, init container or (with `target_container_name`) ephemeral container."""

    name: str
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    ports: list[Port] = []
    env: list[EnvVar] = []
    env_from: list[EnvFrom] = []
    resources: Resources = Resources()
    volume_mounts: list[VolumeMount] = []
    volume_devices: list[VolumeDevice] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    restart_policy: str = ""
    restart_policy_rules: list[RestartRule] = []
    target_container_name: str = ""

    @property
    def is_sidecar(self) -> bool:
        """An init container that stays: only read this of init containers."""
        return self.restart_policy == "Always"


class KeyToPath(_Part, frozen=True):
    key: str
    path: str
    mode: int | None = None


class ConfigMapVolume(_Part, frozen=True):
    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool | None = None


class SecretVolume(_Part, frozen=True):
    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool | None = None


class SecretProjection(_Part, frozen=True):
    name: str = ""
    items: list[KeyToPath] = []
    optional: bool | None = None


class DownwardFile(_Part, frozen=True):
    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardVolume(_Part, frozen=True):
    items: list[DownwardFile] = []
    default_mode: int = 0o644


class TokenProjection(_Part, frozen=True):
    audience: str = ""
    expiration_seconds: int = 3600
    path: str = ""


class Projection(_Part, frozen=True):
    """One source of a projected volume. `other`: what this node does not know how to project."""

    config_map: ConfigMapVolume | None = None
    secret: SecretProjection | None = None
    downward_api: DownwardVolume | None = field(name="downwardAPI", default=None)
    service_account_token: TokenProjection | None = None
    cluster_trust_bundle: dict[str, Any] | None = None
    pod_certificate: dict[str, Any] | None = None


class ProjectedVolume(_Part, frozen=True):
    sources: list[Projection] = []
    default_mode: int = 0o644


class EmptyDir(_Part, frozen=True):
    medium: str = ""
    size_limit: str | int | None = None


class HostPath(_Part, frozen=True):
    path: str
    type: str = ""


class ClaimVolume(_Part, frozen=True):
    claim_name: str = ""
    read_only: bool = False


class Volume(_Part, frozen=True):
    """A volume; one of its sources is set. A source that is none of these: see `source_of`."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = field(name="downwardAPI", default=None)
    projected: ProjectedVolume | None = None
    persistent_volume_claim: ClaimVolume | None = None


class DnsOption(_Part, frozen=True):
    name: str = ""
    value: str | None = None


class DnsConfig(_Part, frozen=True):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[DnsOption] = []


class HostAlias(_Part, frozen=True):
    ip: str = ""
    hostnames: list[str] = []


class ReadinessGate(_Part, frozen=True):
    condition_type: str = ""


class Toleration(_Part, frozen=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSpec(_Part, frozen=True):
    volumes: list[Volume] = []
    init_containers: list[Container] = []
    containers: list[Container] = []
    ephemeral_containers: list[Container] = []
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig | None = None
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = field(name="hostPID", default=False)
    host_ipc: bool = field(name="hostIPC", default=False)
    host_users: bool | None = None
    share_process_namespace: bool = False
    security_context: PodSecurityContext = PodSecurityContext()
    image_pull_secrets: list[ObjectRef] = []
    hostname: str = ""
    hostname_override: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = field(name="setHostnameAsFQDN", default=False)
    host_aliases: list[HostAlias] = []
    priority: int | None = None
    priority_class_name: str = ""
    readiness_gates: list[ReadinessGate] = []
    runtime_class_name: str = ""
    enable_service_links: bool | None = None
    overhead: dict[str, str | int | float] = {}
    tolerations: list[Toleration] = []
    resources: Resources | None = None


class PodMeta(_Part, frozen=True):
    name: str = ""
    namespace: str = "default"
    uid: str = ""
    labels: Strings = {}
    annotations: Strings = {}
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    owner_references: list[dict[str, Any]] = []


class _Pod(_Part, frozen=True):
    metadata: PodMeta = PodMeta()
    spec: PodSpec = PodSpec()


class Pod(Struct, frozen=True):
    """A Pod of this node. `raw` is the object it was read from: never change it."""

    meta: PodMeta
    spec: PodSpec
    raw: JsonObject

    @property
    def uid(self) -> str:
        return self.meta.uid

    @property
    def key(self) -> tuple[str, str]:
        """Namespace and name."""
        return self.meta.namespace, self.meta.name

    @property
    def is_deleting(self) -> bool:
        return bool(self.meta.deletion_timestamp)

    @property
    def is_static(self) -> bool:
        """Read from a file of this node; the API may have a mirror of it."""
        return self.meta.annotations.get(CONFIG_SOURCE, API) != API

    @property
    def is_mirror(self) -> bool:
        """The API's picture of a static Pod: shown, never run."""
        return CONFIG_MIRROR in self.meta.annotations

    def containers(self) -> list[Container]:
        """All containers: init, plain, ephemeral."""
        spec = self.spec
        return [*spec.init_containers, *spec.containers, *spec.ephemeral_containers]

    def container(self, name: str) -> Container | None:
        return next((each for each in self.containers() if each.name == name), None)


CONFIG_SOURCE = "kubernetes.io/config.source"
CONFIG_MIRROR = "kubernetes.io/config.mirror"
CONFIG_HASH = "kubernetes.io/config.hash"
API, FILE = "api", "file"


def read_pod(item: JsonObject) -> Pod:
    """Read a Pod.

    Errors: BadRequest, naming the field that is not of its type, or a name that is none: names become folders
            of this machine, and a cloud in error must not lead out of them.
    """
    if not nests_within(item, MAX_DEPTH):
        raise BadRequest(f"Pod: deeper than {MAX_DEPTH} levels")
    try:
        found = msgspec.convert(_without_nulls(item), _Pod)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Pod: {error}") from error
    pod = Pod(found.metadata, found.spec, item)
    names = [each.name for each in pod.containers()]
    fault = next(misnamed(pod.uid, *pod.key, names), "")
    if fault:
        raise BadRequest(f"Pod: {fault}")
    return pod


def _without_nulls(value: Json) -> Json:
    """Return JSON without fields that are null: to the API they are absent."""
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    return [_without_nulls(each) for each in value] if isinstance(value, list) else value

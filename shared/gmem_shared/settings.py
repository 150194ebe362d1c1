"""Every setting of the product, typed, one section per service.

Read once, from the environment, by the process's entry point (:func:`read_settings`): prefix
``GMEM_``, nesting ``__``. ``GMEM_STORE__URL=s3://bucket/prefix`` sets ``settings.store.url``. Parts
receive values, never the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gmem_shared.errors import InvalidRequestError

RuntimeName = Literal["eager", "scripted", "compiled", "onnx"]
BatchingName = Literal["continuous", "grouped", "dynamic", "one_at_a_time"]
Rate = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,9}/([1-9][0-9]{0,3} )?(second|minute|hour|day|month|year)s?$",
        examples=["120/minute", "10000/12 hours"],
    ),
]
"""How much in how long, as the library ``limits`` writes it."""

_OF_A_SERVICE = re.compile(r"\w+_PORT=(tcp|udp|sctp)://")


class Section(BaseModel):
    """A group of settings; unknown names are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StoreSettings(Section):
    """Where versions live (``GMEM_STORE__*``)."""

    url: str = ".gmem/store"
    """A folder, ``file://…``, ``memory://`` or ``s3://bucket/prefix`` (server: ``AWS_*``)."""

    credentials_file: Path | None = None
    """Of ``s3://``: a file as AWS's own tools read it, ``[default]`` with ``aws_access_key_id``,
    ``aws_secret_access_key`` and, if need be, ``aws_session_token``; a change is noticed at the
    next request. By default ``AWS_*`` variables, or what the machine is allowed to."""

    cache_dir: Path = Path(".gmem/cache")
    """Where verified copies of remote versions are kept, with ``trusted_keys_file`` of all; nobody
    who must not change what is served may write there."""

    poll_seconds: float = Field(default=2.0, gt=0)
    """How often a running service looks for a moved alias."""

    signing_key_file: FilePath | None = None
    """Ed25519 private key (PEM) that signs what this process publishes; see
    ``gmem store keygen``."""

    trusted_keys_file: FilePath | None = None
    """Public keys (PEM, one after another). A version that none of them signed is not opened."""


class RedisSettings(Section):
    """What replicas share (``GMEM_REDIS__*``)."""

    url: str = "memory://"
    """``redis://host:6379/0`` or ``rediss://…``; ``memory://``: in this process, gone with it."""

    password_file: Path | None = None
    """File with the password, where Redis wants one."""

    timeout_seconds: float = Field(default=1.0, gt=0)
    """How long one call may take before Redis counts as away."""

    def client_options(self) -> dict[str, Any]:
        """Return the arguments of ``redis.Redis.from_url``, the password read from its file."""
        password = None if self.password_file is None else self.password_file.read_text().strip()
        return {
            "url": self.url,
            "password": password,
            "socket_timeout": self.timeout_seconds,
            "socket_connect_timeout": self.timeout_seconds,
        }


class SecuritySettings(Section):
    """Who may ask, and how connections are encrypted (``GMEM_SECURITY__*``)."""

    api_keys_file: Path | None = None
    """JSON list of the API keys that are accepted, see ``gmem key new``; read again when it
    changes. Without it everybody may do everything."""

    tls_cert_file: FilePath | None = None
    """Certificate chain (PEM): HTTP and gRPC are then served encrypted. Our own clients show it to
    a server that asks for one."""

    tls_key_file: FilePath | None = None
    """Private key (PEM) of the certificate."""

    tls_ca_file: FilePath | None = None
    """Certificates (PEM) of the authorities by which our own clients know the bank service and
    Triton; with it they speak TLS to both."""

    tls_client_ca_file: FilePath | None = None
    """Authorities (PEM) one of which must have signed the certificate of a client of the bank's
    gRPC; by default clients need none."""

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("expected both of tls_cert_file and tls_key_file, found one")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("expected tls_cert_file beside tls_client_ca_file, found none")
        return self


class QuotaSettings(Section):
    """How much one API key may ask for (``GMEM_QUOTA__*``), counted in Redis (``GMEM_REDIS__*``).

    Without API keys all callers are counted as one; with ``memory://`` each process counts alone.
    """

    requests: Rate | None = None
    """Requests of a key that names no quota of its own, e.g. ``120/minute``; none by default."""

    images: Rate | None = None
    """Images of a key that names no quota of its own, e.g. ``10000/hour``; none by default."""

    redis_away: Literal["allow", "refuse"] = "allow"
    """While Redis is away, requests with a quota pass uncounted (``allow``) or get 503
    (``refuse``); while it is full they get 503."""


class LogSettings(Section):
    """Logging (``GMEM_LOG__*``)."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Events below this level are dropped."""

    json_lines: bool = False
    """One JSON object per line instead of text for people."""


class BankSettings(Section):
    """The bank service and its client (``GMEM_BANK__*``)."""

    host: str = "127.0.0.1"
    """Address the service listens on."""

    http_port: int = Field(default=8100, ge=0, le=65535)
    """HTTP: reads, draw, gather, search, health, metrics."""

    grpc_port: int = Field(default=8101, ge=0, le=65535)
    """gRPC: ``gmem.bank.v1.Bank``, health, reflection."""

    address: str = "127.0.0.1:8101"
    """Where a client finds the gRPC service."""

    timeout_seconds: float = Field(default=10.0, gt=0)
    """Deadline of one call of the client, retries included."""

    api_key_file: FilePath | None = None
    """File with the API key that the client sends; by default it sends none."""

    workers: int = Field(default=4, ge=1)
    """Threads that draw, gather and search for gRPC, and as many for HTTP."""

    max_rows: int = Field(default=65536, ge=1)
    """Most rows that one request may ask for."""

    max_open_versions: int = Field(default=4, ge=1)
    """Versions kept mapped besides those an alias points to."""


class EngineSettings(Section):
    """The engine (``GMEM_ENGINE__*``)."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1`` …; ``auto``: the first GPU, or the CPU where there is none."""

    runtime: RuntimeName | Literal["auto"] = "auto"
    """What evaluates networks: PyTorch ``eager``, ``scripted`` or ``compiled``, or ONNX Runtime
    (``onnx``). ``auto``: ``onnx`` for transformers on a CPU, ``compiled`` on a GPU, else ``eager``.
    """

    strict: bool | None = None
    """Bit-identical images in any batch; by default on a CPU, where it costs nothing, but not on a
    GPU, where every evaluation then has ``max_rows`` rows."""

    batching: BatchingName = "continuous"
    """Who shares an evaluation. ``continuous``: any rows, joining and leaving at each one. The
    others are baselines that batch whole requests: ``grouped`` of like length, ``dynamic`` whoever
    arrived within a window, ``one_at_a_time`` none."""

    batch_window_ms: float = Field(default=5.0, ge=0)
    """How long ``dynamic`` batching waits for company."""

    max_rows: int = Field(default=64, ge=1)
    """Most rows in one network evaluation. Continuous batching takes fewer where the measured time
    per row gains less than 5% from more."""

    max_waiting_rows: int = Field(default=16384, ge=1)
    """Rows that may wait for a place in one process; beyond, tasks are refused."""

    max_steps: int = Field(default=1000, ge=1)
    """Most steps a task may ask for."""

    threads: int = Field(default=1, ge=1)
    """CPU threads of one network evaluation; 1 gives bit-identical images in any batch."""

    processes: int | None = Field(default=None, ge=1)
    """Processes that evaluate, each with ``threads``; 1 is the process that asks itself. By default
    one per usable core, and one for a GPU."""

    modulation_bytes: int = Field(default=256 << 20, ge=1)
    """Memory for the precomputed modulation of the running rows."""

    drain_seconds: float = Field(default=20.0, ge=0)
    """How long accepted tasks may take after a stop signal."""

    max_models: int = Field(default=8, ge=1)
    """Model versions kept loaded besides those an alias points to."""


class TritonSettings(Section):
    """Triton and its client (``GMEM_TRITON__*``); the client's address is ``generator``'s."""

    host: str = "127.0.0.1"
    """Address Triton listens on."""

    http_port: int = Field(default=8200, ge=1, le=65535)
    """HTTP: OIP v2, health."""

    grpc_port: int = Field(default=8201, ge=1, le=65535)
    """gRPC: what the front end uses."""

    metrics_port: int = Field(default=8202, ge=1, le=65535)
    """Triton's metrics and the engine's."""

    server_dir: Path | None = None
    """Folder of an installed tritonserver, ``/opt/tritonserver`` in NVIDIA's images; by default the
    one in the nvidia-pytriton wheel."""

    model_repository: Path | None = None
    """Folder that holds ``gmem/config.pbtxt``; by default the one of the source checkout."""

    runtime_dir: Path = Path(".gmem/triton")
    """Where the backend folder is laid out at start."""

    exit_timeout_seconds: int = Field(default=30, ge=1)
    """How long requests in flight, and then the engine's drain, may take after a stop signal."""

    timeout_seconds: float = Field(default=10.0, gt=0)
    """How long the client waits for the description of a model, which may have to be loaded."""

    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """Silence after which the client asks for a sign of life; twice this breaks the stream."""


class GeneratorSettings(Section):
    """The front end (``GMEM_GENERATOR__*``)."""

    host: str = "127.0.0.1"
    """Address the front end listens on."""

    port: int = Field(default=8000, ge=0, le=65535)
    """HTTP."""

    workers: int = Field(default=1, ge=1)
    """Processes that share the port; more than one need a backend they can share: Triton."""

    metrics_port: int = Field(default=8010, ge=1, le=65535)
    """First of the ports of the workers' metrics, one each; a single worker's are at ``/metrics``
    of its own port."""

    bank_source: str = "gmem_bank.local:LocalBank"
    """Import string of the bank source; ``gmem_shared.clients.bank:BankClient`` for the service.

    ``gmem_bank.local:LocalBank`` maps the banks of the store (``GMEM_STORE__*``) in the front end
    itself, also when the backend is Triton; it needs the extra ``bank``.
    """

    backend: str = "gmem_model.embedded:EmbeddedBackend"
    """Import string of the engine; ``gmem_generator.triton_backend:TritonBackend`` for Triton,
    ``gmem_generator.triton_replicas:TritonReplicas`` for as many as its address stands for."""

    triton_address: str = "127.0.0.1:8201"
    """gRPC address of Triton, ``host:port``."""

    default_model: str = "digits@production"
    """Model of a request that names none."""

    max_images: int = Field(default=1024, ge=1)
    """Most images in one request."""

    max_waiting_images: int = Field(default=4096, ge=1)
    """Images admitted and unfinished, of all workers; beyond, requests get 429."""

    max_body_bytes: int = Field(default=1 << 20, ge=1024)
    """Larger request bodies get 413."""

    default_deadline_ms: int = Field(default=60_000, ge=1)
    """Deadline of a request that names none."""

    draw_window_ms: float = Field(default=0.0, ge=0)
    """How long a draw waits for company; requests that arrive during one share the next."""

    leave_seconds: float = Field(default=0.0, ge=0)
    """How long new requests are still taken after a stop signal, while ``/readyz`` says 503: what a
    load balancer needs to send them elsewhere."""

    drain_seconds: float = Field(default=20.0, ge=0)
    """How long requests in flight may take after that."""


class JobsSettings(Section):
    """Asynchronous jobs, and requests that are repeated (``GMEM_JOBS__*``)."""

    max_images: int = Field(default=100_000, ge=1)
    """Most images of one job."""

    max_unfinished: int = Field(default=1000, ge=1)
    """Unfinished jobs of all callers; beyond, submissions get 429."""

    part_images: int = Field(default=64, ge=8)
    """Images that are made, stored and, after a crash, repeated together."""

    parallel_parts: int = Field(default=16, ge=1)
    """Parts of one job that are made at a time by all front ends; so jobs take turns."""

    concurrency: int = Field(default=2, ge=0)
    """Parts that one front end makes at a time; with 0 it takes jobs and leaves them to others."""

    max_attempts: int = Field(default=3, ge=1)
    """Failures of one part, or crashes within it, after which its job fails."""

    claim_seconds: float = Field(default=30.0, gt=0)
    """A part whose worker was not heard of for so long goes to another."""

    keep_seconds: float = Field(default=7 * 86_400.0, gt=0)
    """How long a job and its result are kept after its end."""

    kept_bytes: int = Field(default=32 << 20, ge=1 << 20)
    """Most memory of Redis for the jobs of one caller, ended ones too; beyond, submissions get 429.
    A job takes 1 KiB, its request, and 8 bytes for each part."""

    presigned_links: bool = True
    """Whether clients fetch results from S3 itself; else, or where the store has no such links,
    from the front end."""

    link_seconds: float = Field(default=3600.0, gt=0)
    """How long a link to a result in an object store is good."""

    idempotency_seconds: int = Field(default=86_400, ge=1)
    """How long an ``Idempotency-Key`` is remembered."""

    idempotency_required: bool = True
    """Whether a request with a key is refused while Redis is away; else the key is ignored."""


class TrainerSettings(Section):
    """What a training run shows while it runs (``GMEM_TRAINER__*``)."""

    metrics_host: str = "127.0.0.1"
    """Address the metrics are served on."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """HTTP: the metrics of the run, for Prometheus; by default none are served."""

    metrics_linger_seconds: float = Field(default=30.0, ge=0)
    """How long a run that has ended waits for its last figures to be read."""


class TracingSettings(BaseSettings):
    """Whether OpenTelemetry is asked for traces: its own variables, ``OTEL_*``.

    The others of them, such as headers, sampler and resource, its SDK reads by itself.
    """

    model_config = SettingsConfigDict(
        env_prefix="OTEL_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
    )

    sdk_disabled: bool = False
    """Whatever else is set, trace nothing."""

    traces_exporter: Literal["otlp", "none"] | None = None
    """``otlp``, to where the endpoint says; by default if an endpoint is set."""

    exporter_otlp_endpoint: str | None = None
    """Base URL of a collector, e.g. ``http://127.0.0.1:4318``."""

    exporter_otlp_traces_endpoint: str | None = None
    """URL for traces alone."""

    exporter_otlp_protocol: Literal["http/protobuf"] = "http/protobuf"
    """The only one that is spoken here."""

    exporter_otlp_timeout: float = Field(default=2.0, gt=0)
    """Seconds that sending may take, retries included; a process that ends waits no longer."""

    service_name: str | None = None
    """Name of the process in traces; by default ``gmem-generator``, ``-bank`` or ``-engine``."""

    @property
    def wanted(self) -> bool:
        """Whether there is somebody to send traces to."""
        given = self.exporter_otlp_endpoint or self.exporter_otlp_traces_endpoint
        exporter = self.traces_exporter or ("otlp" if given else "none")
        return exporter == "otlp" and not self.sdk_disabled


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(
        env_prefix="GMEM_", env_nested_delimiter="__", frozen=True, extra="ignore"
    )

    store: StoreSettings = Field(default_factory=StoreSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    security: SecuritySettings = Field(default_factory=SecuritySettings)
    quota: QuotaSettings = Field(default_factory=QuotaSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    bank: BankSettings = Field(default_factory=BankSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    triton: TritonSettings = Field(default_factory=TritonSettings)
    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    trainer: TrainerSettings = Field(default_factory=TrainerSettings)


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        InvalidRequestError: A variable names no setting, or its value is not acceptable.
    """
    try:
        settings, wrong = Settings(), []
    except ValidationError as error:
        wrong = [
            (_variable(*found["loc"]), "" if found["type"] == "extra_forbidden" else found["msg"])
            for found in error.errors(include_url=False, include_input=False)
        ]
    wrong += [(name, "") for name in _that_set_nothing()]
    if wrong:
        raise InvalidRequestError("; ".join(_sentence(*each) for each in wrong))
    return settings


def _variable(*path: str | int) -> str:
    return "GMEM_" + "__".join(str(part).upper() for part in path)


def _known() -> list[str]:
    return [
        _variable(section, name)
        for section, field in Settings.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    ]


def _that_set_nothing() -> Iterator[str]:
    """Variables of an unknown section, and settings written with one ``_`` for the ``__``.

    Any other ``GMEM_X`` is left to others, as is what Kubernetes makes of a service, whatever its
    name: ``GMEM_BANK_HTTP_PORT=tcp://10.0.0.7:8100``.
    """
    sections = {section.upper() for section in Settings.model_fields}
    slips = {name.replace("__", "_") for name in _known()}
    for name, value in os.environ.items():  # noqa: TID251 (pydantic-settings sees known names only)
        prefix, _, rest = name.upper().partition("_")
        section, delimiter, _ = rest.partition("__")
        if prefix != "GMEM":
            continue
        slip = name.upper() in slips and not _OF_A_SERVICE.match(f"{name}={value}")
        if slip or (delimiter and section not in sections):
            yield name


def _sentence(variable: str, message: str) -> str:
    if message:
        return f"{variable}: {message}"
    near = get_close_matches(variable.upper(), _known(), n=1, cutoff=0.8)
    advice = f"did you mean {near[0]}?" if near else "docs/operations/configure.md lists them"
    return f"{variable} is not a setting; {advice}"

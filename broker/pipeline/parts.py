"""What the pipeline is put together from, and the bounds that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from broker.approvals.desk import Desk
from broker.domain.ports import Recorder, Store, Vault
from broker.domain.workflow import WorkflowSpec
from broker.identity.directory import LiveDirectory
from broker.metrics.prometheus import PrometheusMeter
from broker.pipeline.bell import Bell
from broker.pipeline.folders import Folders
from broker.pipeline.standing import Held
from broker.policy.live import LivePolicy
from broker.sandbox.egress.gate import Egress
from broker.sandbox.pool import Pool
from broker.specs.catalogue import Catalogue
from broker.specs.tiers import Tiers
from broker.vault.artifacts import Artifacts
from broker.workspace.objects import Objects
from broker.workspace.trees import Trees


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the whole broker; sizes in bytes, times in seconds."""

    max_running: int
    max_queued: int
    max_active_per_agent: int
    storage_quota_bytes: int
    blob_max_bytes: int
    blob_ttl_s: float
    refusal_window_s: float
    workspace_max_files: int = 200_000
    workspace_max_bytes: int = 4 << 30
    admissions_per_s: float = 50.0
    """Calls that one agent may ask for, one second with another."""
    admissions_burst: int = 500
    """Calls that an agent may ask for at once after a rest."""
    detach_grace_s: float = 2.0
    """How long a call goes on whose RunToolCall stream broke, until somebody watches it again."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The rooms, as the pipeline uses them."""

    store: Store
    ledger: Recorder
    vault: Vault
    directory: LiveDirectory
    policy: LivePolicy
    catalogue: Catalogue
    sandboxes: Pool
    egress: Egress
    meter: PrometheusMeter
    images: Mapping[str, str]
    """Image name of a spec -> digest of the image that the engine has under it."""
    workspace_classes: Mapping[str, tuple[str, ...]]
    """Workspace -> classes of data that every call in it touches."""
    tiers: Tiers
    counted_roles: frozenset[str]
    """Roles of which approvals ask for so many people, without ``role:``."""
    held: tuple[Held, ...]
    """Changes that the start didn't bring into force: two people have to agree to them first."""
    workflows: Mapping[str, WorkflowSpec]
    """Name -> the version that the operator's folder holds; approved or not."""
    desk: Desk
    bell: Bell
    objects: Objects
    """The bytes of workspaces' files, by their digests."""
    trees: Trees
    """The states of workspaces' trees."""
    folders: Folders
    """Directories of the host that are workspaces' trees."""
    artifacts: Artifacts
    origin: str
    bounds: Bounds
    clock: Callable[[], datetime]

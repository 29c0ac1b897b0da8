"""The ``settings.yaml`` that ``broker init`` writes: every setting with its default, commented out."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import yaml

from broker.settings import Settings

SAYS: Mapping[str, str] = MappingProxyType(
    {
        "listen": "Address of the mutual-TLS listener; port 0 takes a free one.",
        "unsafe_plaintext_listen": "A second listener without TLS or authentication, for debugging on loopback. Off.",
        "unsafe_plaintext_agent": "Name of the agent that callers of the plaintext listener are.",
        "unsafe_chat_only_quorum": "Lets tiers.yaml ask for no signed vote at Tier 4: whoever controls the chat or its bot"
        " can then do all that Tier 4 can. Off.",
        "unsafe_slack_approves_tier4": "Lets tiers.yaml take votes for Tier 4 by Slack: whoever controls the chat or its"
        " bot then has one of the two votes. Off.",
        "unsafe_import_over_tree": "Lets an import replace a tree once the two-person rule is in force: one person then"
        " changes all files of a workspace alone. Off.",
        "engine": "Address of the container engine, such as unix:///run/docker.sock; empty asks the environment.",
        "database": "PostgreSQL database, postgresql://user@host:port/name; empty is broker.db in the state directory.",
        "database_password": "Where its password comes from: env:NAME or file:/absolute/path; empty for none.",
        "max_running": "Calls that run at one time.",
        "max_queued": "Calls that wait at one time; more are refused with RESOURCE_EXHAUSTED.",
        "max_active_per_agent": "Calls of one agent that run or wait.",
        "max_request_bytes": "Longest request message, in bytes.",
        "max_arguments_bytes": "Longest arguments of a call, in bytes.",
        "storage_quota_bytes": "Bytes of files, requests, events and output that are kept of one caller at one time.",
        "blob_max_bytes": "Bytes of one blob.",
        "blob_ttl_s": "Seconds for which a blob is kept that no call uses.",
        "refusal_window_s": "Seconds within which equal refusals of one agent become one counted ledger entry.",
        "drain_s": "Seconds for which running calls may go on after SIGTERM.",
        "policy_poll_s": "Seconds between looks at the policy file for changes.",
        "workspace_data_classes": "Workspace -> classes of data that every call in it touches, such as {hr: [personal]}.",
        "workspaces_dir": "Folder of what workspaces' trees consist of; empty is workspaces in the state directory.",
        "workspace_folders": "Workspace -> a directory of this host that is its tree, such as {shop: /srv/shop}. Once the"
        " two-person rule is in force, each change of it takes two people.",
        "workspace_max_bytes": "Bytes of all files of one tree that an import may bring, or a bound directory may hold.",
        "workspace_max_files": "Files and links of one tree that an import may bring, or a bound directory may hold.",
        "identity_ttl_days": "Days for which issued certificates are valid, 1 to 825.",
        "pool_floor": "Containers that wait, made beforehand, for each profile that is in use.",
        "pool_ceiling": "Containers that wait at the most, of all profiles together; 0 makes none beforehand.",
        "pool_idle_s": "Seconds after its last call for which a profile's containers are still kept ready.",
        "pool_max_age_s": "Seconds that one container waits before a fresh one takes its place.",
        "pool_prewarm": "Tools whose containers are made ready at the start, such as [python.run].",
        "runtime_by_tier": "Tier -> container runtime of its tools whose specification names none, such as {2: runsc}.",
        "egress_networks": "Private or local networks that tools may reach if their spec lists the host: [10.1.0.0/16].",
        "egress_trust": "PEM file with the authorities that hosts are trusted by; empty trusts those of the machine.",
        "checkpoint_passphrase": "Where the passphrase of the key that signs checkpoints comes from: env:NAME or"
        " file:/absolute/path; empty is keys/checkpoint.passphrase, which `broker init` made.",
        "secrets": "Secrets that the broker adds to requests of tools, each bound to hosts, such as"
        " {api-token: {source: 'file:/etc/broker/api-token', hosts: ['api.example.com:443']}}; or source: 'env:NAME'.",
        "metrics_listen": "Loopback address of the Prometheus endpoint, such as 127.0.0.1:9464. Off.",
        "checkpoint_interval_s": "Seconds between two signatures of the ledger's tree, if it has grown.",
        "checkpoint_dir": "Folder of the signed checkpoints; empty is checkpoints in the state directory.",
        "checkpoint_publish_dir": "Another folder that checkpoints are copied to, such as an outside holder's share. Off.",
        "checkpoint_webhooks": "Addresses that checkpoints are posted to, such as [https://holder.example/checkpoints].",
        "approval_webhooks": "Who is told of approvals by a signed POST without content, such as"
        " [{url: 'https://chat.example/hook', secret: 'file:/etc/broker/hook-secret'}].",
        "witnesses": "Who cosigns checkpoints, such as [{url: 'https://witness.example', key: 'witness.example+...'}].",
    }
)
"""Setting -> what it does."""

_HEAD = """\
# Settings of this broker. Each line shows a default: take its leading '#' away and change it.
# The environment wins over this file: BROKER_LISTEN=127.0.0.1:7443 and so on. A key that isn't known is refused.
"""


def example_settings(chosen: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text; as it stands it is the same as no file at all, but for settings that are chosen already."""
    parts = [_HEAD]
    for name, field in Settings.model_fields.items():
        value, mark = (chosen[name], "") if name in chosen else (field.default, "#")
        line = yaml.safe_dump({name: value}, default_flow_style=False, width=1000).strip()
        parts.append(f"\n# {SAYS.get(name, field.description or name)}\n{mark}{line}\n")
    return "".join(parts)

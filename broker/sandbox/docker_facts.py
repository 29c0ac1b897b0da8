"""From a Docker engine's report on a container to its facts, and from a request for one to what the report must be.

Both ways end in ``read_facts``: the request is first completed as the engine completes it. Pure.

What a report says is either named in the facts or has no say in what a job can do (``_WITHOUT_SAY``); whatever else is set
in it, by an engine newer than this module as well, is among ``ContainerFacts.other``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from broker.domain.canonical import JsonObject, canonical, digest
from broker.domain.container_facts import ContainerFacts, Cpu, Mount, Namespaces, Security, Ulimit

Report = Mapping[str, object]

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
)
"""What every engine since 20.10 hides; newer ones hide more."""
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_MAX_TEXT = 200

_NAMED_OF_CONFIG = frozenset({"User", "Env", "Hostname", "WorkingDir", "Healthcheck"})
_NAMED_OF_HOST = frozenset(
    {
        "Binds",
        "Mounts",
        "Tmpfs",
        "LogConfig",
        "NetworkMode",
        "RestartPolicy",
        "AutoRemove",
        "CapAdd",
        "CapDrop",
        "CgroupnsMode",
        "GroupAdd",
        "IpcMode",
        "PidMode",
        "UTSMode",
        "UsernsMode",
        "Privileged",
        "ReadonlyRootfs",
        "SecurityOpt",
        "MaskedPaths",
        "ReadonlyPaths",
        "ShmSize",
        "Runtime",
        "Init",
        "Memory",
        "MemorySwap",
        "PidsLimit",
        "NanoCpus",
        "CpuQuota",
        "CpuPeriod",
        "CpuShares",
        "CpusetCpus",
        "Devices",
        "DeviceRequests",
        "DeviceCgroupRules",
        "Ulimits",
        "OomKillDisable",
        "OomScoreAdj",
    }
)
_WITHOUT_SAY = frozenset(
    {
        # Under what name the image was asked for: the report's own `Image` is the image that it is.
        "Config.Image",
        "Config.Labels",
        # What process 1 was made of: the report's own `Path` and `Args` are what it is.
        "Config.Entrypoint",
        "Config.Cmd",
        # How the runner's stream is attached; where it isn't, no runner answers.
        "Config.AttachStdin",
        "Config.AttachStdout",
        "Config.AttachStderr",
        "Config.OpenStdin",
        "Config.StdinOnce",
        # Said by the network's mode.
        "Config.NetworkDisabled",
        # For builds upon the container's image.
        "Config.OnBuild",
        "Config.Shell",
        # A file of the command line's.
        "HostConfig.ContainerIDFile",
    }
)
_DEFAULTS: Mapping[str, frozenset[object]] = {
    "HostConfig.Isolation": frozenset({"default"}),
    "HostConfig.MemorySwappiness": frozenset({-1}),
    "HostConfig.VolumeDriver": frozenset({"local"}),
}
"""Values by which some engines say that nothing was given."""


def read_facts(report: Report) -> ContainerFacts:
    """The facts of a container from the engine's answer to ``GET /containers/ID/json``.

    What the answer doesn't have, or has in another shape than an engine's, is never taken for what a broker asks for.
    """
    config, host = _object(report.get("Config")), _object(report.get("HostConfig"))
    environment = sorted(_words(config.get("Env")))
    joined = _object(_object(report.get("NetworkSettings")).get("Networks"))
    return ContainerFacts(
        image=_text(report.get("Image")),
        runtime=_text(host.get("Runtime")),
        argv=(_text(report.get("Path")), *_words(report.get("Args"))),
        user=_text(config.get("User")),
        groups=_sorted(host.get("GroupAdd")),
        hostname=_text(config.get("Hostname")),
        working_dir=_text(config.get("WorkingDir")),
        environment_names=tuple(_variable(entry) for entry in environment),
        environment_digest=digest(canonical(environment)),
        cap_add=_capabilities(host.get("CapAdd")),
        cap_drop=_capabilities(host.get("CapDrop")),
        privileged=_is_on(host.get("Privileged")),
        security=_security(report, host),
        read_only_root=host.get("ReadonlyRootfs") is True,
        mounts=_mounts(report, host),
        devices=_devices(host),
        network_mode=_text(host.get("NetworkMode")),
        networks=tuple(sorted(_text(name) for name in joined if name != "none")),
        namespaces=Namespaces(
            pid=_text(host.get("PidMode")) or "private",
            ipc=_text(host.get("IpcMode")) or "engine",
            uts=_text(host.get("UTSMode")) or "private",
            cgroup=_text(host.get("CgroupnsMode")),
            user=_text(host.get("UsernsMode")) or "engine",
        ),
        memory_bytes=_int(host.get("Memory")),
        memory_swap_bytes=_int(host.get("MemorySwap")),
        processes=_int(host.get("PidsLimit")),
        cpu=Cpu(
            nano=_int(host.get("NanoCpus")),
            quota=_int(host.get("CpuQuota")),
            period=_int(host.get("CpuPeriod")),
            shares=_int(host.get("CpuShares")),
            cores=_text(host.get("CpusetCpus")),
        ),
        shm_bytes=_int(host.get("ShmSize")),
        ulimits=_ulimits(host.get("Ulimits")),
        oom_kill_disabled=_is_on(host.get("OomKillDisable")),
        oom_score=_int(host.get("OomScoreAdj")),
        log_driver=_text(_object(host.get("LogConfig")).get("Type")),
        restart=_restart(host.get("RestartPolicy")),
        auto_remove=_is_on(host.get("AutoRemove")),
        init=_is_on(host.get("Init")),
        healthcheck=_words(_object(config.get("Healthcheck")).get("Test")),
        exec_sessions=len(_list(report.get("ExecIDs"))),
        other=tuple(sorted((*_rest("Config", config, _NAMED_OF_CONFIG), *_rest("HostConfig", host, _NAMED_OF_HOST)))),
    )


def expected_facts(body: JsonObject, image: Report, info: Report) -> ContainerFacts:
    """What the engine must report for a container that it was asked for.

    Args:
        body: the request, as ``container_config`` makes it.
        image: ``Config`` of the image that it names, in the engine's answer to ``GET /images/ID/json``.
        info: the engine's answer to ``GET /info``.
    """
    host = dict(_object(body.get("HostConfig")))
    host.setdefault("Runtime", info.get("DefaultRuntime"))
    host.setdefault("MaskedPaths", list(_MASKED))
    host.setdefault("ReadonlyPaths", list(_READ_ONLY))
    if info.get("SwapLimit") is False:
        host["MemorySwap"] = -1  # such an engine warns, and leaves it out
    entrypoint = _words(body.get("Entrypoint"))
    # The image's own command goes with its own entry point alone.
    argv = entrypoint or (*_words(image.get("Entrypoint")), *_words(image.get("Cmd")))
    taken = ("ExposedPorts", "Volumes", "StopSignal")
    config = {
        **{name: image.get(name) for name in taken},
        **{name: value for name, value in body.items() if name != "HostConfig"},
        "Env": _environment(image, body),
    }
    path, arguments = (argv[0], list(argv[1:])) if argv else ("", [])
    return read_facts(
        {"Image": body.get("Image"), "Path": path, "Args": arguments, "Config": config, "HostConfig": host}
    )


def _environment(image: Report, body: Report) -> list[object]:
    """The request's, and of the image's what the request doesn't name."""
    own = _words(body.get("Env"))
    names = {_variable(entry) for entry in own}
    return [*own, *(entry for entry in _words(image.get("Env")) if _variable(entry) not in names)]


def _variable(entry: str) -> str:
    return entry.partition("=")[0]


def _clean(text: str) -> str:
    # What no JSON text can hold is written out, so that every report has a digest.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _security(report: Report, host: Report) -> Security:
    options, seccomp, barred = [], "engine", False
    for option in _words(host.get("SecurityOpt")):
        name = option.replace("=", ":", 1).partition(":")[0]
        value = option[len(name) + 1 :]
        if name == "no-new-privileges" and value in {"", "true"}:
            barred = True
        elif name == "seccomp":
            seccomp = value if value == "unconfined" else digest(value.encode("utf-8", "backslashreplace"))
        else:
            options.append(_cut(option))
    profile = _text(report.get("AppArmorProfile"))
    return Security(
        no_new_privileges=barred,
        seccomp=seccomp,
        apparmor="engine" if profile in {"", "docker-default"} else profile,
        options=tuple(sorted(options)),
        unmasked_paths=_lacking(_MASKED, host, "MaskedPaths"),
        writable_paths=_lacking(_READ_ONLY, host, "ReadonlyPaths"),
    )


def _lacking(wanted: Iterable[str], host: Report, field: str) -> tuple[str, ...]:
    has = set(_words(host.get(field)))
    return tuple(path for path in wanted if path not in has)


def _mounts(report: Report, host: Report) -> tuple[Mount, ...]:
    """What the engine says that it mounted, and what it was asked for where it doesn't."""
    found: dict[str, Mount] = {}
    for name, options in _object(host.get("Tmpfs")).items():
        target = _text(name)
        found[target] = Mount(target, "tmpfs", "", _options(_text(options)))
    for entry in map(_object, _list(report.get("Mounts"))):
        target = _text(entry.get("Destination"))
        written = "rw" if _is_on(entry.get("RW")) else "ro"
        more = ",".join((_text(entry.get("Mode")), written, _text(entry.get("Propagation"))))
        source = _text(entry.get("Name")) or _text(entry.get("Source"))
        found[target] = Mount(target, _text(entry.get("Type")), source, _options(more))
    for bind in _words(host.get("Binds")):
        source, _, rest = bind.partition(":")
        target, _, options = rest.partition(":")
        found.setdefault(target, Mount(target, "bind", source, _options(options)))
    for entry in map(_object, _list(host.get("Mounts"))):
        target = _text(entry.get("Target"))
        found.setdefault(target, Mount(target, _text(entry.get("Type")), _text(entry.get("Source")), (_shown(entry),)))
    return tuple(found[target] for target in sorted(found))


def _options(text: str) -> tuple[str, ...]:
    return tuple(sorted({option for option in text.split(",") if option}))


def _restart(value: object) -> str:
    if isinstance(value, Mapping) and "Name" in value:
        return _text(value["Name"]) or "no"
    return "no" if _is_unset(value) else _shown(value)


def _devices(host: Report) -> tuple[str, ...]:
    parts = ("Devices", "DeviceRequests", "DeviceCgroupRules")
    return tuple(sorted(_shown(item) for part in parts for item in _list(host.get(part))))


def _ulimits(value: object) -> tuple[Ulimit, ...]:
    entries = [_object(item) for item in _list(value)]
    limits = [Ulimit(_text(item.get("Name")), _int(item.get("Soft")), _int(item.get("Hard"))) for item in entries]
    return tuple(sorted(limits, key=lambda item: item.name))


def _capabilities(value: object) -> tuple[str, ...]:
    """Upper case, without the prefix that some engines add."""
    return tuple(sorted(word.upper().removeprefix("CAP_") for word in _words(value)))


def _rest(part: str, fields: Report, named: frozenset[str]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        known = f"{part}.{_text(name)}"
        if name in named or known in _WITHOUT_SAY or _is_unset(value) or _is_default(known, value):
            continue
        yield known, _shown(value)


def _is_default(name: str, value: object) -> bool:
    return isinstance(value, str | int) and value in _DEFAULTS.get(name, frozenset())


def _is_unset(value: object) -> bool:
    """Whether nothing is given: null, false, 0, an empty text or object, or a list of nothing but such."""
    if isinstance(value, list):
        return all(_is_unset(item) for item in value)
    return not value


def _shown(value: object) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, sort_keys=True))


def _cut(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= _MAX_TEXT else digest(text.encode())


def _object(value: object) -> Report:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else []


def _words(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value))


def _sorted(value: object) -> tuple[str, ...]:
    return tuple(sorted(_words(value)))


def _text(value: object) -> str:
    """Of what should be a text; whatever else it is shows as what it is."""
    if value is None:
        return ""
    return _clean(value) if isinstance(value, str) else _shown(value)


def _int(value: object) -> int:
    """Of what should be an integer; where it is missing, none was given. Whatever else it is fits no request."""
    if value is None or isinstance(value, bool):
        return 0
    return value if isinstance(value, int) else -2


def _is_on(value: object) -> bool:
    return bool(value)

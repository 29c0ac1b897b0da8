"""What a probe looks for in a sandbox: given to the script that runs inside, as its arguments."""

from __future__ import annotations

from broker.domain.canonical import canonical

_CALLS = {
    "x86_64": {
        "mount": 165, "umount2": 166, "pivot_root": 155, "ptrace": 101, "process_vm_readv": 310, "add_key": 248,
        "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "unshare": 272, "setns": 308, "kexec_load": 246, "reboot": 169, "init_module": 175,
        "open_by_handle_at": 304, "sethostname": 170, "clock_settime": 227, "swapon": 167, "acct": 163, "syslog": 103,
        "prctl": 157, "setresuid": 117,
    },
    "aarch64": {
        "mount": 40, "umount2": 39, "pivot_root": 41, "ptrace": 117, "process_vm_readv": 270, "add_key": 217,
        "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "io_uring_setup": 425, "unshare": 97, "setns": 268, "kexec_load": 104, "reboot": 142, "init_module": 105,
        "open_by_handle_at": 265, "sethostname": 161, "clock_settime": 112, "swapon": 224, "acct": 89, "syslog": 116,
        "prctl": 167, "setresuid": 147,
    },
}  # fmt: skip
_KERNEL_FILES = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/domainname", "/proc/sys/vm/overcommit_memory", "/proc/sys/net/ipv4/ip_forward",
    "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/proc/acpi/wakeup", "/proc/bus/pci/devices",
    "/proc/fs/ext4", "/sys/kernel/uevent_helper", "/sys/power/state", "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/apparmor/parameters/enabled",
)  # fmt: skip
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
    "/proc/timer_list", "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
_SOCKETS = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
    "/run/crio/crio.sock", "/var/run/docker/containerd/containerd.sock",
)  # fmt: skip
_ADDRESSES = (
    (2, "169.254.169.254", 80), (2, "1.1.1.1", 443), (2, "172.17.0.1", 22),
    (10, "fd00:ec2::254", 80), (10, "2606:4700:4700::1111", 443),
)  # fmt: skip
_CGROUP = {
    "memory": ("memory/memory.limit_in_bytes", "memory.max"),
    "swap": ("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
    "processes": ("pids/pids.max", "pids.max"),
    "cpu_quota": ("cpu/cpu.cfs_quota_us", "cpu.max"),
    "cpu_period": ("cpu/cpu.cfs_period_us", ""),
}
_NAMESPACES = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000,
}  # fmt: skip
_CGROUP_FILES = (
    "memory.max", "pids.max", "cgroup.procs", "memory/memory.limit_in_bytes", "pids/pids.max", "devices/devices.allow",
    "memory/release_agent", "systemd/cgroup.procs",
)  # fmt: skip


def plan(most: int) -> bytes:
    """The arguments of the script.

    Args:
        most: how many processes it tries to make.
    """
    return canonical(
        {
            "calls": _CALLS,
            "kernel_files": _KERNEL_FILES,
            "masked": _MASKED,
            "sockets": _SOCKETS,
            "addresses": _ADDRESSES,
            "cgroup": _CGROUP,
            "cgroup_files": _CGROUP_FILES,
            "namespaces": _NAMESPACES,
            "most": most,
        }
    )

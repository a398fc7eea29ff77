"""Limits that a sandboxed process puts on itself before it looks at anything from a submission.

This file is run as a script by `sandbox.run_job` with nothing but the standard library, so that the limits stand
before numpy, the simulator or ONNX are imported. Resource limits are required, and at least one of an empty network
namespace and a system-call filter; without them the process refuses to work. Landlock (no writes anywhere) is added
where the kernel has it.
"""

import ctypes
import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["REFUSED", "restrict"]

REFUSED = 97
"""Exit status of a process that could not set its limits."""

_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x08000000, 0x10000000, 0x40000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
_CLONE_THREAD = 0x00010000

# The calls that are denied: sockets, new programs and processes, signals, tracing, mounts, namespaces, modules and
# the kernel's larger interfaces.
_DENIED_X86_64 = """
    41 42 44 49 53 57 58 59 62 101 155 161 165 166 175 246 248 250 272 298 304 308 310 311 313 321 322 323 424 425 434
"""
_DENIED_AARCH64 = """
    39 40 41 51 97 105 117 129 198 199 200 203 206 217 219 221 241 265 268 270 271 273 280 281 282 424 425 434
"""
_CLONE3 = 435
# Per machine: audit architecture, clone, denied calls.
_CALLS: dict[str, tuple[int, int, tuple[int, ...]]] = {
    "x86_64": (0xC000003E, 56, tuple(map(int, _DENIED_X86_64.split()))),
    "aarch64": (0xC00000B7, 220, tuple(map(int, _DENIED_AARCH64.split()))),
}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def restrict(limits: dict[str, int]) -> list[str]:
    """Sets every limit on this process, for good.

    Args:
        limits: `memory` in bytes, `cpu` in seconds, `files` (open at once).

    Returns:
        The names of the measures in force.

    Raises:
        OSError: A required limit could not be set.
        ValueError: The system refuses a limit's value.
    """
    # Namespaces first: they need a single thread and, where that is how they are allowed, privileges.
    measures = ["network-namespace"] if _succeeds(_leave_network) else []
    _set_resource_limits(limits)
    measures.append("resource-limits")
    if _libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError("no_new_privs cannot be set")
    if _succeeds(_deny_writes):
        measures.append("landlock")
    if _succeeds(_filter_calls):
        measures.append("seccomp")
    if not {"network-namespace", "seccomp"} & set(measures):
        raise OSError("neither a network namespace nor a system-call filter is available")
    return sorted(measures)


def _set_resource_limits(limits: dict[str, int]) -> None:
    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_CPU: limits["cpu"],
        resource.RLIMIT_NOFILE: limits["files"],
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # A little room above the soft limit: its signal then tells processor time from other ends.
        room = value + 5 if kind == resource.RLIMIT_CPU and hard in (resource.RLIM_INFINITY, value + 5) else value
        resource.setrlimit(kind, (value, room))
        if resource.getrlimit(kind) != (value, room):
            raise OSError(f"resource limit {kind} did not take effect")


def _leave_network() -> None:
    if _libc().unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def _deny_writes() -> None:
    """Denies every change of the file system, running of files, and TCP, by a Landlock domain without exceptions."""
    libc = _libc()
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        raise OSError("no Landlock")
    execute_write_remove_make = 0x1FFF & ~0x4 & ~0x8
    rules = _Ruleset(execute_write_remove_make, 0, 0)
    if version >= 2:
        rules.fs |= 1 << 13
    if version >= 3:
        rules.fs |= 1 << 14
    rules.net = 3 if version >= 4 else 0
    rules.scoped = 3 if version >= 6 else 0
    size = 8 if version < 4 else 16 if version < 6 else 24
    handle = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if handle < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    failed = libc.syscall(_RESTRICT_SELF, ctypes.c_int(handle), ctypes.c_uint32(0)) != 0
    os.close(handle)
    if failed:
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")


def _filter_calls() -> None:
    """Installs a seccomp filter: denied calls fail with EPERM, new processes too; new threads stay possible."""
    architecture, clone, denied = _CALLS[platform.machine()]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    lines: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4),
        (equal, 1, 0, architecture),
        (give, 0, 0, _EPERM),
        (load, 0, 0, 0),
        # x86-64 answers a second set of call numbers from here on.
        (at_least, 0, 1, 0x40000000),
        (give, 0, 0, _EPERM),
        # glibc falls back to clone, whose flags a filter can read.
        (equal, 0, 1, _CLONE3),
        (give, 0, 0, _ENOSYS),
    ]
    for number in denied:
        lines += [(equal, 0, 1, number), (give, 0, 0, _EPERM)]
    lines += [
        (equal, 0, 3, clone),
        (load, 0, 0, 16),
        (any_bit, 1, 0, _CLONE_THREAD),
        (give, 0, 0, _EPERM),
        (give, 0, 0, _ALLOW),
    ]
    block = (_Instruction * len(lines))(*(_Instruction(*line) for line in lines))
    program = _Program(len(lines), block)
    if _libc().prctl(_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _succeeds(measure: Callable[[], None]) -> bool:
    try:
        measure()
    except (OSError, AttributeError, KeyError):
        return False
    return True


def _main() -> None:
    root, limits = sys.argv[1], json.loads(sys.argv[2])
    try:
        measures = restrict(limits)
    except (OSError, ValueError, OverflowError, AttributeError) as error:
        print(json.dumps({"error": f"the sandbox cannot set its limits: {error}"}))
        sys.exit(REFUSED)
    sys.path.insert(0, root)
    from offdyn_envs.benchmark.sandbox.worker import main

    main(measures)


if __name__ == "__main__":
    _main()

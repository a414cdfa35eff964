"""A plugin of vLLM's, by which an engine in a process of its own ends with the process that started it.

Killed with SIGKILL, or by the system for its memory, a process cannot end its engine, which then keeps the GPU's memory
from whoever comes next. Linux can: vLLM loads what `vllm.general_plugins` names in pyproject.toml first thing in the
engine's process, and there it is asked for.
"""

import ctypes
import os
import signal
import sys

PARENT = "ENGINE_DIES_WITH"  # in the environment: whose engines do, by process id; others of vLLM's do not
PR_SET_PDEATHSIG = 1


def register() -> None:
    """Has this process killed when its parent ends, if that is what `PARENT` names: more exactly the thread that
    started it, for which engines are opened in the main one."""
    if os.environ.get(PARENT) != str(parent := os.getppid()):
        return
    die_with_parent()
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def die_with_parent() -> None:
    """Has the system, where it is Linux, kill this process when the thread that started it ends, however it does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

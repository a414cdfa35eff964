"""Loading a checkpoint with transformers, for what learns and for what samples without vLLM. torch is imported within:
vLLM sets what torch reads when it is."""

import gc
import importlib.util
import sys
from typing import Any

from stages.errors import EngineError, StageError
from stages.models import torchvision_operators
from stages.models.finding import Model
from stages.models.fitting import check_room, check_weights
from stages.models.threads import fit_threads


def prepare_transformers() -> None:
    """Makes `import transformers` work where torchvision and its kin were built for another torch, as they are on PyPI
    for a CPU's; torchaudio and torchcodec are not needed at all. Where they load as they are, nothing is touched.

    `make install` has done so for the whole environment; other installations have not.
    """
    import torch

    torchvision_operators.install()
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError):
        pass  # transformers says what is missing, if it is needed
    except RuntimeError as error:
        raise EngineError(
            f"torchvision does not fit torch {torch.__version__} ({error}); install both from one index, for a "
            "CPU https://download.pytorch.org/whl/cpu"
        ) from error
    for name in ("torchaudio", "torchcodec"):
        if importlib.util.find_spec(name) is not None:
            try:
                __import__(name)
            except (ImportError, OSError, RuntimeError):
                sys.modules[name] = None  # type: ignore[assignment]
    from transformers.utils import logging

    logging.disable_progress_bar()


def skeleton(model: Model) -> Any:
    """The checkpoint's architecture without its weights. Raises EngineError where transformers has none."""
    prepare_transformers()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(model.path, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except Exception as error:
        raise _unloadable(model, error) from error


def load_base(model: Model) -> Any:
    """The checkpoint, frozen, in evaluation mode: bfloat16 on a GPU, float32 on a CPU.

    Raises EngineError when the architecture or the weights do not fit or are not all there, or the device has no room.
    """
    prepare_transformers()
    check_weights(model)
    import torch
    from transformers import AutoModelForImageTextToText

    from stages.models.device import allow_repeatable

    gpu = torch.cuda.is_available()
    try:
        # By number: the threads that read the weights do not have this one's current device, which torchrun's
        # processes need.
        device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
        if gpu:
            allow_repeatable()
            gc.collect()
            torch.cuda.empty_cache()  # else what an earlier model in this process had is not free
            check_room(model, torch.cuda.mem_get_info(device)[0])
        else:
            fit_threads(model)
        base = AutoModelForImageTextToText.from_pretrained(
            model.path,
            dtype=torch.bfloat16 if gpu else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,  # nothing is unpickled
            trust_remote_code=False,
            device_map={"": device},  # mapped from the files straight to where they are used
        )
        return base.requires_grad_(False).eval()
    except StageError:
        raise
    except Exception as error:
        raise _unloadable(model, error) from error


def _unloadable(model: Model, error: Exception) -> EngineError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EngineError(f"{model.ref.name}: the model cannot be loaded ({reason})")

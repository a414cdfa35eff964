"""Summaries and groups as a terminal shows them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.columns import Columns
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Lines
from rich.measure import Measurement
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ireasoner_cli.agreement import divergence
from ireasoner_cli.console import plain
from ireasoner_cli.inspection.answers import Asked
from ireasoner_cli.inspection.distribution import BINS, Distribution
from ireasoner_cli.inspection.groups import Answer, Group, is_changed
from ireasoner_cli.inspection.summary import Summary
from ireasoner_cli.lineage import settings
from ireasoner_cli.runs import Iteration
from stages.contract import ANSWER, Metadata, Row
from stages.rewards.explained import RewardTerms, Summands, reward_terms

LABEL, GOOD, ODD, BAD = "bold cyan", "green", "yellow", "red"
# From one with the others to on its own, as `divergence` counts.
SHADES = ((0.05, "bold bright_green"), (0.4, "green"), (0.65, "yellow"), (0.85, "dark_orange"), (1.01, "bold red"))
WHAT = {
    "propose": "questions: one proposal a group",
    "rollout": "rollouts: the Solver's answers to each question",
    "score": "scored trajectories: what `update` learns from",
    "eval": "answers to a benchmark",
    "policy": "policy: its LoRA adapters and all that resuming needs",
    "metrics": "metrics: a row an optimizer step",
    "benchmark": "benchmark: questions with their answers",
}
LONGEST = 60  # characters of a parameter that are shown


def summary_view(summary: Summary) -> RenderableType:
    parts: list[RenderableType] = [
        Text.assemble((plain(str(summary.path)), "bold"), "  ", (WHAT.get(summary.kind, summary.kind), "dim"))
    ]
    if summary.state:
        parts.append(Text(f"not finished: {summary.state}", style=ODD))
    if summary.metadata:
        parts += [Text(), _lineage(summary.metadata, summary.policy is not None)]
    if summary.policy:
        parts += [Text(), _policy(summary)]
    if summary.counts:
        parts += [Text(), _counts(summary)]
    if summary.rejected:
        parts.append(_rejected(summary.rejected))
    if summary.distributions:
        parts += [Text(), _distributions(summary.distributions)]
    return Lines(*parts)


def _fields() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style=LABEL, no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _lineage(metadata: Metadata, is_policy: bool) -> Table:
    table = _fields()
    model, policy = metadata.model, metadata.policy
    table.add_row("made by", Text(plain(f"{metadata.stage}, version {metadata.version}, seed {metadata.seed}")))
    for place, source in enumerate(metadata.inputs):
        if place == 3:
            table.add_row("", Text(f"and {len(metadata.inputs) - place} more", style="dim"))
            break
        table.add_row("from" if not place else "", _hashed(source.name, source.sha256))
    table.add_row("model", _hashed(model.name, model.revision or model.sha256))
    start = "learned on from" if is_policy else "policy"
    table.add_row(start, _hashed(f"step {policy.step}" if policy.step else "the base model", policy.sha256))
    for stage, params in reversed(settings(metadata).items()):  # the latest first
        table.add_row(stage, Text(_settings(params), style="dim"))
    return table


def _hashed(name: str, digest: str | None) -> Text:
    return Text.assemble(plain(name), (f"  {plain(digest)[:12]}" if digest else "", "dim"))


def _settings(params: Mapping[str, Any]) -> str:
    """`alpha 0.7, prompt "Look at …"`, what is not set left out."""
    shown = []
    for name, value in params.items():
        if value is None or value is False:
            continue
        text = "" if value is True else f" {json.dumps(value, ensure_ascii=False)}"
        shown.append(f"{name}{text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}")
    return plain(", ".join(shown).replace("\n", " "))


def _policy(summary: Summary) -> Table:
    state = summary.policy
    assert state is not None
    table = _fields()
    table.add_row("step", Text.assemble(str(state.step), (f"  {(summary.fingerprint or '')[:12]}", "dim")))
    for role, own in state.roles.items():
        baseline = f"{own.baseline.value(0.0):.3f}" if own.baseline.count else "none yet"
        table.add_row(role, Text(f"{own.updates} updates, baseline {baseline}, KL coefficient {own.kl_coef:.3g}"))
    if state.has_teacher:
        table.add_row("teacher", Text("the moving average of the solver's adapter"))
    if last := state.self_reward:
        table.add_row("self-reward", plain(f"{last.scale:g} · (log π({last.token}) − ({last.reference:.3f}))"))
    return table


def _counts(summary: Summary) -> Columns:
    counts = Columns(padding=(0, 3))
    for name, number in summary.counts.items():
        worry = name in ("cut_short", "unparsed", "unscored") and number
        counts.add_renderable(Text.assemble((f"{number:,} ", ODD if worry else "bold"), plain(name).replace("_", " ")))
    return counts


def _rejected(rejected: Mapping[str, int]) -> Table:
    table = _fields()
    most = sorted(rejected.items(), key=lambda item: -item[1])
    for place, (reason, number) in enumerate(most[:5]):
        table.add_row("rejected" if not place else "", Text.assemble((f"{number:,} ", ODD), plain(reason)))
    if len(most) > 5:
        table.add_row("", Text(f"and {len(most) - 5} other reasons", style="dim"))
    return table


@dataclass(frozen=True)
class _Bars:
    """A histogram with as many bins as there is room for."""

    distribution: Distribution

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, BINS)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.distribution.bars(min(BINS, options.max_width)), style="cyan", no_wrap=True)


def _distributions(distributions: Mapping[str, Distribution]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column(Text("distribution", no_wrap=True, overflow="ellipsis"))
    for name in ("min", "mean", "median", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, distribution in distributions.items():
        figures = distribution.to_json()
        table.add_row(
            Text(plain(name).replace("_", " "), style=LABEL),
            _Bars(distribution),
            *(f"{figures[column]:.4g}" for column in ("min", "mean", "median", "max")),
        )
    return table


def run_view(iterations: Sequence[tuple[Iteration, Summary]]) -> Table:
    """A line an iteration: how far it is, and the means of what matters."""
    columns = {"reward": "reward", "r_answer": "answer", "r_step": "step", "proposer_reward": "Proposer"}
    columns |= {"entropy": "entropy", "steps": "steps"}
    # Close enough for 80 columns; in fewer, words and figures go on below rather than lose their ends.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, header_style="dim")
    table.add_column("iteration", no_wrap=True)
    for heading in ("done", "groups", "rollouts", *columns.values()):
        table.add_column(heading, justify="left" if heading == "done" else "right", overflow="fold")
    for iteration, summary in iterations:
        # Of all but the last, the policy may have been removed since.
        done = "update" if iteration.policy or iteration is not iterations[-1][0] else summary.kind
        cells = [
            f"{distribution.values.mean():.3f}" if (distribution := summary.distributions.get(name)) else "–"
            for name in columns
        ]
        table.add_row(
            Text(plain(iteration.name), style=LABEL),
            Text(f"{done}, unfinished" if summary.state else done, style=ODD if summary.state else GOOD),
            str(summary.counts.get("groups", 0)),
            str(summary.counts.get("rollouts", 0)),
            *cells,
        )
    return table


# ---------------------------------------------------------------------------------------------------- groups


def group_view(group: Group) -> RenderableType:
    proposal = group.proposal
    head = Table.grid(padding=(0, 2))
    head.add_column(style=LABEL, no_wrap=True)
    head.add_column(overflow="fold")
    paths = [(picture or {}).get("path") or "in the shard" for picture in proposal["images"] or ()]
    head.add_row("images" if len(paths) > 1 else "image", Text(plain(", ".join(paths) or "none")))
    if proposal["reject_reason"]:
        head.add_row("rejected", Text(plain(proposal["reject_reason"]), style=BAD))
    if group.rollouts:
        head.add_row("answers", _answers(group.answers))
    if group.entropy is not None:
        reward = proposal["reward"]
        worth = f"   →   Proposer's reward {reward:.3f}" if reward is not None else ""
        head.add_row("entropy", Text(f"{group.entropy:.3f} nats{worth}"))
    trajectories = [_trajectory(row, reward_terms(row, group.score_params)) for row in group.rollouts]
    step = f", step {proposal['step']}" if group.is_scored else ""
    return Panel(
        Lines(head, *(part for trajectory in trajectories for part in (Text(), trajectory))),
        title=Text(plain(proposal["question"] or "(no question)"), style="bold"),
        subtitle=Text(plain(f"group {group.id}{step}"), style="dim"),
        title_align="left",
        subtitle_align="left",
        padding=(1, 2),
    )


def asked_view(asked: Asked) -> RenderableType:
    """A question of a benchmark, what is right, and what was answered."""
    first = asked.rows[0]
    head = Table.grid(padding=(0, 2))
    head.add_column(style=LABEL, no_wrap=True)
    head.add_column(overflow="fold")
    head.add_row("right", Text(" or ".join(map(_one_line, first["answers"] or ())), style=f"bold {GOOD}"))
    head.add_row("image", Text(f"SHA-256 {plain(first['image_sha256'] or '')[:12]}", style="dim"))
    parts: list[RenderableType] = [head]
    for row in asked.rows:
        right = (row["score"] or 0) > 0
        line = Text(f"#{row['sample_index']}  ", style="dim")
        prediction = "none" if row["prediction"] is None else _one_line(row["prediction"])
        line.append(prediction, style=f"not dim bold {GOOD if right else BAD}")
        line.append("  no score" if row["score"] is None else f"  score {row['score']:.3g}")
        line.append("  cut short" if row["finish_reason"] == "length" else "", style=f"not dim {ODD}")
        parts += [Text(), Rule(line, align="left", style="dim"), Text(plain(row["completion"] or ""))]
    named = filter(None, (*asked.kind, first["id"]))
    return Panel(
        Lines(*parts),
        title=Text(plain(first["question"] or "(no question)"), style="bold"),
        subtitle=Text(plain(" · ".join(named)), style="dim"),
        title_align="left",
        subtitle_align="left",
        padding=(1, 2),
    )


def _answers(answers: Sequence[Answer]) -> Text:
    text = Text()
    for place, answer in enumerate(answers):
        style = BAD if answer.text is None else f"bold {GOOD}" if answer.dominant else ""
        text.append("   " if place else "")
        text.append("none" if answer.text is None else _one_line(answer.text), style=style)
        text.append(f" ×{len(answer.samples)}", style="dim")
    return text


def _one_line(text: str) -> str:
    return plain(" ".join(text.split()))


def _trajectory(row: Row, terms: RewardTerms | Summands | None) -> RenderableType:
    of_pass = "" if (row["pass"] or ANSWER) == ANSWER else f"{plain(row['pass'])} "
    head = Text(f"{of_pass}#{row['sample_index']}  ", style="dim")
    if row["answer"] is None:
        head.append("none", style=f"not dim {BAD}")
    else:
        head.append(_one_line(row["answer"]), style=f"not dim bold {GOOD if row['dominant'] else ''}")
    head.append("  dominant" if row["dominant"] else "", style=f"not dim {GOOD}")
    *credit, of_answer = row.get("step_credit") or [None]
    head.append("" if of_answer is None else f"  credit {of_answer:+.3f}")
    head.append("  left out" if row["selected"] is False else "", style="dim")
    head.append("  cut short" if row["finish_reason"] == "length" else "", style=f"not dim {ODD}")
    steps = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    steps.add_column(justify="right", style="dim")
    steps.add_column(overflow="fold")
    steps.add_column(justify="right")
    steps.add_column(justify="right", style="dim")
    similarities = row["step_similarity"] or [None] * len(row["steps"] or ())
    credits = [f"{value:+.3f}" for value in credit] or [""] * len(similarities)
    for place, (step, similarity, own) in enumerate(zip(row["steps"] or (), similarities, credits, strict=False), 1):
        style = "dim" if similarity is None else next(shade for edge, shade in SHADES if divergence(similarity) < edge)
        agreement = "" if similarity is None else f"{similarity:.3f}"
        steps.add_row(str(place), Text(_one_line(step), style=style), agreement, own)
    return Lines(Rule(head, align="left", style="dim"), *([steps] if row["steps"] else []), *_worth(row, terms))


def _worth(row: Row, terms: RewardTerms | Summands | None) -> list[Text]:
    """The reward, term by term."""
    if terms is None:
        return []
    total = Text.assemble(("reward ", "dim"), (f"{row['reward']:.3f}", "bold"))
    equals = "="
    if is_changed(row, terms):
        total.append("  changed by hand", style=ODD)
        equals = f"scored as {terms.total:.3f}  ="
    if isinstance(terms, Summands):
        summands = (f"{weight:g} × {plain(name)} {value:.3f}" for name, weight, value in terms.summands)
        return [total.append(f"  {equals}  {'  +  '.join(summands)}", style="dim")]
    brevity = "" if terms.brevity is None else f" × brevity {terms.brevity:.3f}"
    total.append(
        f"  {equals}  {terms.from_answer:.3f} from the answer  +  {terms.from_steps:.3f} from the steps", style="dim"
    )
    total.append(f"  (λ {row['step_weight']:.2f})", style="dim")
    answer = f"   answer {row['r_answer']:.3f}  =  p(a)^α {terms.confidence:.3f}{brevity}  (p {row['answer_prob']:.2f})"
    if terms.agreement is not None:
        steps = f"   steps  {row['r_step']:.3f}  =  density {terms.density:.3f} × agreement {terms.agreement:.3f}"
    else:
        steps = f"   steps  0  ({'no other to agree with' if row['dominant'] else 'outside the dominant group'})"
    return [total, Text(answer, style="dim"), Text(steps, style="dim")]

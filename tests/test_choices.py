"""What `score` and `update` can be told to do otherwise: terms, votes, selections, advantages, losses, LoRA."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ireasoner_cli.app import app
from stages.errors import UsageError
from stages.learning.learner import Learner
from stages.models.finding import find_model
from stages.parameters import Call
from stages.parameters.rollout import RolloutParams
from stages.parameters.score import ScoreParams
from stages.parameters.update import UpdateParams
from stages.policy import read_state
from stages.rollout import rollout
from stages.sampling import Wanted, open_sampler
from stages.sampling.warm import WarmEngine
from stages.score import score
from stages.update import update
from stages.verification.verify import verify
from tests import chain
from tests.conftest import needs_vllm

AT_ONE = {"temperature": 1.0, "top_p": 1.0}
OWN_TERM = """
def shortness(frame):
    assert set(frame.role) == {"proposer", "solver"}
    return 1.0 / (1.0 + frame.steps.map(len, na_action="ignore").fillna(0))
"""


@pytest.fixture
def rollouts(workdir: Path) -> Path:
    """Two groups, of four and of three alike; the likeliest answer is not the most frequent one."""
    answers = ([1, 1, 1, 1, 2], [1, 1, 1, 2, 2])
    groups = [chain.group(i, f"pool/{i}.png", [chain.solution(a) for a in own]) for i, own in enumerate(answers)]
    groups[1][-1]["logprobs"] = [-1e-3] * len(groups[1][-1]["token_ids"])
    return chain.write_shard(Path("rollouts.parquet"), groups, params=AT_ONE)


def solver(path: Path) -> list[dict[str, Any]]:
    return [row for row in chain.rows(path) if row["role"] == "solver"]


def scored(rollouts: Path, **params: Any) -> list[dict[str, Any]]:
    return solver(score([rollouts], ScoreParams(**params), Call(force=True)).path)


# ------------------------------------------------------------------------------------------------ score


def test_a_sum_of_terms_is_the_reward_and_each_has_a_column(rollouts: Path) -> None:
    rows = scored(rollouts, solver_reward="0.9*majority + 0.1*format")
    for row in rows:
        assert row["reward"] == pytest.approx(0.9 * row["r_majority"] + 0.1 * row["r_format"])
        assert row["r_majority"] == row["dominant"] and row["r_format"] == 1.0
    assert chain.metadata(Path("scored.parquet"))["params"]["solver_reward"] == "0.9*majority + 0.1*format"
    list(verify([Path("scored.parquet")], again=True))


def test_without_other_terms_there_are_no_other_columns(rollouts: Path) -> None:
    score([rollouts], ScoreParams())
    assert [name for name in pq.read_schema("scored.parquet").names if name.startswith("r_")] == ["r_answer", "r_step"]


def test_the_vote_by_likelihood_makes_another_answer_dominant(rollouts: Path) -> None:
    by_count, by_likelihood = (scored(rollouts, vote=vote) for vote in ("count", "likelihood"))
    assert [row["answer"] for row in by_count if row["dominant"]] == ["1"] * 7
    assert [row["answer"] for row in by_likelihood if row["dominant"]] == ["1"] * 4 + ["2"] * 2
    assert [row["answer_prob"] for row in by_count] == [row["answer_prob"] for row in by_likelihood]


@pytest.mark.parametrize("params", [{"vote": "likelihood"}, {"vote": "weakest-token"}, {"solver_reward": "confidence"}])
@pytest.mark.parametrize("sampled", [{"temperature": 0.7, "top_p": 1.0}, {"temperature": 1.0, "top_p": 0.9}, {}])
def test_log_probabilities_of_another_distribution_are_refused(
    rollouts: Path, params: dict[str, Any], sampled: dict[str, float]
) -> None:
    groups = [chain.group(0, "pool/0.png", [chain.solution(1)])]
    chain.write_shard(Path("other.parquet"), groups, params=sampled)
    with pytest.raises(UsageError, match="temperature 1 and top-p 1, and the rollouts of pass answer were sampled"):
        score([Path("other.parquet")], ScoreParams(**params))


def test_groups_out_of_the_band_are_not_learned_from_and_stay(rollouts: Path) -> None:
    rows = scored(rollouts, keep="0.3:0.7")
    assert [row["selected"] for row in rows] == [False] * 5 + [True] * 5
    assert [row["reward"] is None for row in rows] == [True] * 5 + [False] * 5
    proposers = [row["reward"] for row in chain.rows(Path("scored.parquet")) if row["role"] == "proposer"]
    assert None not in proposers


def test_the_best_of_each_dominant_group(rollouts: Path) -> None:
    assert [row["selected"] for row in scored(rollouts, top=2)] == [True, True, False, False, False] * 2


def test_a_term_of_ones_own(rollouts: Path) -> None:
    """In one file, from the docs: its name, its column, and its hash in the lineage."""
    Path("own.py").write_text(OWN_TERM)
    words = ["score", rollouts, "--term", "own.py:shortness", "--solver-reward", "majority + 0.5*shortness"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    for row in solver(Path("scored.parquet")):
        assert row["r_shortness"] == pytest.approx(1 / (1 + len(row["steps"])))
        assert row["reward"] == pytest.approx(row["r_majority"] + 0.5 * row["r_shortness"])
    [digest] = chain.metadata(Path("scored.parquet"))["params"]["own_terms"].values()
    Path("own.py").write_text(OWN_TERM + "\n# another\n")
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert again.exit_code == 2 and f'own_terms.shortness: "{digest[:12]}"' in again.output


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"solver_reward": "majorty"}, "unknown term 'majorty'; the nearest is 'majority'"),
        ({"solver_reward": "majority", "reward": "step"}, "takes the place of --reward"),
        ({"solver_reward": "__import__('os')"}, "unknown term '__import__'"),
        ({"solver_reward": "2 majority"}, "expected"),
        ({"proposer_reward": "tend"}, "the nearest is 'tent'"),
        ({"keep": "0.8:0.3"}, "not LO:HI"),
        ({"keep": "a"}, "not LO:HI"),
        ({"term": ["nowhere.py:f"]}, "nowhere.py:f: No such file"),
        ({"question_share": 1.0}, "no image has two; propose with --per-image"),
    ],
)
def test_rewards_that_cannot_be_are_refused(rollouts: Path, params: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        score([rollouts], ScoreParams(**params))


def test_an_own_term_must_be_used_and_must_not_be_another(rollouts: Path) -> None:
    Path("own.py").write_text(OWN_TERM.replace("shortness", "majority") + OWN_TERM)
    with pytest.raises(UsageError, match="there is a term majority already"):
        score([rollouts], ScoreParams(term=["own.py:majority"], solver_reward="majority"))
    with pytest.raises(UsageError, match="shortness is neither in --solver-reward nor"):
        score([rollouts], ScoreParams(term=["own.py:shortness"], solver_reward="majority"))


# ----------------------------------------------------------------------------------------------- update


def metrics(scored: Path, out: str, **params: Any) -> list[dict[str, Any]]:
    folder = update([scored], UpdateParams(**{"lr": 1e-3, **params}), Call(out=Path(out))).path
    return chain.rows(folder / "metrics.parquet")


@pytest.fixture
def ready(rollouts: Path) -> Path:
    return score([rollouts], ScoreParams(no_warmup=True)).path


@pytest.mark.parametrize(("roles", "learn"), [("both", {"solver", "proposer"}), ("solver",) * 2, ("proposer",) * 2])
def test_who_learns(ready: Path, roles: str, learn: Any) -> None:
    rows = metrics(ready, "policy", roles=roles, proposer_every=1)
    assert {row["role"] for row in rows} == ({learn} if isinstance(learn, str) else learn)
    state = json.loads(Path("policy/state.json").read_text())
    assert state["proposer"]["baseline"]["count"] == 2  # sees every reward, whoever learns


def test_the_proposer_alone_takes_its_steps_over_several_groups(ready: Path) -> None:
    [row] = metrics(ready, "policy", roles="proposer", proposer_every=1, groups_per_step=2)
    assert len(row["advantages"]) == 2


def test_likelihood_needs_no_advantage(ready: Path) -> None:
    one, other = (metrics(ready, name, loss="sft", advantage=name, roles="solver") for name in ("none", "ema"))
    assert [row["loss"] for row in one] == [row["loss"] for row in other]
    assert all(row["importance_weight"] == 1 for row in one)


def test_likelihood_is_of_rows_that_are_selected(ready: Path) -> None:
    """Of which the Proposer has none: what failed to ask would be learned, too."""
    with pytest.raises(UsageError, match="--loss sft learns from the Solver's rows that are selected; say --roles"):
        update([ready], UpdateParams(loss="sft"))


@pytest.mark.parametrize(
    ("per_image", "params", "refused"),
    [
        (2, {}, True),
        (2, {"proposer_every": 1}, True),
        (2, {"groups_per_step": 2}, True),
        (2, {"groups_per_step": 3, "proposer_every": 1}, True),
        (2, {"groups_per_step": 4, "proposer_every": 1}, False),
        (2, {"roles": "solver"}, False),
        (1, {}, False),
    ],
)
def test_proposals_about_an_image_are_compared_or_the_update_is_refused(
    ready: Path, per_image: int, params: dict[str, Any], refused: bool
) -> None:
    made = chain.metadata(ready)
    rollout = {"propose": {"per_image": per_image}}
    made["params"] = {**made["params"], "rollout": rollout}
    pq.write_table(pq.read_table(ready).replace_schema_metadata({"ireasoner": json.dumps(made)}), "asked.parquet")
    asked = [Path("asked.parquet")], UpdateParams(advantage="mean", **params)
    if refused:
        with pytest.raises(UsageError, match="compares the 2 proposals about an image, which must come into one step"):
            update(*asked)
    else:
        assert update(*asked).summary["step"] == 2


def test_a_fixed_coefficient_stays(ready: Path) -> None:
    rows = metrics(ready, "policy", kl_fixed=0.25, proposer_every=1)
    assert {row["kl_coef"] for row in rows} == {0.25}
    state = read_state(Path("policy"))
    assert {role.kl_coef for role in state.roles.values()} == {0.25}


def test_the_temperature_of_sampling_makes_the_policy_on_policy_again(workdir: Path) -> None:
    """Sampled at 0.7, π/μ is 1 where log π is taken at 0.7, too."""
    groups = [chain.group(i, f"pool/{i}.png", []) for i in range(2)]
    chain.write_shard(Path("questions.parquet"), groups, "propose")
    sampling = chain.sampling("transformers", max_tokens=8, temperature=0.7)
    rollout([Path("questions.parquet")], RolloutParams(samples=3, sampling=sampling))
    ready = score([Path("rollouts.parquet")], ScoreParams()).path
    at, off = (
        [row["importance_weight"] for row in metrics(ready, name, sampling_temperature=on, roles="solver", lr=0.0)]
        for name, on in (("at", True), ("off", False))
    )
    assert at == pytest.approx([1.0, 1.0], abs=1e-4) and off != pytest.approx([1.0, 1.0], abs=1e-2)


def test_the_temperature_is_that_of_the_passes_that_are_learned_from(ready: Path) -> None:
    """And not of the last."""

    def at(name: str, rewarded: str = "answer", **other: float) -> list[float]:
        made = chain.metadata(ready)
        passes = {"answer": {"temperature": 0.7}, "view": {"temperature": 0.7}, "judge": {"temperature": 0.0}}
        passes |= {name: {"temperature": value} for name, value in other.items()}
        rollout = {"pass": "judge", **passes.pop("judge"), "passes": passes}
        made["params"] = {**made["params"], "rewarded": rewarded, "rollout": rollout}
        table = pq.read_table(ready)
        pq.write_table(table.replace_schema_metadata({"ireasoner": json.dumps(made)}), f"{name}.parquet")
        rows = metrics(Path(f"{name}.parquet"), name, sampling_temperature=True, roles="solver", lr=0.0)
        return [row["importance_weight"] for row in rows]

    assert at("one") == at("two", "answer, view") != at("three", answer=1.0)
    with pytest.raises(UsageError, match=r"the passes answer, judge were sampled at temperatures 0.7, 1.0"):
        at("four", "answer,judge", judge=1.0)
    with pytest.raises(UsageError, match="solver's rows were sampled at temperature 0"):
        at("five", "answer,judge")


def test_a_temperature_that_is_not_known_is_refused(ready: Path) -> None:
    with pytest.raises(UsageError, match="proposer's rows were sampled at temperature unknown"):
        update([ready], UpdateParams(sampling_temperature=True))


def test_a_policy_that_hardly_moves_is_told_of(workdir: Path) -> None:
    from stages.progress import _Silent

    said: list[str] = []

    class Listener(_Silent):
        def say(self, message: str) -> None:
            said.append(message)

    groups = [chain.group(i, f"pool/{i % 8}.png", [chain.solution(a) for a in (1, 1, 2)]) for i in range(20)]
    chain.write_shard(Path("rollouts.parquet"), groups)
    ready = score([Path("rollouts.parquet")], ScoreParams()).path
    update([ready], UpdateParams(lr=1e-6), Call(limit=19, out=Path("short")), progress=Listener())
    assert not said
    update([ready], UpdateParams(lr=1e-6), Call(out=Path("long")), progress=Listener())
    [message] = said
    assert "hardly moved" in message and "Raise --lr, now 1e-06" in message
    update([ready], UpdateParams(lr=1e-2), Call(out=Path("moved")), progress=Listener())
    assert len(said) == 1


# ------------------------------------------------------------------------------------------------- LoRA


def test_the_first_update_says_what_the_adapters_are_and_later_ones_keep_it(ready: Path) -> None:
    update([ready], UpdateParams(lr=1e-2, lora_rank=4, lora_alpha=8, lora_targets="q,v"), Call(out=Path("policy")))
    config = json.loads(Path("policy/solver/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    state = json.loads(Path("policy/state.json").read_text())
    assert state["lora"] == {"rank": 4, "alpha": 8, "targets": ["q", "v"]}
    groups = [chain.group(i, f"pool/{i}.png", [chain.solution(1), chain.solution(2)]) for i in range(2)]
    chain.write_shard(Path("more.parquet"), groups, step=2)
    more = score([Path("more.parquet")], ScoreParams(), Call(out=Path("more-scored.parquet"))).path
    with pytest.raises(UsageError, match="LoRA of rank 4, α 8 on q,v, which stay as they were"):
        update([more], UpdateParams(lora_rank=16), Call(policy=Path("policy"), out=Path("next")))
    update([more], UpdateParams(lr=1e-2), Call(policy=Path("policy"), out=Path("next")))
    assert read_state(Path("next")).lora == read_state(Path("policy")).lora
    params = json.loads(Path("next/state.json").read_text())["lineage"]["params"]
    assert (params["lora_rank"], params["lora_targets"]) == (4, "q,v")
    list(verify([Path("next"), Path("."), Path("pool")], again=False))
    with pytest.raises(UsageError, match="on q,v, which stay as they were"):
        update([more], UpdateParams(lora_targets="all"), Call(policy=Path("policy"), out=Path("all")))


def test_all_targets_may_be_said_again(ready: Path) -> None:
    """A policy records those that its model has, which are not all that there are."""
    policy = update([ready], UpdateParams(lr=1e-2, lora_targets="all")).path
    chain.write_shard(Path("more.parquet"), [chain.group(0, "pool/0.png", [chain.solution(1)])], step=2)
    more = score([Path("more.parquet")], ScoreParams(), Call(out=Path("more-scored.parquet"))).path
    next_policy = update([more], UpdateParams(lora_targets="all"), Call(policy=policy, out=Path("next"))).path
    assert read_state(next_policy).lora == read_state(policy).lora


def test_unknown_targets_are_named(ready: Path) -> None:
    with pytest.raises(UsageError, match="no projection 'qq'; there are q,k,v,o,gate,up"):
        update([ready], UpdateParams(lora_targets="q,qq"))


@needs_vllm
def test_an_adapter_on_some_projections_samples_as_it_learned(ready: Path) -> None:
    """The learner, transformers with PEFT, and the merged checkpoint know nothing of each other's LoRA."""
    policy = update([ready], UpdateParams(lr=0.05, lora_rank=24, lora_targets="k,down")).path
    learner = Learner(find_model("model"), UpdateParams(), 0, lora=read_state(policy).lora)
    assert all("k_proj" in name or "down_proj" in name for name in learner.model.parameters("solver"))
    groups = [chain.group(0, "pool/0.png", [])[:1]]
    chain.write_shard(Path("questions.parquet"), groups, "propose", step=2)
    said = {}
    warm = WarmEngine()
    base = chain.sampling("vllm", max_tokens=8)
    warm(Wanted("vllm", find_model("model"), None, base.pixels, base.engine))  # made for rank 16, which will not do
    for sampler, engines in (("transformers", open_sampler), ("vllm", warm)):
        params = RolloutParams(samples=2, sampling=chain.sampling(sampler, max_tokens=8, temperature=0.0))
        call = Call(policy=policy, out=Path(f"{sampler}.parquet"))
        rows = solver(rollout([Path("questions.parquet")], params, call, engines=engines).path)
        said[sampler] = [row["token_ids"] for row in rows]
    warm.close()
    assert said["transformers"] == said["vllm"]


# ---------------------------------------------------------------------------------- inspect and report


def test_a_sum_is_shown_as_one(rollouts: Path) -> None:
    score(
        [rollouts],
        ScoreParams(solver_reward="0.9*majority + 0.1*format", top=2),
        Call(out=Path("it0001/scored.parquet")),
    )
    shown = CliRunner().invoke(app, ["inspect", "it0001/scored.parquet", "--group", "0000000000000000"])
    assert shown.exit_code == 0, shown.output
    assert "0.9 × majority 1.000  +  0.1 × format 1.000" in shown.output and "left out" in shown.output
    assert "changed by hand" not in shown.output and "from the steps" not in shown.output
    report = CliRunner().invoke(app, ["report", "."])
    assert report.exit_code == 0, report.output
    page = Path("report.html").read_text()
    assert "<th>majority</th>" in page and "changed by hand" not in page

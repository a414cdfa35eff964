"""The bundled checkpoint reads charts, and single samples err more often than its most likely words."""

from pathlib import Path

from ireasoner_cli.demo import architecture, evaluate, pretrain

MODEL = Path(architecture.__file__).parent / "model"


def test_the_bundled_checkpoint_stands_where_it_should() -> None:
    result = evaluate.evaluate(evaluate.Speaker(MODEL), questions=40, samples=2, seed=7)
    accuracy = result["accuracy"]["all"]  # type: ignore[index]
    assert 0.6 < accuracy["greedy"] < 0.95  # some of what it reads wrong, it reads wrong every time
    assert 0.4 < accuracy["sampled"] < accuracy["greedy"]
    assert result["proposer"]["answerable"] > 0.7  # type: ignore[index]


def test_the_bundled_prompts_are_the_sources() -> None:
    for path in pretrain.PROMPTS.iterdir():
        assert (MODEL / "prompts" / path.name).read_bytes() == path.read_bytes()

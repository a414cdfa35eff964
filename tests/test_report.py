"""The report: one page that asks the network nothing, in which text stays text. A real browser looks at it too."""

import base64
import hashlib
import io
import json
import math
import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markupsafe import Markup
from PIL import Image
from typer.testing import CliRunner

from ireasoner_cli.app import app
from ireasoner_cli.report import charts
from ireasoner_cli.report.figures import _leave_one_out, read_run
from stages.contract import EVALUATED, METRICS
from stages.evaluation.scores import summarize
from tests import browser, chain
from tests.conftest import draw

HOSTILE = (
    '"><script>document.title="owned"</script><img src=x onerror=\'document.title="owned"\'>{{7*7}}</style>\x1b\x00‮'
)
HOSTILE_LINK = "https://evil.example/x.png"


def invoke(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def write_run(folder: Path, extra: tuple[str, ...] = (), seed: int = 0) -> Path:
    """Two finished iterations and one whose rollouts are not scored yet, with metrics and evaluations."""
    for iteration in (1, 2, 3):
        place = folder / f"it{iteration:04d}"
        place.mkdir(parents=True)
        rng = np.random.default_rng([seed, iteration])
        groups = []
        for index in range(8):
            texts = [chain.solution(int(rng.integers(1, 3)), f"item one is {rng.integers(9)}", "so") for _ in range(4)]
            groups.append(chain.group(index, f"pool/{index}.png", texts, question=f"How many are {index}?"))
        if iteration == 2:
            groups[3] = chain.group(
                3, "pool/3.png", [chain.solution(HOSTILE, HOSTILE, HOSTILE_LINK)] * 2 + [HOSTILE], question=HOSTILE
            )
        for index, group in enumerate(groups):
            for row in group:
                row["group_id"] = f"{iteration:08x}{index:08x}"
        step = 8 * (iteration - 1)
        chain.write_shard(place / "rollouts.parquet", groups, step=step, params={"propose": {"prompt": HOSTILE}})
        if iteration == 3:
            continue
        invoke("score", str(place / "rollouts.parquet"), "--total-steps", "16", "--model", "model", *extra)
        (place / "policy").mkdir()
        metrics = [
            {"step": step + 1 + i, "role": role, "kl": 0.01 * i, "kl_coef": 1e-3, "grad_norm": 1.0, "loss": 0.0,
             "advantages": [0.0], "importance_weight": 1.0, "tokens": 9}
            for i in range(8) for role in ("solver", "proposer")
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(metrics, METRICS), place / "policy" / "metrics.parquet")
        write_evaluation(place / "eval.parquet", [1.0] * (4 + 4 * iteration) + [0.0] * 4, step + 8)
    write_evaluation(folder / "base.parquet", [1.0] * 4 + [0.0] * 4, 0)
    return folder


def write_evaluation(path: Path, scores: list[float], step: int) -> None:
    rows = [{"id": str(place), "sample_index": 0, "score": score} for place, score in enumerate(scores)]
    content = {"format": 2, "stage": "eval", "model": {"name": "model"}, "policy": {"step": step}}
    content |= {"inputs": [{"name": "charts.parquet", "sha256": "00"}], "params": {"temperature": 0.0, "samples": 1}}
    table = pa.Table.from_pylist(rows, EVALUATED)
    pq.write_table(table.replace_schema_metadata({"ireasoner": json.dumps(content)}), path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[Path]:
    """report.html of two runs, made in a folder with their pool and model."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for index in range(8):
            draw(Path(f"pool/{index}.png"), index)
        Path("model").symlink_to(model_dir)
        write_run(Path("first"))
        write_run(Path("steps-alone"), ("--reward", "step"), seed=1)
        assert invoke("report", "first", "steps-alone", "--out", "report.html").endswith("report.html\n")
        yield folder / "report.html"


class Page(HTMLParser):
    """What a browser would make of the page: tags with their attributes, text, and scripts apart from it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = self.script = self.style = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.script += data
        elif self._inside == "style":
            self.style += data
        else:
            self.text += data


def test_hostile_text_stays_text_and_nothing_is_asked_of_the_network(page: Path) -> None:
    parsed = Page(page.read_text())
    assert HOSTILE.split("\x1b")[0] in parsed.text and "{{7*7}}" in parsed.text
    names = [name for name, _ in parsed.tags]
    assert names.count("script") == names.count("style") == 1
    assert not {"link", "iframe", "object", "embed", "base", "video", "audio"} & set(names)
    for name, attributes in parsed.tags:
        assert not [key for key in attributes if key.startswith("on")], (name, attributes)
        assert attributes.get("src", "data:").startswith("data:image/webp;base64,") or name != "img"
        assert attributes.get("href", "#").startswith("#")
        assert name == "img" or "src" not in attributes
    assert "url(" not in parsed.style and "@import" not in parsed.style
    assert not re.search(r"\b(fetch|XMLHttpRequest|innerHTML|eval|import)\b", parsed.script)
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(parsed.script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy


def test_what_the_page_shows(page: Path) -> None:
    parsed = Page(page.read_text())
    for words in (
        "Held-out accuracy", "Proposer's reward", "Density of the dominant group", "Valid step positions",
        "Disagreement over training", "KL coefficient", "it0003 not scored yet", "charts, greedy",
    ):  # fmt: skip
        assert words in parsed.text, words
    pictures = [attributes["src"] for name, attributes in parsed.tags if name == "img"]
    cards = [attributes for name, attributes in parsed.tags if name == "article"]
    assert len(pictures) == len(cards) == 32  # all groups of both runs: fewer than asked for
    assert {card["data-kinds"].split()[0] for card in cards} <= {"unanimous", "majority", "split"}
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0].split(",")[1])))
    assert image.size == (64, 48)


def test_figures_are_those_of_the_rows(page: Path) -> None:
    run = read_run(page.parent / "first", "first")
    rows = [row for name in ("it0001", "it0002") for row in chain.rows(page.parent / "first" / name / "scored.parquet")]
    groups = [[row for row in rows if row["group_id"] == g] for g in dict.fromkeys(row["group_id"] for row in rows)]
    assert run.groups["step"].tolist() == list(range(1, 17)) and run.starts == [1, 9]
    for place, (proposal, *rollouts) in enumerate(groups):
        assert run.groups["proposer_reward"][place] == proposal["reward"]
        assert math.isclose(run.groups["reward"][place], sum(row["reward"] for row in rollouts) / len(rollouts))
        valid = [sum(s is not None for s in row["step_similarity"] or ()) for row in rollouts]
        assert run.groups["positions"][place] == max(valid)
        said = [row["answer"] for row in rollouts if row["answer"]]
        assert run.groups["answer_words"][place] == pytest.approx(np.mean([len(text.split()) for text in said]))
        steps = [sum(len(step.split()) for step in row["steps"]) for row in rollouts]
        assert run.groups["reasoning_words"][place] == pytest.approx(np.mean(steps))
        assert run.groups["cut_short"][place] == np.mean([row["finish_reason"] == "length" for row in rollouts])
        assert run.groups["steps"][place] == np.mean([len(row["steps"]) for row in rollouts])
        for name in ("density", "r_answer", "r_step", "step_weight"):
            assert run.groups[name][place] == pytest.approx(np.mean([row[name] for row in rollouts])), name
        assert run.groups["entropy"][place] == pytest.approx(proposal["entropy"])
        assert run.groups["unanswered"][place] == np.mean([row["answer"] is None for row in rollouts])
    (line,) = run.evaluations
    assert line.step == [0, 8, 16] and line.accuracy == [0.5, 8 / 12, 0.75]
    assert all(low < value < high for low, value, high in zip(line.low, line.accuracy, line.high, strict=True))


def test_rows_of_passes_that_are_not_rewarded_are_in_no_figure(workdir: Path) -> None:
    alone: list[list[dict[str, Any]]] = []
    beside: list[list[dict[str, Any]]] = []
    for index in range(4):
        own = chain.group(index, "pool/0.png", [chain.solution(place % 2) for place in range(4)])
        readers = [{**row, "pass": "reader", "completion": "Nothing."} for row in own[1:]]
        alone, beside = [*alone, own], [*beside, [*own, *readers]]
    figures = []
    for name, groups in (("alone", alone), ("beside", beside)):
        Path(name).mkdir()
        invoke("score", str(chain.write_shard(Path(name, "rollouts.parquet"), groups)))
        figures.append(read_run(Path(name), name))
    assert figures[1].rollouts == figures[0].rollouts == 16
    for name, values in figures[0].groups.items():
        assert np.array_equal(values, figures[1].groups[name], equal_nan=True), name


def test_the_gallery_is_bounded_and_pictures_must_be_the_recorded_ones(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(page.parent)
    monkeypatch.setattr("ireasoner_cli.report.gallery.Budget.__init__.__defaults__", (1,))
    invoke("report", "first", "--out", "small.html", "--gallery", "4")
    parsed = Page(Path("small.html").read_text())
    assert [name for name, _ in parsed.tags].count("img") == 1
    assert "left out: the page has its share of pictures" in parsed.text
    monkeypatch.undo()
    monkeypatch.chdir(page.parent)
    Path("pool/0.png").write_bytes(Path("pool/1.png").read_bytes())
    invoke("report", "first", "--out", "changed.html")
    assert "the image has changed since" in Path("changed.html").read_text()


def test_pictures_are_found_from_elsewhere(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    invoke("report", str(page.parent / "first"), "--out", "there.html")
    assert "data:image/webp" in Path("there.html").read_text()


def test_a_page_to_pass_on_does_not_tell_where_pictures_lie_on_this_machine(workdir: Path) -> None:
    absolute = [str(workdir / f"pool/{index}.png") for index in range(2)]
    groups = [chain.group(index, path, [chain.solution(4)] * 2) for index, path in enumerate(absolute)]
    Path("it0001").mkdir()
    chain.write_shard(Path("it0001/rollouts.parquet"), groups)
    invoke("score", "it0001/rollouts.parquet")
    Path(absolute[1]).unlink()
    invoke("report", ".")
    page = Path("report.html").read_text()
    assert str(workdir) not in page
    assert "· 0.png" in page and "1.png: No such file" in page


def test_each_task_of_an_evaluation_is_a_line_with_the_interval_of_eval(workdir: Path) -> None:
    """Questions of two tasks may have one id, and several of one may share a picture."""
    Path("it0001").mkdir()
    chain.write_shard(Path("it0001/rollouts.parquet"), [chain.group(0, "pool/0.png", [chain.solution(4)] * 2)])
    invoke("score", "it0001/rollouts.parquet")
    scores = {"ai2d": [1.0] * 8 + [0.0] * 4, "chartqa": [0.0] * 12}
    rows = [
        {"id": str(place), "sample_index": 0, "score": score, "task": task, "cluster": str(place // 4)}
        for task, own in scores.items() for place, score in enumerate(own)
    ]  # fmt: skip
    content = {"format": 2, "stage": "eval", "model": {"name": "model"}, "policy": {"step": 0}}
    content["params"] = {"tasks": [*scores], "temperature": 0.0, "samples": 1}
    table = pa.Table.from_pylist(rows, EVALUATED).replace_schema_metadata({"ireasoner": json.dumps(content)})
    pq.write_table(table, "base.parquet")
    lines = {line.label: line for line in read_run(Path(), "run").evaluations}
    assert {label: line.accuracy for label, line in lines.items()} == {
        "ai2d, greedy": [8 / 12], "chartqa, greedy": [0.0]
    }  # fmt: skip
    asked = summarize(Path("base.parquet"))["tasks"]
    for task, figures in asked.items():
        line = lines[f"{task}, greedy"]
        assert (line.low, line.high, line.questions) == ([figures["low"]], [figures["high"]], 12)
    assert asked["ai2d"]["high"] - asked["ai2d"]["low"] > 0.9  # of three clusters


def test_rewards_beyond_one_are_drawn_within_their_frames_and_called_what_they_are(workdir: Path) -> None:
    reward = "0.9*majority + 0.1*format + confidence - 2*answer"
    for number in (1, 2):
        Path(f"it000{number}").mkdir()
        groups = [chain.group(i, f"pool/{i}.png", [chain.solution(a) for a in (1, 1, i)]) for i in range(4)]
        made = Path(f"it000{number}/rollouts.parquet")
        chain.write_shard(made, groups, step=4 * number - 4, params={"temperature": 1.0, "top_p": 1.0})
        terms = ("--solver-reward", reward, "--proposer-reward", "entropy + 2*tent")
        invoke("score", str(made), *terms)
    invoke("report", ".")
    page = Path("report.html").read_text()
    assert reward in page and "entropy + 2*tent" in page and "(1 − λ) · answer + λ · steps" not in page
    run = read_run(Path(), "run")
    assert run.groups["reward"].min() < 0 and run.groups["proposer_reward"].max() > 1
    for title in ("Solver's reward", "Proposer's reward"):
        drawn = page.split(f'aria-label="{Markup.escape(title)}"')[1].split("</svg>")[0]
        paths = re.findall(r' d="M([^"Z]+)Z?"', drawn)
        assert paths
        assert all(0 <= float(at.split()[1]) <= charts.HEIGHT for path in paths for at in path.split("L"))


def test_leaving_one_out_is_of_a_pass(workdir: Path) -> None:
    """The prototypes of two passes are two."""
    vectors = np.random.default_rng(0).normal(size=(2, 3, 5))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    rows, wanted = [], []
    for name, own in zip(("answer", "reworded"), vectors, strict=True):
        total = own.sum(axis=0)
        rows += [
            {"pass": name, "dominant": True, "step_similarity": [float(e @ total / np.linalg.norm(total))]} for e in own
        ]
        wanted += [float(e @ (total - e) / np.linalg.norm(total - e)) for e in own]
    found, members = _leave_one_out(rows)
    assert members == [*range(6)] and found[:, 0] == pytest.approx(wanted)


def test_the_share_that_agrees_is_of_the_rows_that_answer(workdir: Path) -> None:
    own = chain.group(0, "pool/0.png", [chain.solution(4)] * 4)
    readers = [{**row, "pass": "reader"} for row in own[1:]]
    Path("it0001").mkdir()
    chain.write_shard(Path("it0001/rollouts.parquet"), [[*own, *readers]])
    invoke("score", "it0001/rollouts.parquet")
    invoke("report", ".")
    cards = [tag for _, tag in Page(Path("report.html").read_text()).tags if "data-kinds" in tag]
    assert [card["data-kinds"].split()[0] for card in cards] == ["unanimous"]


def test_one_point_is_no_way_from_one_to_another(workdir: Path) -> None:
    Path("it0001").mkdir()
    groups = [chain.group(index, f"pool/{index}.png", [chain.solution(4)] * 2) for index in range(2)]
    chain.write_shard(Path("it0001/rollouts.parquet"), groups)
    invoke("score", "it0001/rollouts.parquet")
    write_evaluation(Path("base.parquet"), [1.0, 0.0], 0)
    invoke("report", ".")
    text = Page(Path("report.html").read_text()).text
    assert "50 %" in text and "→" not in text
    single = charts.chart("", "", [charts.Series("a", 0, [7], [0.5], [0.4], [0.6], dots=True)])
    assert single is not None and [tick.label for tick in single.x_ticks] == ["7"]


def test_a_poor_run_makes_a_page_too(workdir: Path) -> None:
    """Not one question; one group that agrees on nothing; one rollout a group."""
    for name, groups in {
        "silent": [chain.group(i, "pool/0.png", [], question=None, proposal="no idea") for i in range(2)],
        "split": [chain.group(0, "pool/0.png", [chain.solution(1), chain.solution(2), "nothing"])],
        "single": [chain.group(i, "pool/0.png", [chain.solution(i)]) for i in range(3)],
    }.items():
        Path(name).mkdir()
        chain.write_shard(Path(name, "rollouts.parquet"), groups)
        invoke("score", f"{name}/rollouts.parquet")
        invoke("inspect", f"{name}/scored.parquet")
        invoke("report", name)
        assert "Proposer's reward" in Page(Path(name, "report.html").read_text()).text
    invoke("report", "silent", "split", "single", "--out", "all.html")


@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (2, ["nowhere"], "no such file or directory"),
        (2, ["first", "--out", "first/it0001/scored.parquet", "--force"], "is a shard, or of a policy"),
        (2, ["pool"], "not a run's folder"),
        (2, ["first", "first"], "named twice"),
        (2, ["first"] * 7, "cannot be told apart"),
        (2, ["first", "--out", "pool/1.png"], "is no report"),
        (2, ["first", "--out", "pool"], "is a folder"),
        (3, ["first/it0003"], "nothing in this run is scored yet"),
    ],
)
def test_mistakes(page: Path, monkeypatch: pytest.MonkeyPatch, code: int, arguments: list[str], says: str) -> None:
    monkeypatch.chdir(page.parent)
    assert says in " ".join(invoke("report", *arguments, code=code).split())


@given(
    st.lists(st.tuples(st.integers(0, 5000), st.floats(-1e6, 1e6) | st.just(math.nan)), max_size=200),
    st.booleans(),
    st.sampled_from([(None, None), (0.0, None), (0.0, 1.0)]),
)
@example([(0, 5e-324)], True, (None, None))  # the power of ten below it is 0
@example([(0, 5e-324), (1, 1e-3), (2, 0.0)], True, (None, None))
@example([(0, sys.float_info.min), (1, 1.0)], True, (None, None))
def test_any_numbers_make_a_drawing_within_its_frame(
    points: list[tuple[int, float]], log: bool, bounds: tuple[float | None, float | None]
) -> None:
    x, y = (np.array([point[place] for point in points], dtype=float) for place in (0, 1))
    if bounds[0] is not None:
        y = np.clip(y, *bounds)
    drawn = charts.chart("", "", [charts.binned("a", 0, x, y, 3)], log=log, bounds=bounds)
    assert drawn is not None or log or not np.isfinite(y).any()
    for line in drawn.lines if drawn else ():
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", line.path)]
        assert all(charts.LEFT - 1 <= value <= charts.WIDTH for value in numbers[::2])
        assert all(0 <= value <= charts.HEIGHT for value in numbers[1::2])


# ------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def shown(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    if browser.EXECUTABLE is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with browser.Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page)
        yield opened


COUNT = "[...document.querySelectorAll('.group-card')].filter(card => card.checkVisibility()).length"


def test_it_renders_and_the_console_stays_clean(shown: browser.Browser, page: Path) -> None:
    assert shown.ask("document.title") == "first · steps-alone – report"
    assert shown.ask(COUNT) == 32
    assert shown.ask("document.querySelectorAll('svg.chart .stroke').length") >= 30
    assert shown.ask("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert shown.ask("document.documentElement.scrollWidth <= innerWidth")
    assert shown.requests == [page.resolve().as_uri()] + [url for url in shown.requests[1:] if url.startswith("data:")]
    assert shown.problems == []


def test_filters_search_and_order(shown: browser.Browser) -> None:
    choose = "(([id, value]) => {{ const e = document.getElementById(id); e.value = value; for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{bubbles: true}})); }})({})"  # noqa: E501
    shown.type_into("#search", "are 5?")
    assert shown.ask(COUNT) == 4 and shown.ask("document.querySelector('#count').textContent") == "4 shown"
    shown.ask(choose.format(json.dumps(["iteration", "it0001"])))
    assert shown.ask(COUNT) == 2
    shown.ask(choose.format(json.dumps(["run", "1"])))
    assert shown.ask(COUNT) == 1
    shown.type_into("#search", " nothing like it")
    assert shown.ask(COUNT) == 0 and shown.ask("document.querySelector('#empty').checkVisibility()")
    shown.ask("document.querySelector('#clear').click()")
    assert shown.ask(f"new Promise(done => setTimeout(() => done({COUNT}), 50))") == 32
    shown.ask(choose.format(json.dumps(["sort", "-reward"])))
    rewards = shown.ask("[...document.querySelectorAll('.group-card')].map(card => Number(card.dataset.reward))")
    assert rewards == sorted(rewards, reverse=True)
    shown.ask("document.querySelector('input[data-run=\"0\"]').click()")
    assert shown.ask(COUNT) == 16
    assert shown.ask("getComputedStyle(document.querySelector('svg.chart .run-0')).display") == "none"
    shown.ask("document.querySelector('input[data-run=\"0\"]').click()")
    assert shown.ask(COUNT) == 32
    assert shown.problems == []


def test_hostile_text_is_shown_and_does_nothing(shown: browser.Browser) -> None:
    headings = shown.ask("[...document.querySelectorAll('.group-card h3')].map(heading => heading.textContent)")
    assert any("<script>" in heading and "onerror" in heading for heading in headings)
    assert shown.ask("document.scripts.length") == 1
    assert "owned" not in shown.ask("document.title")
    assert not any("evil.example" in url for url in shown.requests)
    assert shown.problems == []


def test_the_pointer_tells_numbers_and_a_row_leads_to_its_group(shown: browser.Browser) -> None:
    shown.scroll_to("svg.chart", "center")
    frame = shown.ask("document.querySelector('svg.chart').getBoundingClientRect().toJSON()")
    where = {"x": frame["x"] + frame["width"] - 30, "y": frame["y"] + frame["height"] / 2}
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
    tip = shown.ask("document.querySelector('#tip').textContent")
    assert "first" in tip and "steps-alone" in tip and "0.75" in tip
    shown.ask("document.querySelector('.link').dispatchEvent(new MouseEvent('click', {bubbles: true}))")
    assert shown.ask("document.querySelector('.group-card.found').dataset.group") == shown.ask(
        "document.querySelector('.link').dataset.group"
    )
    assert shown.problems == []


def test_light_dark_and_print(shown: browser.Browser) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = shown.ask(background)
    shown.ask("document.querySelector('#theme').click()")
    dark = shown.ask(background)
    assert dark != light
    shown.call("Emulation.setEmulatedMedia", media="print")
    assert shown.ask(background) == "rgb(255, 255, 255)"
    assert not shown.ask("document.querySelector('#filters').checkVisibility()")
    assert shown.ask(COUNT) == 12
    shown.call("Emulation.setEmulatedMedia", media="")
    shown.ask("document.querySelector('#theme').click()")
    shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    shown.ask("delete document.documentElement.dataset.theme")
    assert shown.ask(background) == dark
    assert shown.problems == []

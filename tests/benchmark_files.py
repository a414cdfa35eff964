"""A handful of rendered samples of each benchmark, in the schema of its data set on the Hugging Face hub."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
TEXTS = pa.list_(pa.string())


def picture(text: str, size: tuple[int, int] = (96, 64)) -> dict[str, Any]:
    """An encoded picture of a word."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((4, 4), text, fill="black")
    data = io.BytesIO()
    image.save(data, "PNG")
    return {"bytes": data.getvalue(), "path": f"{text}.png"}


def _write(path: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, types.get(name, pa.string())) for name in rows[0]])
    pq.write_table(pa.Table.from_pylist(rows, schema), path)
    return path


def infovqa(folder: Path) -> Path:
    shared = {"image_url": "", "operation/reasoning": ["counting"], "ocr": "[]", "data_split": "val"}
    rows = [
        {
            "questionId": str(100 + place), "question": f"How many are shown in {place}?", "answers": ["42 %", "42%"],
            "answer_type": ["image-span"], "image": picture(f"infographic {place // 2}", (64, 400)), **shared,
        }
        for place in range(4)
    ]  # fmt: skip
    path = folder / "DocVQA/InfographicVQA/validation-00000-of-00001.parquet"
    return _write(path, rows, answers=TEXTS, answer_type=TEXTS, image=IMAGE, **{"operation/reasoning": TEXTS})


def ai2d(folder: Path) -> Path:
    rows = [
        {
            "question": f"Which part is labelled {place}?", "options": ["leaf", "stem", "root", "flower"],
            "answer": str(place % 4), "image": picture("diagram"),
        }
        for place in range(4)
    ]  # fmt: skip
    return _write(folder / "ai2d/data/test-00000-of-00001.parquet", rows, options=TEXTS, image=IMAGE)


def scienceqa(folder: Path) -> Path:
    """As derek-thomas/ScienceQA: questions without an image among them."""
    rows = [
        {
            "image": picture(f"magnets {place}") if place != 1 else None, "question": "Which is stronger?",
            "choices": ["pair 1", "pair 2"], "answer": place % 2, "hint": "Two pairs of magnets." * (place == 0),
            "task": "closed choice", "grade": "grade5", "subject": "natural science", "topic": "physics",
            "category": "magnets", "skill": "compare", "lecture": "", "solution": "",
        }
        for place in range(4)
    ]  # fmt: skip
    path = folder / "ScienceQA/data/test-00000-of-00001.parquet"
    return _write(path, rows, choices=TEXTS, answer=pa.int8(), image=IMAGE)


def mmmu(folder: Path) -> Path:
    """As MMMU/MMMU: a folder a subject; options are a Python list written as text."""
    images = {f"image_{place}": None for place in range(1, 8)}
    rows = [
        {
            "id": f"validation_Accounting_{place}", "question": "Compare <image 1> and <image 2>.",
            "options": "['$6', '$7.5', \"none of '6' and '7'\"]", "explanation": "", **images,
            "image_1": picture("table"), "image_2": picture("ledger"), "img_type": "['Tables']", "answer": "B",
            "topic_difficulty": "Easy", "question_type": "multiple-choice", "subfield": "Managerial Accounting",
        }
        for place in (1, 2)
    ]  # fmt: skip
    rows.append(
        {**rows[0], "id": "validation_Accounting_3", "question": "What is the total in <image 1>?", "options": "[]",
         "answer": "['8.5', '17/2']", "question_type": "open"}
    )  # fmt: skip
    types = dict.fromkeys(images, IMAGE)
    return _write(folder / "MMMU/Accounting/validation-00000-of-00001.parquet", rows, **types)


def chartqa(folder: Path) -> Path:
    rows = [
        {"type": kind, "question": f"What is the value of {kind}?", "answer": answer, "image": picture("chart")}
        for kind, answer in (("human_test", "14"), ("human_test", "Yes"), ("augmented_test", "0.57"))
    ]
    return _write(folder / "ChartQA/data/test-00000-of-00001.parquet", rows, image=IMAGE)


def chartqa_original(folder: Path) -> Path:
    """As HuggingFaceM4/ChartQA."""
    rows = [
        {"image": picture("chart"), "query": "What is the value?", "label": ["14"], "human_or_machine": place}
        for place in (0, 1)
    ]
    return _write(folder / "original/test.parquet", rows, image=IMAGE, label=TEXTS, human_or_machine=pa.int64())


def mathvista(folder: Path) -> Path:
    metadata = {"category": "math-targeted-vqa", "context": "geometry", "skills": ["geometry"], "task": "geometry"}
    kinds = [
        ("multi_choice", "text", "equal to", ["larger than", "equal to"], None),
        ("free_form", "integer", "7", None, None),
        ("free_form", "float", "1.50", None, 2.0),
        ("free_form", "list", "[2007, 2008]", None, None),
    ]
    rows = [
        {
            "pid": str(place + 1), "question": "What is shown?", "image": f"images/{place}.jpg",
            "decoded_image": picture(f"figure {place}"), "choices": choices, "unit": "cm" if place == 1 else None,
            "precision": precision, "answer": answer, "question_type": kind, "answer_type": answer_type,
            "metadata": metadata, "query": "",
        }
        for place, (kind, answer_type, answer, choices, precision) in enumerate(kinds)
    ]  # fmt: skip
    struct = pa.struct([("category", pa.string()), ("context", pa.string()), ("skills", TEXTS), ("task", pa.string())])
    path = folder / "MathVista/data/testmini-00000-of-00001.parquet"
    return _write(path, rows, choices=TEXTS, precision=pa.float64(), decoded_image=IMAGE, metadata=struct)


def mathvision(folder: Path) -> Path:
    rows = [
        {
            "id": str(place + 1), "question": f"Which is it? {image}", "options": options,
            "image": f"images/{place}.jpg",
            "decoded_image": picture(f"puzzle {place}"), "answer": answer, "solution": None, "level": 2,
            "subject": "counting",
        }
        for place, (image, options, answer) in enumerate(
            [("<image1>", ["A", "B", "C", "D", "E"], "C"), ("<image1>", ["4", "6"], "B"), ("<image1>", [],
                "\\frac{3}{4}")]
        )
    ]  # fmt: skip
    path = folder / "MathVision/data/test-00000-of-00001.parquet"
    return _write(path, rows, options=TEXTS, decoded_image=IMAGE, level=pa.int64())


def mathverse(folder: Path) -> Path:
    versions = ("Text Dominant", "Text Lite", "Vision Intensive", "Vision Dominant", "Vision Only", "Text Only")
    text = "As shown, find the angle.\nChoices:\nA:145°\nB:35°\nC:70°\nD:110°"
    rows = [
        {
            "sample_index": str(place + 1), "problem_index": "1", "problem_version": version,
            "question": "" if version == "Vision Only" else text, "image": picture(f"angle {version}"), "answer": "B",
            "question_type": "multi-choice", "metadata": {"split": "testmini", "subject": "Plane Geometry"},
            "query_wo": "", "query_cot": "", "question_for_eval": text,
        }
        for place, version in enumerate(versions)
    ]  # fmt: skip
    free = {
        "question": "Find AB.",
        "question_for_eval": "Find AB.",
        "answer": "4\\sqrt{3}",
        "question_type": "free-form",
    }
    rows.append({**rows[0], "sample_index": "7", "problem_index": "2", **free})
    struct = pa.struct([("split", pa.string()), ("subject", pa.string())])
    return _write(folder / "MathVerse/testmini.parquet", rows, image=IMAGE, metadata=struct)


BUILDERS: dict[str, Callable[[Path], Path]] = {
    "infovqa": infovqa, "ai2d": ai2d, "scienceqa": scienceqa, "mmmu": mmmu, "chartqa": chartqa,
    "mathvista": mathvista, "mathvision": mathvision, "mathverse": mathverse,
}  # fmt: skip


def build_all(folder: Path) -> Path:
    """Every benchmark, as a folder of downloads holds them."""
    for build in BUILDERS.values():
        build(folder)
    return folder

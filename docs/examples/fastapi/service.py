"""One merged model behind HTTP that answers both of its parents' tasks. Needs no onnxmerge: see README.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel, Field

FOLDER = Path(os.environ.get("MODEL_FOLDER", Path(__file__).parent))
TASKS = json.loads((FOLDER / "task.json").read_text())["tasks"]
VECTORS = {task["name"]: np.asarray(task["vectors"], np.float32) for task in TASKS}
SESSION = onnxruntime.InferenceSession(FOLDER / "merged.onnx", providers=["CPUExecutionProvider"])

Row = Annotated[list[Annotated[float, Field(ge=0, le=16)]], Field(min_length=8, max_length=8)]


class Image(BaseModel):
    """A drawn digit: 8 rows of 8 pixels, from 0 (paper) to 16 (ink)."""

    pixels: Annotated[list[Row], Field(min_length=8, max_length=8)]


app = FastAPI(title="Two tasks, one merged model")


@app.post("/classify")
def classify(image: Image) -> dict[str, Any]:
    """For each task, its class that is nearest to the model's embedding and the cosine; and the nearest of all."""
    pixels = np.asarray(image.pixels, np.float32)[None, None] / 8 - 1  # [1, 1, 8, 8], from -1 to 1
    [embedding] = SESSION.run(["embedding"], {"images": pixels})[0]
    answers = {}
    for task in TASKS:
        cosines = VECTORS[task["name"]] @ embedding / np.linalg.norm(embedding)  # class vectors have length 1
        best = int(cosines.argmax())
        answers[task["name"]] = {"class": task["classes"][best], "cosine": round(float(cosines[best]), 4)}
    nearest = max(answers.values(), key=lambda answer: answer["cosine"])
    return {"tasks": answers, "class": nearest["class"]}

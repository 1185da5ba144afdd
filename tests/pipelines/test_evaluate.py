"""A trained model on the test split: at its own N, and at every N that it was trained for."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from datagen import generate, read_rows
from pipelines.evaluate import measure
from sleepmodel.evaluation import accuracy
from sleepmodel.job import Job
from sleepmodel.training import LocalEngine, build_model, train
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK


def test_a_model_trained_for_several_n_is_evaluated_at_each(ray_cluster: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        dataset = generate(TASK, split, 64, 0, tmp_path)
    config = replace(CONFIG, sleep_passes=(1, 2, 4))
    job = Job(name="any", model=MODEL, train=config, dataset=str(dataset), output=str(tmp_path / "any"))
    engine = LocalEngine(build_model(MODEL, config), config)
    history = train(engine, job.rows(), config, lambda model: 0.0, lambda at, write: None)
    (tmp_path / "any").mkdir()
    job.finish(engine.model, history)
    (tmp_path / "any" / "config.json").write_text(json.dumps({"config": {"train": asdict(config)}}))

    results = measure("any", tmp_path / "any", dataset, tmp_path)
    assert [(result.line, result.sleep_passes) for result in results] == [("any@1", 1), ("any", 2), ("any@4", 4)]
    rows = read_rows(dataset, "test")
    assert [result.accuracy for result in results] == [accuracy(engine.model, rows, n) for n in (1, 2, 4)]
    forward = [engine.model.flops(rows.tokens.shape[1], n) for n in (1, 2, 4)]
    assert {result.flops for result in results} == {sum(forward) * CONFIG.steps * CONFIG.batch_size}

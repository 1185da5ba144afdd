"""Take the screenshots of docs/operating.md, with a real browser, of a real run.

    python -m benchmarks.pictures

Needs Chromium (apt-get install chromium) and the extra `pictures`. The run writes to /srv/sleep, as the path shows in
the screenshots; the directory is removed at the end.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from benchmarks.arguments import command_parser
from benchmarks.results_file import ROOT

HOME = Path("/srv/sleep")
PICTURES = ROOT.parent / "docs" / "pictures"
SIZE = {"width": 1280, "height": 760}
SMOKE = "python pipelines/full.py smoke --set search.trials=8 search.grace=4 train.steps=300 train.validate_every=10"


def main() -> None:
    if HOME.exists():
        sys.exit(f"{HOME}: must not exist, as the run for the screenshots writes there; move it away")
    PICTURES.mkdir(exist_ok=True)
    browser = shutil.which("chromium")
    if browser is None:
        sys.exit("chromium: not on the PATH; run apt-get install chromium")
    try:
        with sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page(viewport=SIZE)
            ray_job(page)
            tensorboard(page)
            mlflow(page)
    finally:
        shutil.rmtree(HOME, ignore_errors=True)


def take(page: Page, name: str) -> None:
    page.wait_for_timeout(3000)  # charts are drawn some time after their data has arrived
    page.screenshot(path=PICTURES / f"{name}.png")
    print(PICTURES / f"{name}.png", flush=True)


def ray_job(page: Page) -> None:
    """The page of the Ray job, and its log, while the search runs."""
    # port 0 takes a free one, as another Ray may run on this machine
    node = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": _free_port(), "dashboard_agent_listen_port": 0}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    dashboard = cluster.head_node.webui_url
    client = JobSubmissionClient(f"http://{dashboard}")
    time.sleep(20)  # until the dashboard has found an agent that can run a job
    job = client.submit_job(entrypoint=SMOKE, runtime_env={"env_vars": {"SLEEPMODEL_ROOT": str(HOME)}})
    while client.get_job_logs(job).count("tune-N") < 12:
        assert not client.get_job_status(job).is_terminal(), client.get_job_logs(job)
        time.sleep(1)
    page.goto(f"http://{dashboard}/#/jobs/{job}")
    page.wait_for_selector("text=Entrypoint")
    take(page, "ray-job")
    page.get_by_label("Keyword").fill("tune-N")
    page.mouse.move(640, 100)
    page.mouse.wheel(0, 560)  # to the log
    take(page, "ray-search")
    while not client.get_job_status(job).is_terminal():
        time.sleep(1)
    assert client.get_job_status(job) == JobStatus.SUCCEEDED, client.get_job_logs(job)
    cluster.shutdown()


def tensorboard(page: Page) -> None:
    with _serving("tensorboard", "--logdir", str(HOME / "steps" / "tune")) as url:
        page.goto(f"{url}/#timeseries&tagFilter=accuracy|loss")
        page.wait_for_selector("text=trial-")
        take(page, "tensorboard")


def mlflow(page: Page) -> None:
    store = f"sqlite:///{HOME}/mlflow.db"
    (experiment,) = (found for found in MlflowClient(store).search_experiments() if found.name == "sleepmodel")
    with _serving("mlflow", "ui", "--workers", "1", "--backend-store-uri", store) as url:
        runs = f"{url}/#/experiments/{experiment.experiment_id}/runs"
        page.goto(runs)
        page.get_by_text("Model training", exact=True).click()
        page.locator("[data-component-id='mlflow.assistant.chat_panel.close']").click()
        page.goto(runs)
        for run in ("smoke", "tune"):  # show their nested runs
            page.get_by_role("link", name=run, exact=True).locator("xpath=../..//button").first.click()
        page.get_by_role("link", name="tune-N1-eta1.00").wait_for()
        take(page, "mlflow-runs")
        page.goto(f"{runs}?compareRunsMode=CHART")
        page.wait_for_selector("text=accuracy")
        page.mouse.move(880, 450)
        page.mouse.wheel(0, 450)  # past the two test metrics, to the curves
        take(page, "mlflow-compare")
        page.goto(f"{url}/#/models/sleep-rule110")
        page.wait_for_selector("text=champion")
        take(page, "mlflow-registry")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _serving(*command: str) -> Iterator[str]:
    """Run a server of this environment on a free loopback port; yields its URL."""
    port = _free_port()
    program = [str(Path(sys.executable).parent / command[0]), *command[1:], "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not _answers(url):
            assert process.poll() is None, (
                f"{' '.join(program)}: exited with status {process.returncode} before it answered"
            )
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


if __name__ == "__main__":
    command_parser("pictures", __doc__).parse_args()
    main()

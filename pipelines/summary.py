"""What a pipeline prints when it has finished: the table of results, and where to find the rest."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from datagen.shell import python_command
from pipelines.engine.stage import Stage, State, script_of, state
from sleepmodel.tracking.redact import redacted


def print_summary(everything: list[Stage], root: Path, console: Console) -> None:
    """Print the results of the stages that are done, and the commands that show or load them."""
    from pipelines.reporting.comparison import comparison_table, read_variants
    from pipelines.reporting.results import RESULTS
    from pipelines.stages.register import REGISTRATION
    from pipelines.stages.report import REPORT
    from sleepmodel.tracking.locations import store_command
    from sleepmodel.tracking.runs import tracking_uri

    done = {script_of(stage): stage.output(root) for stage in everything if state(stage, root) is State.DONE}

    def say(text: str) -> None:
        console.print(redacted(text), soft_wrap=True, highlight=False, markup=False, emoji=False)

    if "evaluate" in done:
        console.print(comparison_table(read_variants(done["evaluate"]), console.width))
        say(f"results    {done['evaluate'] / RESULTS.name}")
    if "report" in done:
        say(f"report     {done['report'] / REPORT}")
        for picture in sorted(map(str, done["report"].glob("*.png"))):
            say(f"picture    {picture}")
    uri = tracking_uri(root)
    if "register" in done:
        registration = REGISTRATION.load(done["register"])
        say(f"registry   {registration.name} v{registration.version}: {registration.reason}")
        reference = "@champion" if registration.champion else f"/{registration.version}"
        load = f'import sleepmodel; print(sleepmodel.load("models:/{registration.name}{reference}"))'
        say(f"load it    {store_command(uri, '-c', load)}")
    served = uri.startswith(("http://", "https://"))
    say(f"MLflow UI  {uri if served else python_command('-m', 'mlflow', 'ui', '--backend-store-uri', uri)}")

"""README, docs/ and the other pages promise nothing that is not there: commands, code, links, paths, figures."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from typing import NoReturn

import click
import mlflow.cli
import pytest
from ray.scripts.scripts import cli as ray_cli

from benchmarks import performance
from benchmarks.evidence.experiments import EXPERIMENTS
from pipelines.arguments import parser
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS, experiment_named
from sleepmodel.__main__ import main
from tests.pipelines.test_pretrained import write_llama

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
# diary and changelog are logs: what they name may be gone
PRESENT = {name: text for name, text in TEXTS.items() if name not in ("docs/diary.md", "CHANGELOG.md")}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _commands(text: str) -> list[str]:
    """Lines of shell blocks, and lone indented commands, without comments."""
    lines = [line for block in re.findall(r"```sh\n(.+?)```", text, re.DOTALL) for line in block.splitlines()]
    lines += re.findall(r"^ {4}((?:make|pip|python|ray|ssh) .+)$", text, re.MULTILINE)
    return [command for line in lines for command in re.split(r" && ", line.partition(" #")[0].strip())]


def _blocks(text: str) -> list[str]:
    return re.findall(r"```python\n(.+?)```", text, re.DOTALL)


COMMANDS = sorted({(name, command) for name, text in PRESENT.items() for command in _commands(text)})


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 40 and {"README.md", "docs/pipeline.md", "docs/cluster.md"} <= {page for page, _ in COMMANDS}


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what the commands read: these pages, and a model as deep as the one that they name."""
    directory = tmp_path_factory.mktemp("beside")
    (directory / "docs").symlink_to(ROOT / "docs")
    write_llama(directory / "runs" / "smollm2", layers=30)
    return directory


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_each_command_is_one_that_its_program_takes(
    page: str, command: str, beside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(beside)
    _check(shlex.split(re.split(r" [>|]", command)[0], comments=True), monkeypatch)


def _check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise unless the program that `words` call would take them."""
    while assigned := re.fullmatch(r"([A-Z]\w*)=(.*)", words[0]):
        if assigned[1] == "PYTHONPATH":
            monkeypatch.syspath_prepend(ROOT / assigned[2])
        words = words[1:]
    program, *rest = words
    if program == "ray":
        end = rest.index("--") if "--" in rest else len(rest)
        _click(ray_cli, rest[:end] + (["--", "true"] if rest[end:] else []))
        if rest[end:]:
            _check(rest[end + 1 :], monkeypatch)
    elif program == "mlflow":
        _click(mlflow.cli.cli, rest)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), rest[1]
        if rest[1] == "sleepmodel":
            _terminal(rest[2:], monkeypatch)
    elif program == "python" and rest[0].startswith("pipelines/"):
        script = ROOT / rest[0]
        assert script.is_file()
        given = parser(script.stem, None).parse_args(rest[1:])
        apply_overrides(experiment_named(given.preset), given.set)
    elif program in ("python", "bash"):
        assert (ROOT / rest[0]).is_file()
    else:
        assert program in ("export", "pip", "ssh", "tensorboard", "."), program


def _click(command: click.Command, words: list[str]) -> None:
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found, name
        command = found
    command.make_context(str(command.name), words)


def _terminal(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The terminal's own parser takes the words where it comes as far as loading the model."""

    def reached(model: str, window: int | None) -> NoReturn:
        raise LookupError(model)

    monkeypatch.setattr("sleepmodel.__main__._load", reached)
    with pytest.raises(LookupError, match=re.escape(words[0])):
        main(words)


@pytest.mark.parametrize("name", PRESENT)
def test_commands_in_prose_exist(name: str) -> None:
    assert set(re.findall(r"`make ([a-z]+)", PRESENT[name])) <= TARGETS
    for module in re.findall(r"`python -m ([\w.]+)", PRESENT[name]):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(("name", "code"), [(name, code) for name, text in TEXTS.items() for code in _blocks(text)])
def test_each_python_block_compiles(name: str, code: str) -> None:
    compile(code, name, "exec")


def test_the_blocks_of_usage_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them; tests/sleepmodel/tracking does those that need a registry."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = [code for code in _blocks(TEXTS["docs/usage.md"]) if "models:/" not in code]
    assert len(blocks) == 6
    for code in blocks:
        exec(code, names)
    assert names["answer"].shape == (1, 4) and (tmp_path / "context.memory").is_file()  # type: ignore[attr-defined]


LINKS = sorted({(name, link) for name, text in TEXTS.items() for link in re.findall(r"\]\(([^)\s]+)\)", text)})


@pytest.mark.parametrize(("name", "link"), [pair for pair in LINKS if not pair[1].startswith("https://")])
def test_each_link_leads_somewhere(name: str, link: str) -> None:
    target, _, anchor = link.partition("#")
    page = (ROOT / name).parent / target if target else ROOT / name
    assert page.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
        # as GitHub makes anchors of headings, and mkdocs of these
        assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PRESENT)
def test_each_path_and_each_test_that_a_page_names_exists(name: str) -> None:
    text = PRESENT[name]
    for path in re.findall(r"`((?:sleepmodel|datagen|pipelines|benchmarks|tests|cluster|docs)/[\w/.-]+)`", text):
        assert (ROOT / path).exists(), path
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for test in re.findall(r"`(test_\w+)`", text):
        assert f"def {test}(" in tests, test


def test_the_presets_are_all_described() -> None:
    presets, _, controls = TEXTS["docs/presets.md"].split("\n## ")
    first = re.compile(r"^\| `([\w-]+)` \|", re.MULTILINE)
    assert set(first.findall(presets)) == set(PRESETS)
    variants = {variant.name for preset in PRESETS.values() for variant in preset.variants}
    assert len(first.findall(controls)) == 8 and set(first.findall(controls)) <= variants


def test_the_options_exist() -> None:
    options = re.findall(r"`((?:model|train|scale|search)\.[a-z_.]+)", TEXTS["docs/configuration.md"])
    assert len(options) > 20
    for option in options:
        value: object = PRESETS["demo"]
        for field in option.split("."):
            value = getattr(value, field)


def test_the_tables_are_the_published_ones() -> None:
    results = ROOT / "benchmarks/results"
    pages = {"docs/demo.md": [results / "demo"]}
    for name, each in EXPERIMENTS.items():
        page, directory = str(each.page.relative_to(ROOT)), results / "evidence" / name
        if not directory.exists():
            assert f"<!-- {name} -->\nNot run yet." in TEXTS[page]
        elif not each.speed:
            pages.setdefault(page, []).append(directory)
    assert len(pages["docs/evidence.md"]) > 8
    for page, directories in pages.items():
        for directory in directories:
            rows = [row for row in (directory / "report.md").read_text().splitlines() if row.startswith("|")]
            assert len(rows) > 3 and all(row in TEXTS[page] for row in rows), directory


def test_the_speeds_are_the_published_ones() -> None:
    page = TEXTS["docs/performance.md"]
    for name, table in performance.blocks().items():
        assert f"<!-- {name} -->\n{table}\n<!-- end -->" in page, name
    for value in json.loads((ROOT / "benchmarks/results/overhead.json").read_text())["overhead"].values():
        assert f"{100 * value:.1f} %" in page


def test_the_site_turns_links_out_of_the_docs_into_what_it_holds() -> None:
    pytest.importorskip("mkdocs")
    spec = importlib.util.spec_from_file_location("hooks", ROOT / "docs/hooks.py")
    assert spec and spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    rewritten = hooks.on_page_markdown(
        "![a](../benchmarks/results/latency.png) [b](../ray_cluster.yaml) [c](../nowhere.md) [d](usage.md#sessions)"
    )
    assert rewritten == "![a](results/latency.png) `ray_cluster.yaml` [c](../nowhere.md) [d](usage.md#sessions)"


def test_the_site_lists_each_field_of_a_docstring_in_a_line_of_its_own() -> None:
    pytest.importorskip("griffe")
    spec = importlib.util.spec_from_file_location("fields", ROOT / "docs/fields.py")
    assert spec and spec.loader
    fields = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fields)
    docstring = "A thing.\n\na, b: two; c: the third,\n    over two lines. note: no field. Raises ValueError."
    listed = (
        "A thing.\n\n- **a, b**: two.\n- **c**: the third,\n    over two lines. note: no field.\n\nRaises ValueError."
    )
    assert fields.as_list(docstring, {"a", "b", "c"}) == listed

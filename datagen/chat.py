"""Chat templates: programs in Jinja that come with a model, and turn messages into the text that it was trained on.

They come from strangers, so they run in Jinja's sandbox, with the functions and settings that Hugging Face's libraries
give them, and no others. The sandbox bounds what a template can reach, not its time or memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

Message = Mapping[str, Any]  # with role ("system", "user", "assistant") and content


def render_chat(template: str, messages: Sequence[Message], **names: object) -> str:
    """What a template makes of messages; `names` are the other variables that it can use.

    Raises ValueError with the template's own message, or with Jinja's, if it cannot render them. Needs jinja2.
    """
    from jinja2 import TemplateError

    try:
        return _compiled(template).render(messages=[dict(message) for message in messages], **names)
    # a template's expressions fail as Python's do
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
        RecursionError,
    ) as error:
        raise ValueError(f"{error!s:.300}" or type(error).__name__) from error


@lru_cache(maxsize=4)
def _compiled(template: str) -> Template:
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %}, which marks what the model says, and changes nothing."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    class PublicNamespace(Namespace):
        """A namespace that cannot pose as another object of Python's."""

        def __init__(self, attributes: dict[str, Any]) -> None:
            for name in attributes:
                check(name)
            super().__init__(attributes)

        def __setitem__(self, name: str, value: Any) -> None:
            check(name)
            super().__setitem__(name, value)

    def check(name: object) -> None:
        if str(name).startswith("_"):
            raise TemplateError(f"namespace has {name!r}: names that begin with _ are refused")

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)  # Jinja's own escapes HTML

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals["namespace"] = lambda *given, **more: PublicNamespace(dict(*given, **more))
    return environment.from_string(template)

"""Documents that are made from the code: `python -m tests.generated_docs` writes them anew.

`tests/unit/test_generated_docs.py` fails when one is not what the code says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler.config import AgentConfig, ServerConfig, docs_table
from reconciler.core.machine import diagram, load, names

DOCS = Path(__file__).parents[1] / "docs"


def documents() -> Mapping[str, str]:
    """File name → text."""
    return {"options.md": _options(), "machines.md": _machines()}


def _options() -> str:
    return (
        "# Options\n\n"
        "Every option is a flag, a variable and a key of a TOML file (`--config FILE`, or\n"
        "`RECONCILER_CONFIG`) in its table `[server]` or `[agent]`. The flag is first, then the\n"
        "variable, the file, the default. An unknown key is an error.\n\n"
        f"## reconciler server\n\n{docs_table(ServerConfig)}\n"
        f"## reconciler agent\n\n{docs_table(AgentConfig)}"
    )


def _machines() -> str:
    parts = [
        "# State machines\n\n"
        "Each life cycle is declared once, in `models/`, and run from there by server and agent.\n"
        "`reconciler models show NAME` prints one with what each row is for.\n"
    ]
    for name in names():
        model = load(name)
        parts.append(
            f"\n## {name}\n\n{model.summary} ({model.where})\n\n```mermaid\n"
            f"{_without_header(diagram(model))}```\n\n| state | meaning |\n|---|---|\n"
            + "".join(f"| {state} | {each.meaning} |\n" for state, each in model.states.items())
        )
    return "".join(parts)


def _without_header(text: str) -> str:
    """A code block in Markdown takes no front matter."""
    return text[text.index("stateDiagram-v2") :]


if __name__ == "__main__":
    for file, text in documents().items():
        (DOCS / file).write_text(text)
        print(DOCS / file)

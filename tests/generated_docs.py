"""Documents that are made from the code: `python -m tests.generated_docs` writes them anew.

`tests/unit/test_generated_docs.py` fails when one is not what the code says.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reconciler import metrics
from reconciler.agent import status as agent
from reconciler.config import AgentConfig, DiscoveryConfig, ServerConfig, docs_table
from reconciler.core.machine import diagram, load, names
from reconciler.server import status as server
from reconciler.server.discovery import status as discovery
from reconciler.server.discovery.families import FILES

DOCS = Path(__file__).parents[1] / "docs"


def documents() -> Mapping[str, str]:
    """File name → text."""
    return {"options.md": _options(), "machines.md": _machines(), "metrics.md": _metrics()}


def _options() -> str:
    return (
        "# Options\n\n"
        "Every option is a flag, a variable and a key of a TOML file (`--config FILE`, or\n"
        "`RECONCILER_CONFIG`) in its table `[server]`, `[agent]` or `[xds]`. The flag is first,\n"
        "then the variable, the file, the default. An unknown key is an error.\n\n"
        f"## reconciler server\n\n{docs_table(ServerConfig)}\n"
        f"## reconciler agent\n\n{docs_table(AgentConfig)}\n"
        f"## reconciler xds serve\n\n{docs_table(DiscoveryConfig)}"
    )


ALERTS = (
    (
        "sum(reconciler_alarms_standing) > 0",
        "an alarm stands at a server; `reconciler get status` says which",
    ),
    (
        "increase(reconciler_alarms_total[10m]) > 0",
        "a server or agent raised an alarm, one that stands or one that is only said (of a "
        "certificate or trace file, a map, files of `--discovery-resources`); its log says which",
    ),
    (
        "reconciler_identities / reconciler_identity_capacity > 0.8",
        "numbers run out; the server's alarm `identities` says so at 80 and 90 %",
    ),
    (
        "reconciler_map_entries / reconciler_map_limit > 0.8",
        "a node's map fills; its agent's alarm `map` says so at 80 and 90 %",
    ),
    ('reconciler_nodes{state="lagging"} > 0', "nodes that do not reach a newer cut"),
    ("reconciler_in_sync == 0", "for minutes: a node enforces an older cut, or has no server"),
    (
        "0 < reconciler_certificate_expiry_seconds < time() + 86400",
        "a certificate ends within a day: its renewal is late",
    ),
    (
        "rate(reconciler_xds_streams_refused_total"
        '{code!="UNAVAILABLE",code!="RESOURCE_EXHAUSTED"}[5m]) > 0',
        "somebody connects without a proof that counts, or names no node",
    ),
    (
        'rate(reconciler_xds_streams_refused_total{code="RESOURCE_EXHAUSTED"}[5m]) > 0',
        "`reconciler xds serve` has `--max-streams` streams, and takes no more",
    ),
    (
        "reconciler_xds_problems > 0",
        "`reconciler xds serve` serves the last good state: its files are wrong, or what it was "
        "handed",
    ),
    (
        'rate(reconciler_token_reviews_total{result="unavailable"}[5m]) > 0',
        "tokens can't be verified: agents that connect now have to wait",
    ),
)


def _metrics() -> str:
    alerts = "".join(f"| `{expression}` | {means} |\n" for expression, means in ALERTS)
    return (
        "# Metrics\n\n"
        "`/metrics` is on the status socket and, with `--metrics ADDRESS`, on an address that\n"
        "Prometheus and kubelet reach. With it are `/healthz` (the process answers) and\n"
        "`/readyz` (server: there is something to serve; agent: a cut is enforced; `xds serve`:\n"
        "it was given resources, and is not stopping), and nothing else. A page is made once in "
        f"{metrics.FRESH_SECONDS:g} s at most,\nhowever many ask.\n"
        "All processes also have `reconciler_build_info` and Prometheus' own `process_*`.\n\n"
        f"## reconciler server\n\n{metrics.docs_table(server.METRICS)}\n"
        "With `--discovery-resources` also:\n\n"
        f"{metrics.docs_table(FILES)}\n"
        f"## reconciler agent\n\n{metrics.docs_table(agent.METRICS)}\n"
        f"## reconciler xds serve\n\n{metrics.docs_table(discovery.METRICS)}\n"
        f"## What to be woken by\n\n| expression | means |\n|---|---|\n{alerts}"
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

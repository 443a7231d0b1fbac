"""Write the tables of docs/metrics.md from the metrics that are registered.

    python tools/generate_metrics_docs.py [--check]

What stands between the two marks is replaced, all else is left as it is.
"""

import argparse
import sys
from pathlib import Path

from etcd_steward.metrics.names import SECTIONS, Family

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- metrics: generated from here -->", "<!-- to here -->"


def row(family: Family) -> str:
    """One line of a table."""
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.exposed}` | {family.kind} | {labels} | {family.help} |"


def tables() -> str:
    """All sections."""
    parts = []
    for title, families in SECTIONS.items():
        rows = "\n".join(row(family) for family in families)
        parts.append(f"### {title}\n\n| metric | type | labels | |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)


def page(text: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{PAGE} has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


def main() -> int:
    """Write the page, or with `--check` say that it is stale."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only")
    arguments = parser.parse_args()
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if old == new:
        return 0
    print(f"{'stale' if arguments.check else 'wrote'}: docs/{PAGE.name}")
    if not arguments.check:
        PAGE.write_text(new, encoding="utf-8")
    return int(arguments.check)


if __name__ == "__main__":
    sys.exit(main())

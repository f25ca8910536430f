"""Writes costs.json beside itself: params, macs and activations of every published design at its usual input.

    python tests/golden/make_costs.py

The numbers are exact and change only when a design does. Look at what changed before committing it: the tests check
params and macs against the built networks, and the whole file against `plusx.cost`.
"""

import json
from pathlib import Path

from plusx import families
from plusx.cost import cost

FILE = Path(__file__).with_name("costs.json")


def golden() -> dict[str, dict[str, int]]:
    """What the file should hold."""
    costs = {name: cost(name) for name in families.names()}
    return {n: {"params": c.params, "macs": c.macs, "activations": c.activations} for n, c in costs.items()}


def text(data: dict[str, dict[str, int]]) -> str:
    """One line for each design."""
    return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in data.items()) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text(golden()), encoding="utf-8")
    print(f"wrote {FILE}")

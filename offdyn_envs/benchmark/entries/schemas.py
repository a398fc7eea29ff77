"""The published JSON Schemas, and one line for what breaks them."""

import json
from pathlib import Path
from typing import Any

from offdyn_envs.benchmark.gate.printable import printable

__all__ = ["ENTRY_SCHEMA", "VERDICT_SCHEMA", "schema_fault"]

ENTRY_SCHEMA = Path(__file__).with_name("entry.schema.json")
VERDICT_SCHEMA = Path(__file__).with_name("verdict.schema.json")


def schema_fault(data: Any, schema: Path) -> str | None:
    """Returns where and how data breaks a schema, or None when it does not.

    Args:
        data: Plain JSON.
        schema: One of the schema files.
    """
    import jsonschema

    rules = json.loads(schema.read_text(encoding="utf-8"))
    error: Any = next(iter(jsonschema.Draft202012Validator(rules).iter_errors(data)), None)
    if error is None:
        return None
    place = "/".join(str(part) for part in error.absolute_path) or "top level"
    return printable(f"{place}: {error.message}", 240)

"""Writes the JSON Schema of the manifest to `schemas/json/`, for readers in other languages.

Run `python -m schemas.export_json` after changing `schemas/manifest.py`; a test compares.
"""

import json
from pathlib import Path

from schemas.manifest import Manifest

PATH = Path(__file__).parent / "json" / "manifest.schema.json"


def manifest_schema() -> str:
    """Returns the manifest's JSON Schema (draft 2020-12) as text."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Manifest.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text(manifest_schema())
    print(PATH)

"""What stands in the JSON of a merge plan: which entries, and of which kind."""

from __future__ import annotations

from tflite_export import json_files

_TEXTS, _COUNTS = json_files.many(json_files.text), json_files.many(json_files.whole)
# Positions out of range, negative ones too, are named with their space later.
_POSITIONS = json_files.many(json_files.integer)
_NUMBERS = json_files.many(json_files.number)
HEADER = json_files.record({"format": json_files.anything, "version": json_files.anything})
PLAN = json_files.record(
    {
        "tasks": json_files.many(json_files.text, 1),
        "method": json_files.text,
        "options": json_files.table(json_files.anything),
        "fingerprints": _TEXTS,
        "spaces": json_files.many(
            json_files.record(
                {
                    "name": json_files.text,
                    "writers": _TEXTS,
                    "widths": _COUNTS,
                    "frozen": json_files.maybe(json_files.text),
                    "groups": json_files.many(
                        json_files.record(
                            {"tasks": _TEXTS, "channels": json_files.table(_POSITIONS)}
                        )
                    ),
                    "dropped": json_files.table(_POSITIONS),
                    "paths": json_files.table(
                        json_files.record(
                            {
                                "order": _POSITIONS,
                                "values": _NUMBERS,
                                "full": json_files.number,
                                "null": json_files.number,
                            }
                        )
                    ),
                },
                {
                    "fused": json_files.many(json_files.table(_POSITIONS)),
                    "factors": json_files.table(_NUMBERS),
                },
            )
        ),
    }
)

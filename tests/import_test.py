"""What `import tfmot_pam` leaves as it was."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import json, os, sys
import keras
before, environment = set(sys.modules), dict(os.environ)
import tfmot_pam
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
import tensorflow as tf
print(json.dumps({
    "loaded": sorted(loaded),
    "environment": dict(os.environ) == environment,
    "keras": tf.keras.layers.Dense is keras.layers.Dense,
}))
"""


def test_importing_changes_nothing_and_loads_little():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["environment"]
    assert found["keras"]
    heavy = {"tensorflow_model_optimization", "tf_keras", "ai_edge_litert", "matplotlib", "absl"}
    assert not heavy & set(found["loaded"])
    assert "tfmot_pam" in found["loaded"]

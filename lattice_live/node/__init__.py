"""The inference node: models behind a small HTTP interface, all requests of one in a batch."""

import os

# ONNX Runtime reads this once, when it is first imported; every import of it in this project stands below this package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

"""The inference node: an ONNX decoder behind a small HTTP interface, one request at a time."""

import os

# ONNX Runtime reads this once, when it is first imported; every import of it in this project stands below this package.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

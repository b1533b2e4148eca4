"""A model folder in ONNX Runtime, with one cache of rows that every step reads and writes in place."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnxruntime


class Runner:
    """`rows` rows of `room` tokens each; `lengths` is how many each holds. `graph` is the folder's graph that runs."""

    def __init__(self, folder, rows=1, room=64, graph="graph"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        path = str(getattr(folder, graph))
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        m = folder.manifest
        names = [f"{i}.{part}" for i in range(m.layers) for part in ("key", "value")]
        self.cache = {name: np.zeros((rows, m.kv_heads, room, m.head_dim), m.kv_dtype) for name in names}
        self.lengths = np.zeros(rows, np.int32)

    def step(self, ids, first=0):
        """Logits of rows `first`, `first` + 1, … reading one more row of `ids` each."""
        ids = np.array(ids, np.int64)
        rows = slice(first, first + len(ids))
        after = self.lengths[rows] + ids.shape[1]
        binding = self.session.io_binding()
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("seqlens_k", (after - 1).astype(np.int32))
        binding.bind_cpu_input("total_sequence_length", np.array([after.max()], np.int32))
        for name, held in self.cache.items():
            part = held[rows]
            place = ("cpu", 0, held.dtype.type, part.shape, part.ctypes.data)
            binding.bind_input(f"past_key_values.{name}", *place)
            binding.bind_output(f"present.{name}", *place)
        binding.bind_output("logits", "cpu")
        self.session.run_with_iobinding(binding)
        self.lengths[rows] = after
        return binding.get_outputs()[-1].numpy()

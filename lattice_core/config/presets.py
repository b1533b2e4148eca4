"""Workloads fitted to published traces: the numbers that `lattice trace fit` wrote, and nothing of the traces themselves.

docs/traces.md says what each number means and how near it comes.
"""

from typing import Any

FITTED: dict[str, dict[str, Any]] = {
    "azure-2023-code": {
        "source": "Azure/AzurePublicDataset, AzureLLMInferenceTrace_code.csv, 2023-11-16; cite Splitwise, ISCA 2024",
        "licence": "CC-BY-4.0",
        "modulated": {
            "requests_per_day": 221761.7,
            "bursts": [
                {"cv": 0.4763, "period": "0.7s", "silent": 0.1333},
                {"cv": 1.2937, "period": "7s", "silent": 0.4514},
                {"cv": 0.9931, "period": "70s", "silent": 0.358},
            ],
        },
        "prompt": {
            "quantiles": {
                "share": [
                    0.0, 0.00238, 0.02857, 0.09627, 0.22236, 0.28904, 0.32781, 0.41966, 0.52421, 0.78297, 0.83751,
                    0.89262, 0.90339, 0.94183, 0.95079, 0.96099, 0.96349, 0.99796, 1.0,
                ],
                "tok": [
                    2.5, 9.5, 49.5, 142.5, 479.5, 741.5, 874.5, 1131.5, 1582.5, 2990.5, 3660.5, 4804.5, 5456.5, 6611.5,
                    7371.5, 7432.5, 7434.5, 7436.5, 7437.5,
                ],
            },
        },
        "output": {
            "quantiles": {
                "share": [
                    0.0, 0.21148, 0.30344, 0.52013, 0.62524, 0.69373, 0.73897, 0.81721, 0.91983, 0.97199, 0.99444, 1.0,
                ],
                "tok": [
                    5.5, 8.5, 9.5, 13.5, 16.5, 19.5, 22.5, 31.5, 64.5, 130.5, 319.5, 1899.5,
                ],
            },
        },
    },
}  # fmt: skip

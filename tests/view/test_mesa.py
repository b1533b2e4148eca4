"""Mesa's own tools work on a network as on any Mesa model."""

import mesa
import pandas as pd

from lattice_core.records import TABLES
from lattice_sim import LatticeModel
from lattice_sim.networks import SHIPPED

SMALL = {"config": str(SHIPPED / "local.yaml"), "chain.backend": "revm", "chain.epoch": "2m", "sim.epochs": 2}


def rows(processes: int) -> pd.DataFrame:
    varied = {"routing.policy": ["random", "cheapest"]}
    found = mesa.batch_run(
        LatticeModel, SMALL | varied, rng=[1, 2], number_processes=processes, data_collection_period=1, display_progress=False
    )
    return pd.DataFrame(found).drop(columns=["RunId"])


def test_a_batch_of_runs_is_the_same_in_one_process_and_in_two() -> None:
    one, two = (rows(processes).sort_values(["routing.policy", "rng", "Step"], ignore_index=True) for processes in (1, 2))
    pd.testing.assert_frame_equal(one, two)
    assert set(TABLES["epochs"]) <= set(one)
    assert one.groupby("routing.policy")["arrived"].sum().nunique() == 1  # the same users ask, whatever the policy


def test_the_collector_has_the_columns_of_the_table_of_epochs() -> None:
    model = LatticeModel(**SMALL)
    model.run_model()
    frame = model.datacollector.get_model_vars_dataframe()
    assert list(frame) == list(TABLES["epochs"])
    assert frame["epoch"].tolist() == [0, 1]

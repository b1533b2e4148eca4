"""The network as a Mesa model: agents decide, an engine serves, the chain settles, metrics observe."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Self

import mesa

from lattice_core import census, invariants
from lattice_core.chain.backends import chain_of
from lattice_core.chain.bridge import Bridge
from lattice_core.chain.port import Chain, Reverted
from lattice_core.config import Config, ConfigError, parse, revise
from lattice_core.events import CloseEpoch, Event, Submit
from lattice_core.founding import founding as facts
from lattice_core.merit import Merits
from lattice_core.nexus import Nexus, Sink
from lattice_core.records import TABLES, Records
from lattice_core.rewards import NO_BONUS, Exponents, Sources
from lattice_core.settlement import Settlement
from lattice_core.standing import standing
from lattice_core.streams import AGENTS, bits
from lattice_sim.agents import Action, Claim, Operator, RequestWithdrawal, TopUp, User, View, Withdraw
from lattice_sim.checkpoint import Checkpoint
from lattice_sim.engine import Engine, engine_of
from lattice_sim.founding import Founding


class LatticeModel(mesa.Model):
    """A simulated network. `step()` is one epoch; `running` turns False after the last; `datacollector` has the table `epochs`.

    Nothing in it draws from `model.random` or `model.rng`: draws come from counter-based streams keyed by the config's seed.
    """

    def __init__(
        self,
        config: Config | str | Path,
        rng: int | None = None,
        journal: Sink | None = None,
        decisions: Sink | None = None,
        founding: Founding | None = None,
        **changes: object,
    ) -> None:
        """A network at t = 0: deployed, registered, funded and bonded.

        `config` is a Config or a YAML file, `rng` replaces its seed, and `changes` other values by dotted path, as in
        `LatticeModel("baseline.yaml", rng=7, **{"routing.policy": "random"})`. It is founded anew unless there is a `founding`
        of such a config already. Raises ConfigError, and TraceError for a trace.
        """
        if not isinstance(config, Config):
            path = Path(config)
            config = parse(path.read_text(encoding="utf-8"), str(path), base=str(path.parent))
        if rng is not None:
            changes["seed"] = int(rng)
        if changes:
            config = revise(config, changes)
        self._assemble(config, Nexus(config, journal, decisions), founding.chain if founding else chain_of(config))
        if founding is None:
            self.bridge = Bridge(self.chain, config)
            self._tell(self.bridge.open(config, 0))
            self.records.begin(self.bridge.drain())
        else:
            self.bridge = founding.begin(config)
            self._tell(facts(config))
            self.records.begin(founding.operations)

    def _assemble(self, config: Config, nexus: Nexus, chain: Chain) -> None:
        """Everything that the config tells; the bridge is still to come."""
        super().__init__(rng=config.seed)
        self.config = config
        self.epoch = 0
        self.epochs = config.sim.epochs
        self.branches: tuple[tuple[int, str], ...] = ()
        """Where another config took over: (epochs done, hash of the config before)."""
        self.bonus = NO_BONUS
        """What the last settlement paid as a bonus."""
        self.latest: dict[str, int | None] = {}
        """The last epoch's row of the table `epochs`."""
        self.merits = Merits(Exponents())
        self.records = Records(config)
        self.nexus = nexus
        self.engine: Engine = engine_of(config, nexus, self.records)
        self.chain = chain
        for user in census.users(config):
            User(self, user)
        for node in self.engine.nodes:
            Operator(self, node)
        self.datacollector = mesa.DataCollector({name: partial(_latest, column=name) for name in TABLES["epochs"]})

    def checkpoint(self) -> Checkpoint:
        """The network as it is between two epochs, to go on from with `resume`, here or in another process.

        Raises ConfigError if the engine or the chain cannot be saved, or if there are agents that the config does not tell of.
        """
        agents = list(self.agents)
        strangers = sorted({type(agent).__name__ for agent in agents if type(agent) not in (User, Operator)})
        if strangers:
            raise ConfigError(f"{self.config.name}: checkpoint: agents must be User and Operator only, not {strangers[0]}")
        try:
            state = {
                "kernel": self.nexus.snapshot(),
                "engine": self.engine.save(),
                "records": self.records.save(),
                "chain": self.chain.save(),
                "bridge": self.bridge.save(),
                "merits": self.merits.save(),
                "agents": [agent.save() for agent in agents],
                "bonus": tuple(self.bonus),
            }
        except NotImplementedError as error:
            raise ConfigError(f"{self.config.name}: checkpoint: {error}") from error
        return Checkpoint(self.config, self.epoch, self.branches, state)

    @classmethod
    def resume(cls, checkpoint: Checkpoint | str | Path, **changes: object) -> Self:
        """The network of a checkpoint, or of one in a file or a run directory, to go on as it would have.

        `changes` makes it another future: values by dotted path, as far as `checkpoint.FREE` has them, count from here on.
        Raises ConfigError.
        """
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = Checkpoint.read(checkpoint)
        before, config, state = checkpoint.config, checkpoint.future(changes), checkpoint.state
        nexus = Nexus.restore(before, state["kernel"])
        nexus.revise(config)
        model = cls.__new__(cls)
        model._assemble(config, nexus, chain_of(config))
        model.engine.load(state["engine"])
        model.records.load(state["records"])
        model.chain.load(state["chain"])
        model.bridge = Bridge(model.chain, config, saved=state["bridge"])
        model.merits.load(state["merits"])
        for agent, saved in zip(model.agents, state["agents"], strict=True):
            agent.load(saved)
        model.bonus = Sources(*state["bonus"])
        model.branches = checkpoint.branches
        if config != before:
            model.branches += ((checkpoint.epoch, before.sha256()),)
        model._catch_up(checkpoint.epoch)
        return model

    def _catch_up(self, epoch: int) -> None:
        """Count the epochs done, and give Mesa's collector their rows."""
        self.epoch = self.steps = epoch
        self.running = epoch < self.epochs
        columns = self.records.columns("epochs")
        for name, values in self.datacollector.model_vars.items():
            values += list(columns[name])

    @property
    def t_ns(self) -> int:
        """Simulated time, ns."""
        return self.engine.now_ns

    def step(self) -> None:
        """One epoch. Raises Reverted, with the epoch on record, if a settlement does not go through."""
        self.decide()
        self.serve()
        settled, failure = self.settle()
        self.observe(settled)
        self.epoch += 1
        self.running = self.epoch < self.epochs and failure is None
        if failure is not None:
            raise failure

    def decide(self) -> None:
        """Every agent proposes; proposals are carried out in an order that nobody can foresee or choose."""
        accounts, nodes = self.nexus.table("accounts"), self.nexus.table("nodes")
        locked_epochs = 2 * self.config.chain.grace_epochs + self.config.chain.collection_epochs + 1
        view = View(self.epoch, self.t_ns, locked_epochs, accounts[accounts["known"] == 1], nodes[nodes["key"] != 0])
        proposed = [(agent.key, actions) for agent in self.agents if (actions := list(agent.propose(view)))]
        proposed.sort(key=lambda one: (bits(self.config.seed, AGENTS, one[0], self.epoch), one[0]))
        self.perform([action for _, actions in proposed for action in actions])

    def perform(self, actions: list[Action]) -> None:
        """Send the actions to the chain and tell the kernel what came of them."""
        top_ups = [(action.account, action.nlai) for action in actions if isinstance(action, TopUp)]
        self._tell(self.bridge.deposit(top_ups, self.t_ns))
        for action in actions:
            match action:
                case RequestWithdrawal(account, nlai):
                    self._tell(self.bridge.request_withdrawal(account, nlai, self.t_ns))
                case Withdraw(account):
                    self._tell(self.bridge.withdraw(account, self.t_ns))
                case Claim(node):
                    self.bridge.claim(node)

    def serve(self) -> None:
        """The epoch's requests."""
        self.engine.run_until((self.epoch + 1) * self.config.chain.epoch_ns)

    def settle(self) -> tuple[list[Settlement], Reverted | None]:
        """One batch to the chain, in chunks, and a report on the nodes; what was settled, and the revert that stopped it."""
        self.bonus = NO_BONUS
        self.bridge.reach_end(self.epoch)
        self.engine.tell(CloseEpoch(self.t_ns, self.epoch))
        submissions, self.engine.submissions = self.engine.submissions, []
        settled: list[Settlement] = []
        for number, submission in enumerate(submissions):
            try:
                fact, chunk = self.bridge.settle(submission.batch, self.t_ns)
            except Reverted as failure:
                self._give_up(submissions[number:])
                return settled, failure
            self.engine.tell(fact)
            settled.append(chunk)
        self.bridge.report(self.epoch, standing(self.nexus, self.t_ns))
        if self.config.economics.bonus.per_day_nlai:
            self.bonus = self.bridge.share_bonus(self.merits.weigh(self.nexus, self.t_ns))
        if not any(chunk.skipped for chunk in settled):
            self.engine.forget(self.epoch)
        return settled, None

    def _give_up(self, submissions: list[Submit]) -> None:
        for submission in submissions:
            self.engine.tell(self.bridge.failed(submission.batch, self.t_ns))

    def _tell(self, facts: Iterable[Event]) -> None:
        for fact in facts:
            self.engine.tell(fact)

    def observe(self, settled: list[Settlement]) -> None:
        """Check that no nanoLAI and no request is lost, and write the epoch down."""
        self.bridge.check_money()
        invariants.check(self.nexus)
        operations, busy_ns, balance_nlai = self.bridge.drain(), self.engine.busy_ns(), self.bridge.treasury_balance_nlai()
        self.records.observe(self.epoch, self.t_ns, self.nexus, operations, settled, busy_ns, self.bonus, balance_nlai)
        self.latest = {name: values[-1] for name, values in self.records.columns("epochs").items()}
        self.datacollector.collect(self)


def _latest(model: LatticeModel, column: str) -> int | None:
    """A column of the last epoch's row, for Mesa."""
    value: int | None = model.latest[column]
    return value

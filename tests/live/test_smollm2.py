"""A real open model, pulled from the package registry: its nodes make sense, and answer alike alone and together."""

import pytest

from lattice_live.models.folder import ModelFolder
from lattice_live.node.engine import Engine, Job
from lattice_live.node.sampling import Sampling
from tests.live.networks import PULLED
from tests.require import require

FOLDER = PULLED / "smollm2-135m" / "int8"


@pytest.fixture(scope="module")
def model():
    require(FOLDER.is_dir(), "smollm2-135m: lattice model pull smollm2-135m")
    return ModelFolder.open(FOLDER)


def answers(engine, jobs):
    """The tokens of each job's answer; as many run at once as there are slots."""
    waiting, tokens = list(jobs), {job.id: [] for job in jobs}
    while waiting or engine.in_flight:
        while waiting and engine.free_slots:
            engine.submit(waiting.pop(0))
        for token in engine.step():
            tokens[token.job].append(token.token)
    return tokens


def test_it_counts(model):
    prompt = model.text.chat([{"role": "user", "content": "Count from 1 to 5."}])
    engine = Engine(model, slots=1, context=256, threads=2)
    (ids,) = answers(engine, [Job(0, prompt, Sampling(temperature=0.0), 32)]).values()
    words = model.text.detokeniser()
    text = "".join(map(words.feed, ids)) + words.finish()
    positions = [text.find(number) for number in "12345"]
    assert -1 not in positions
    assert positions == sorted(positions)


def test_six_chats_at_once_answer_as_each_does_alone(model):
    questions = [
        "Name a colour.",
        "Why is the sky blue?",
        "Write a haiku about rain.",
        "What is a river?",
        "Say hello.",
        "2 + 2?",
    ]
    jobs = [
        Job(n, model.text.chat([{"role": "user", "content": question}]), Sampling(temperature=n % 2 * 0.8, seed=n), 24)
        for n, question in enumerate(questions)
    ]
    together = answers(Engine(model, slots=4, context=256, threads=2), jobs)
    alone = answers(Engine(model, slots=1, context=256, threads=2), jobs)
    assert together == alone

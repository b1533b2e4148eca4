"""Counter-based random streams: a draw is a pure function of (seed, subsystem, entity key, index).

Nothing is consumed, so adding a node, a user or a policy changes no other entity's draws (INV-8). Mixing is SplitMix64's
finaliser (Steele, Lea & Flood 2014) applied once per word; jump hash is Ertl's JumpBackHash (2024), of constant expected cost;
the normal quantile is Wichura's AS 241; gamma draws are Marsaglia & Tsang 2000.
"""

import math
from hashlib import blake2b

import numpy as np

from lattice_core.jit import jit

# Subsystems. A number, once given, is never given again.
ROUTING = 1
QUALITY = 2
PROBES = 3
ARRIVALS = 4
TOKENS = 5
USERS = 6
FAILURES = 7
AVAILABILITY = 8
AUDITS = 10
PATIENCE = 11
AGENTS = 12
BURST = 13
SAMPLES = 14
SESSIONS = 15
SILENCE = 16
JITTER = 17

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)
_ZERO, _ONE = np.uint64(0), np.uint64(1)
_S1, _S2, _S4, _S8, _S11, _S16, _S27, _S30, _S31, _S32 = (np.uint64(n) for n in (1, 2, 4, 8, 11, 16, 27, 30, 31, 32))


def entity_key(population: str, ordinal: int) -> int:
    """Key of a population's n-th entity: 63 bits of BLAKE2b over its name and ordinal, so that it survives any reordering."""
    digest = blake2b(f"{population}\x00{ordinal}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@jit
def mix(word: int | np.uint64, more: int | np.uint64) -> np.uint64:
    """Fold the 64 bits of `more` into those of `word`."""
    z = (np.uint64(word) ^ np.uint64(more)) + _GOLDEN  # an int64 beside a uint64 would make a float
    z = (z ^ (z >> _S30)) * _MIX1
    z = (z ^ (z >> _S27)) * _MIX2
    return z ^ (z >> _S31)


@jit
def bits(seed: int, subsystem: int, key: int | np.uint64, index: int) -> np.uint64:
    """64 random bits of the stream (seed, subsystem, key) at `index`."""
    return mix(mix(mix(mix(np.uint64(seed), np.uint64(subsystem)), np.uint64(key)), np.uint64(index)), _GOLDEN)


@jit
def unit(word: np.uint64) -> float:
    """A random word as a float64 in the open interval (0, 1)."""
    return (float(word >> _S11) + 0.5) * (1.0 / 9007199254740992.0)


@jit
def uniform(seed: int, subsystem: int, key: int, index: int) -> float:
    """A float64 in the open interval (0, 1)."""
    return unit(bits(seed, subsystem, key, index))


@jit
def exponential(seed: int, subsystem: int, key: int, index: int) -> float:
    """An exponential draw of mean 1."""
    return -math.log(uniform(seed, subsystem, key, index))


@jit
def normal_quantile(p: float) -> float:
    """The standard normal quantile of p in (0, 1) (AS 241, PPND16; relative error about 1e-16)."""
    q = p - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return (
            q
            * (
                ((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r
                + 45921.953931549871457) * r + 13731.693765509461125) * r + 1971.5909503065514427) * r
                + 133.14166789178437745) * r + 3.387132872796366608
            )
            / (
                ((((((5226.495278852545925 * r + 28729.085735721942674) * r + 39307.89580009271061) * r
                + 21213.794301586595867) * r + 5394.1960214247511077) * r + 687.1870074920579083) * r
                + 42.313330701600911252) * r + 1.0
            )
        )  # fmt: skip
    r = math.sqrt(-math.log(p if q < 0.0 else 1.0 - p))
    if r <= 5.0:
        r -= 1.6
        x = (
            ((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r
            + 1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.7694972214606914055) * r
            + 4.6303378461565452959) * r + 1.42343711074968357734
        ) / (
            ((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r
            + 0.14810397642748007459) * r + 0.68976733498510000455) * r + 1.6763848301838038494) * r
            + 2.05319162663775882187) * r + 1.0
        )  # fmt: skip
    else:
        r -= 5.0
        x = (
            ((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 0.0012426609473880784386) * r
            + 0.026532189526576123093) * r + 0.29656057182850489123) * r + 1.7848265399172913358) * r
            + 5.4637849111641143699) * r + 6.6579046435011037772
        ) / (
            ((((((2.04426310338993978564e-15 * r + 1.4215117583164458887e-7) * r + 1.8463183175100546818e-5) * r
            + 7.868691311456132591e-4) * r + 0.0148753612908506148525) * r + 0.13692988092273580531) * r
            + 0.59983220655588793769) * r + 1.0
        )  # fmt: skip
    return -x if q < 0.0 else x


@jit
def normal(seed: int, subsystem: int, key: int, index: int) -> float:
    """A standard normal draw."""
    return normal_quantile(uniform(seed, subsystem, key, index))


@jit
def gamma(shape: float, seed: int, subsystem: int, key: int, index: int) -> float:
    """A gamma draw of scale 1 and `shape` > 0."""
    boosted = shape < 1.0
    d = (shape + 1.0 if boosted else shape) - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    word = bits(seed, subsystem, key, index)
    draws = np.uint64(1)
    while True:
        x = normal_quantile(unit(mix(word, draws)))
        u = unit(mix(word, draws + _ONE))
        draws += np.uint64(2)
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            x2 = x * x
            if u < 1.0 - 0.0331 * x2 * x2 or math.log(u) < 0.5 * x2 + d - d * v + d * math.log(v):
                break
    if boosted:
        return d * v * math.exp(math.log(unit(mix(word, _ZERO))) / shape)
    return d * v


@jit
def beta(a: float, b: float, seed: int, subsystem: int, key: int, index: int) -> float:
    """A Beta(a, b) draw."""
    x = gamma(a, seed, subsystem, key, 2 * index)
    y = gamma(b, seed, subsystem, key, 2 * index + 1)
    return x / (x + y)


@jit
def jump_hash(word: int | np.uint64, buckets: int) -> int:
    """A bucket in [0, buckets) for the 64 bits of `word`; one more bucket moves 1/buckets of the words.

    Bucket b > 0 is *active* with probability 1/(b + 1), and the last active one below `buckets` is the bucket. Bit k of the
    word says whether [2ᵏ, 2ᵏ⁺¹) has an active bucket; its last is then uniform in it, and each before that uniform below 2ᵏ⁺¹.
    """
    x = np.uint64(word)
    mask = np.uint64(max(buckets - 1, 0))
    for shift in (_S1, _S2, _S4, _S8, _S16, _S32):
        mask |= mask >> shift
    levels = x & mask
    while levels != _ZERO:
        top = levels
        for shift in (_S1, _S2, _S4, _S8, _S16, _S32):
            top |= top >> shift
        top -= top >> _ONE
        draw = mix(x, top)
        bucket = top + (draw & (top - _ONE))
        while np.int64(bucket) >= buckets:
            draw = mix(draw, top)
            bucket = draw & (top + top - _ONE)
        if bucket >= top:
            return int(np.int64(bucket))
        levels ^= top
    return 0

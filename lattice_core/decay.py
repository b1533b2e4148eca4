"""How amounts on the chain halve over time: the shadow of `contracts/src/Decay.sol`, to the nanoLAI."""


def decayed(value: int, elapsed_s: int, half_life_s: int) -> int:
    """What is left of `value` after `elapsed_s`: half each half-life, and on a straight line in between."""
    halvings, rest_s = divmod(elapsed_s, half_life_s)
    if halvings >= 64:
        return 0
    halved = value >> halvings
    return halved - halved * rest_s // (2 * half_life_s)

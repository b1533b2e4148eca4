"""What a leg costs: prices are nanoLAI per million tokens, fees are rounded up once, to the nanoLAI."""

from lattice_core.jit import jit
from lattice_core.units import PPM


@jit
def fee_nlai(price_in: int, price_out: int, prompt_tok: int, output_tok: int) -> int:
    """⌈(price_in · prompt_tok + price_out · output_tok) / 10⁶⌉; the bounds of `units` keep the sum below 2⁶³."""
    return (price_in * prompt_tok + price_out * output_tok + PPM - 1) // PPM

"""Money as integers.

Rules
- An amount is an integer of nano-units (10**-9) of one currency: "nano" for short. A signed
  64-bit column then holds 9.2 thousand million units, and sums are exact in any order.
- A price of a token is an integer of pico-units (10**-12): a price a million tokens with up to
  6 decimals is exact.
- An attempt's cost is rounded once, half to even, from pico to nano. With prices of up to 3
  decimals a million tokens nothing is rounded at all; else an attempt is off by at most half a
  nano, so that even ten million attempts stay within half a cent of the exact sum.
"""

from __future__ import annotations

from decimal import Decimal

NANO = 10**9
PICO_PER_NANO = 1000
MAX_NANO = 2**63 - 1


def divide_half_even(numerator: int, denominator: int) -> int:
    """The nearest integer to `numerator / denominator` (> 0); a tie goes to the even one."""
    quotient, rest = divmod(numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient % 2):
        quotient += 1
    return quotient


def nano_from_pico(pico: int) -> int:
    """Pico-units rounded to nano-units, half to even."""
    return divide_half_even(pico, PICO_PER_NANO)


def nano_from_decimal(amount: Decimal) -> int:
    """An amount in whole currency units as nano-units, rounded half to even.

    Raises `ValueError` for an amount that is not finite, negative, or does not fit.
    """
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{amount} is not an amount of money; give a number >= 0")
    numerator, denominator = amount.as_integer_ratio()
    nano = divide_half_even(numerator * NANO, denominator)
    if nano > MAX_NANO:
        raise ValueError(f"{amount} is too large; at most {MAX_NANO // NANO} can be kept")
    return nano


def cents(nano: int) -> int:
    """Nano-units as hundredths of the currency unit, rounded half to even."""
    return divide_half_even(nano, NANO // 100)


def format_money(nano: int, currency: str, *, decimals: int = 4) -> str:
    """For people: `0.0123 USD`. A non-zero amount below the last digit shows as `<0.0001`."""
    scale = 10**decimals
    rounded = divide_half_even(nano * scale, NANO)
    if nano and not rounded:
        return f"{'<' if nano > 0 else '>-'}{1 / scale:.{decimals}f} {currency}"
    sign = "-" if rounded < 0 else ""
    whole, fraction = divmod(abs(rounded), scale)
    return f"{sign}{whole:,}.{fraction:0{decimals}d} {currency}"

"""Hadamard matrices: square, of +1 and −1, with rows at right angles to each other.

Sylvester doubles one: [[H, H], [H, −H]]. Paley makes one of order q + 1 for a prime q = 3 mod 4, and of order 2(q + 1) for a
prime q = 1 mod 4, from the squares modulo q. Together they give every width of usual networks (2^k, 3·2^k, 5·2^k,
7·2^k, 9·2^k, ...).
Source: Paley 1933, "On orthogonal matrices".
"""

import torch
from torch import Tensor


def hadamard(width: int) -> Tensor | None:
    """A Hadamard matrix [width, width] in float64 whose rows have length 1; None where these constructions give none."""
    found = _signs(width)
    return None if found is None else found / width**0.5


def _signs(width: int) -> Tensor | None:
    """The same of +1 and −1."""
    if width == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    if width % 2 == 0 and (half := _signs(width // 2)) is not None:
        return torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), half)
    if width % 4 == 0 and _is_prime(width - 1):
        return _paley(width - 1)
    if width % 4 == 0 and (q := width // 2 - 1) % 4 == 1 and _is_prime(q):
        return _paley_double(q)
    return None


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, int(number**0.5) + 1))


def _conference(q: int, corner: float) -> Tensor:
    """[[0, 1], [±1, Q]] with Q_ab = 1 where a − b is a square modulo q, −1 where it is none, 0 where it is 0."""
    squares = {x * x % q for x in range(1, q)}
    sign = torch.tensor([0.0] + [1.0 if k in squares else -1.0 for k in range(1, q)], dtype=torch.float64)
    index = torch.arange(q)
    inner = sign[(index[:, None] - index[None, :]) % q]
    found = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    found[0, 1:], found[1:, 0], found[1:, 1:] = 1, corner, inner
    return found


def _paley(q: int) -> Tensor:
    """Order q + 1, q = 3 mod 4: the skew conference matrix and the identity."""
    return _conference(q, -1.0) + torch.eye(q + 1, dtype=torch.float64)


def _paley_double(q: int) -> Tensor:
    """Order 2(q + 1), q = 1 mod 4: each 0 of the symmetric conference matrix, and each ±1, becomes two by two."""
    zero = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    one = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    conference = _conference(q, 1.0)
    return torch.kron(conference, one) + torch.kron(torch.eye(q + 1, dtype=torch.float64), zero)

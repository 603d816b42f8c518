"""``python -m infra.simulate``: what tickets cost, by the functions that production calls."""

import infra.contract  # noqa: F401 - makes functions/ importable

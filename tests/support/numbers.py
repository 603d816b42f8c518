"""Numbers that tests expect, by name: those of the ruleset in force, and what usual images cost.

A test that is about a rule says the rule's number itself, once, in tests/unit/test_ruleset.py. All
others take it from here, so that another number in ``horde.rules.ruleset`` turns no other test red.
"""

from horde.rules.ruleset import IN_FORCE

FLOOR = IN_FORCE.floor
"""A new account's balance in kudos; none falls below it."""
FLOOR_ANONYMOUS = IN_FORCE.floor_anonymous
TAX_SHARED = IN_FORCE.tax_shared
"""Kudos of one image that may be shared."""
TAX = IN_FORCE.tax_private
"""Kudos of one image that is not."""
LIFE_S = IN_FORCE.request_life_s
OVER_S = LIFE_S + 1
"""Seconds after which a request that nobody touched is over."""
MAX_FAULTS = IN_FORCE.max_faults
CONCURRENCY = IN_FORCE.concurrency
MAX_STEPS = IN_FORCE.max_steps

PRICE = 7
"""Kudos of a usual image, without tax: 512 x 512 at 30 steps are 6.50, half up."""
REWARD = 7
"""What its worker earns."""
PIXELSTEPS = 512 * 512 * 30
"""Of a usual image."""
COST = PRICE + TAX
COST_SHARED = PRICE + TAX_SHARED

SMALL = {"width": 64, "height": 64, "steps": 4}
"""The parameters of an image that is drawn in no time, even on a CPU."""
SMALL_PRICE = 1
"""Kudos of such an image, without tax; its worker earns as much."""
SMALL_PIXELSTEPS = 64 * 64 * 4
SMALL_COST = SMALL_PRICE + TAX
SMALL_COST_SHARED = SMALL_PRICE + TAX_SHARED

HANG_S = 300
"""Whatever takes this long hangs. No test fails for being slower than something shorter."""

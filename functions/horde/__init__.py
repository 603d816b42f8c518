"""What the Lambdas share: the rules as pure functions, the table, the edge."""

VERSION = "0.1.0"

"""The code that the Lambdas share: records, rules, the table and the HTTP edge."""

VERSION = "0.1.0"

"""The double of IAM sees each part of a transaction."""

import pytest

from tests.support.rights import needed

KEY = {"pk": {"S": "A"}, "sk": {"S": "A"}}


@pytest.mark.parametrize("verb", ["Put", "Update", "Delete", "ConditionCheck"])
def test_a_transaction_needs_the_right_to_each_of_its_parts(verb: str) -> None:
    parts = [{"Put": {"Item": KEY}}, {verb: {"Key": KEY}}]
    action = "ConditionCheckItem" if verb == "ConditionCheck" else f"{verb}Item"
    found = needed("dynamodb", "TransactWriteItems", {"TransactItems": parts})
    assert found == {"dynamodb:PutItem", f"dynamodb:{action}"}
    assert needed("s3", "GetObject", {}) == {"s3:GetObject"}

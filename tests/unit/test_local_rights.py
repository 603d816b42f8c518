"""The local cloud asks for the rights that AWS has."""

from infra.local.ministack import as_on_aws, iam


def test_a_batch_of_messages_needs_the_right_to_send_one() -> None:
    named = as_on_aws(iam.extract_iam_action)

    def action(target: str) -> str | None:
        headers = {"x-amz-target": f"AmazonSQS.{target}", "content-type": "application/json"}
        return named("sqs", "POST", "/", headers, b"{}", {})

    assert iam.extract_iam_action.__module__ == "ministack.core.iam_actions"
    assert action("SendMessageBatch") == action("SendMessage") == "sqs:SendMessage"
    assert action("ReceiveMessage") == "sqs:ReceiveMessage"
    assert as_on_aws(lambda: None)() is None

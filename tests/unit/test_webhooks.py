"""Webhooks are signed as Standard Webhooks has it, and secrets are read as it has them."""

import pytest

from notify.caller import LONGEST_REST_SECONDS, LONGEST_RETRY_SECONDS, plan_retry
from notify.outbound import Answer
from notify.signing import mint_secret, read_secret, sign, write_secret

PUBLISHED = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
"""The secret of the specification's own example."""


def test_a_signature_is_the_one_of_the_specifications_example() -> None:
    message = "msg_p5jXN8AQM9LWM0D4loKWxJek"
    headers = sign(read_secret(PUBLISHED), message, 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": message,
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_secret_is_read_as_it_was_written_and_no_two_are_the_same() -> None:
    secret = mint_secret()
    assert read_secret(write_secret(secret)) == secret
    assert mint_secret() != secret
    assert write_secret(read_secret(PUBLISHED)) == PUBLISHED


@pytest.mark.parametrize("text", ["", "whsec_", PUBLISHED.removeprefix("whsec_"), "whsec_hunter2hunter2!"])
def test_what_is_no_secret_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="must") as refusal:
        read_secret(text)
    assert "hunter2" not in str(refusal.value)


def test_pauses_double_up_to_an_hour_and_a_receiver_may_ask_for_no_more_than_that() -> None:
    for attempt in range(1, 2_000):
        longest = min(2.0**attempt, LONGEST_RETRY_SECONDS) if attempt < 20 else LONGEST_RETRY_SECONDS
        delay, rest = plan_retry(attempt, None)
        assert delay is not None
        assert longest / 2 <= delay <= longest
        assert rest == 0
    assert plan_retry(1, Answer(429, 100.0)) == (100.0, 100.0)
    assert plan_retry(1, Answer(503, 1e9)) == (LONGEST_REST_SECONDS, LONGEST_REST_SECONDS)
    assert plan_retry(1, Answer(410, 5.0)) == (None, 0.0)

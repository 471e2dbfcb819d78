"""A push message is what browsers and push services expect, and nobody else can read it."""

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from notify.errors import ConfigurationError
from notify.settings import Settings
from notify.webpush import (
    MAX_PLAINTEXT,
    RECORD_BYTES,
    Signer,
    Subscription,
    UnusableSubscription,
    Vapid,
    decode_base64url,
    encode_base64url,
    encrypt,
    name_topic,
    read_private_key,
    read_subscription,
)

# RFC 8291, appendix A.
UA_PUBLIC = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"
AUTH = "BTBZMqHH6r4Tts7J_aSIgg"
AS_PRIVATE = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"
SALT = "DGv6ra1nlYgDCS1FRnbzlw"
PLAINTEXT = b"When I grow up, I want to be a watermelon"
MESSAGE = (
    "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_y"
    "l95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
)

SUBSCRIPTION = read_subscription("https://push.example/1", UA_PUBLIC, AUTH)


def test_the_rfcs_example_comes_out_as_printed() -> None:
    key = read_private_key(AS_PRIVATE)
    assert encode_base64url(encrypt(PLAINTEXT, SUBSCRIPTION, key=key, salt=decode_base64url(SALT))) == MESSAGE


def test_a_message_is_never_encrypted_the_same_way_twice() -> None:
    assert encrypt(PLAINTEXT, SUBSCRIPTION) != encrypt(PLAINTEXT, SUBSCRIPTION)


def test_what_fits_fills_a_record_and_no_more() -> None:
    assert len(encrypt(b"x" * MAX_PLAINTEXT, SUBSCRIPTION)) == RECORD_BYTES
    with pytest.raises(ValueError, match="fit"):
        encrypt(b"x" * (MAX_PLAINTEXT + 1), SUBSCRIPTION)


@pytest.mark.parametrize(
    ("p256dh", "auth", "field"),
    [
        ("", AUTH, "p256dh"),
        ("!", AUTH, "p256dh"),
        (UA_PUBLIC[:-4], AUTH, "p256dh"),
        ("BA" + UA_PUBLIC[2:], AUTH, "p256dh"),  # not a point of the curve
        (UA_PUBLIC, "", "auth"),
        (UA_PUBLIC, AUTH[:-4], "auth"),
        (UA_PUBLIC, "\u00e4" * 22, "auth"),
    ],
)
def test_keys_that_encrypt_nothing_are_refused_by_name(p256dh: str, auth: str, field: str) -> None:
    with pytest.raises(UnusableSubscription) as refusal:
        read_subscription("https://push.example/1", p256dh, auth)
    assert refusal.value.field == field


def test_keys_with_padding_or_in_plain_base64_are_the_same_keys() -> None:
    plain = UA_PUBLIC.replace("-", "+").replace("_", "/") + "="
    assert read_subscription("https://push.example/1", plain, AUTH + "==") == SUBSCRIPTION


def test_a_topic_has_32_characters_and_differs_by_subscription() -> None:
    other = Subscription(SUBSCRIPTION.endpoint, SUBSCRIPTION.p256dh, bytes(16))
    assert len(name_topic(SUBSCRIPTION, "score")) == 32
    assert name_topic(SUBSCRIPTION, "score") == name_topic(SUBSCRIPTION, "score")
    assert len({name_topic(SUBSCRIPTION, "score"), name_topic(SUBSCRIPTION, "price"), name_topic(other, "score")}) == 3


def test_the_service_says_who_it_is() -> None:
    vapid = Vapid(read_private_key(AS_PRIVATE), "mailto:ops@shop.example")
    scheme, _, rest = vapid.authorize("https://push.example").partition(" ")
    fields = dict(part.split("=", 1) for part in rest.split(", "))
    assert scheme == "vapid"
    assert fields["k"] == vapid.public_key
    claims = jwt.decode(
        fields["t"], read_private_key(AS_PRIVATE).public_key(), algorithms=["ES256"], audience="https://push.example"
    )
    assert claims["sub"] == "mailto:ops@shop.example"


@pytest.mark.parametrize("kind", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_an_operators_key_may_be_pem(kind: PrivateFormat) -> None:
    pem = read_private_key(AS_PRIVATE).private_bytes(Encoding.PEM, kind, NoEncryption()).decode()
    assert Vapid(read_private_key(pem)).public_key == Vapid(read_private_key(AS_PRIVATE)).public_key
    assert (
        Vapid(read_private_key(pem.replace("\n", "\\n"))).public_key == Vapid(read_private_key(AS_PRIVATE)).public_key
    )


def test_a_key_that_is_none_is_refused_in_words() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for value in (
        "/no/such/file",
        encode_base64url(bytes(32)),
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        pem,
    ):
        with pytest.raises(ConfigurationError, match="NOTIFY_VAPID_PRIVATE_KEY"):
            read_private_key(value)
    with pytest.raises(ValueError, match="NOTIFY_VAPID_SUBJECT"):
        Settings(vapid_subject="ops@shop.example", _env_file=None)


async def test_a_key_is_minted_once_and_the_operators_comes_first() -> None:
    kept: list[bytes] = []

    async def keep(candidate: bytes) -> bytes:
        kept.append(candidate)
        return kept[0]

    signers = [Signer(Settings(_env_file=None), keep) for _ in range(2)]
    keys = [(await signer.get()).public_key for signer in (*signers, *signers)]
    assert len(set(keys)) == 1
    assert len(kept) == 2
    chosen = Settings(vapid_private_key=AS_PRIVATE, _env_file=None)
    assert (await Signer(chosen, keep).get()).public_key == Vapid(read_private_key(AS_PRIVATE)).public_key
    assert AS_PRIVATE not in repr(chosen)

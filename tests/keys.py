"""Keys as an issuer of tokens has them, and what it makes of them."""

from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
WEAK_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - to be refused
P256 = ec.generate_private_key(ec.SECP256R1())
OTHER_P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
SECRET = "an HS256 secret of 32 bytes or more"
FAR = 4_000_000_000  # unix seconds; an `exp` no test lives to see

Jwk = dict[str, Any]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def jwk_of(private: PrivateKey, kid: str | None = None, **more: object) -> Jwk:
    match private:
        case rsa.RSAPrivateKey():
            jwk = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case ec.EllipticCurvePrivateKey():
            jwk = ECAlgorithm.to_jwk(private.public_key(), as_dict=True)
        case _:
            jwk = OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
    return jwk | ({"kid": kid} if kid is not None else {}) | more


def pem_of(private: PrivateKey) -> str:
    return private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def token_of(private: PrivateKey, kid: str | None = None, **claims: object) -> str:
    algorithm = {rsa.RSAPrivateKey: "RS256", ed25519.Ed25519PrivateKey: "EdDSA"}
    name = next((name for kind, name in algorithm.items() if isinstance(private, kind)), "ES256")
    headers = None if kid is None else {"kid": kid}
    return jwt.encode({"sub": "alice", "exp": FAR} | claims, private, name, headers)

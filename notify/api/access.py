"""Who is calling, for REST: bearer tokens and scopes (contract, section 3)."""

from notify.auth import Authenticator, Identity, Scope
from notify.errors import Forbidden, InvalidToken, Unauthenticated


async def require(authenticator: Authenticator, authorization: str | None, *scopes: Scope) -> Identity:
    """Return who calls, if the token allows one of `scopes`. Raises Unauthenticated or Forbidden."""
    if not authorization:
        raise Unauthenticated("send a token: `Authorization: Bearer <JWT>`")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the Authorization header must be `Bearer <JWT>`")
    token = token.strip()
    identity = authenticator.recall(token)
    if identity is None:
        try:
            identity = await authenticator.verify(token)
        except InvalidToken as error:
            raise Unauthenticated(str(error)) from None
    for scope in scopes:
        if identity.may(scope):
            return identity
    raise Forbidden(f"the token lacks the scope {' or '.join(scopes)}")

"""The token endpoint: three ways to authenticate, RFC 6749's errors, tokens that expire."""

import base64
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwk, jwt

from ai_task_processor.sandbox.answers import parsed
from ai_task_processor.sandbox.tokens import Credentials, TokenEndpoint

GRANT = {"grant_type": "client_credentials"}
ODD = Credentials("my:client", "p+a s/s%ö")


def ask(endpoint: TokenEndpoint, form: dict[str, str], authorization: str = "") -> tuple[int, dict[str, object]]:
    response = endpoint.answer(authorization, urlencode(form).encode())
    body = parsed(response.body) if isinstance(response.body, bytes) else None
    assert isinstance(body, dict)
    assert response.headers["Cache-Control"] == "no-store"
    return response.status, body


def basic(client_id: str, secret: str) -> str:
    joined = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return f"Basic {base64.b64encode(joined.encode()).decode()}"


def test_basic_and_post_give_a_token() -> None:
    """Both secret methods work, with characters that must be form-encoded, and record scope and audience."""
    endpoint = TokenEndpoint(ODD, lambda: 0.0)
    wish = {"scope": "read", "audience": "tasks"}
    status, body = ask(endpoint, GRANT | wish, basic(ODD.client_id, ODD.client_secret))
    assert (status, body["expires_in"], body["token_type"]) == (200, 3600, "bearer")
    status, _ = ask(endpoint, GRANT | {"client_id": ODD.client_id, "client_secret": ODD.client_secret})
    assert status == 200
    assert [grant.method for grant in endpoint.grants] == ["client_secret_basic", "client_secret_post"]
    assert (endpoint.grants[0].scope, endpoint.grants[0].audience) == ("read", "tasks")


def test_tokens_expire() -> None:
    """A token is accepted until its time is over, and a foreign one never."""
    now = [0.0]
    endpoint = TokenEndpoint(ODD, lambda: now[0])
    _, body = ask(endpoint, GRANT, basic(ODD.client_id, ODD.client_secret))
    bearer = f"Bearer {body['access_token']}"
    assert endpoint.accepts(bearer)
    assert not endpoint.accepts(bearer + "x")
    assert not endpoint.accepts("")
    now[0] = 3600.0
    assert not endpoint.accepts(bearer)


@pytest.mark.parametrize(
    ("form", "authorization", "status", "error"),
    [
        ({}, "", 400, "invalid_request"),
        (GRANT, "", 401, "invalid_client"),
        (GRANT, basic(ODD.client_id, "wrong"), 401, "invalid_client"),
        (GRANT, "Basic !!!", 401, "invalid_client"),
        ({"grant_type": "password"}, basic(ODD.client_id, ODD.client_secret), 400, "unsupported_grant_type"),
    ],
)
def test_errors_follow_rfc_6749(form: dict[str, str], authorization: str, status: int, error: str) -> None:
    answered, body = ask(TokenEndpoint(ODD, lambda: 0.0), form, authorization)
    assert (answered, body["error"]) == (status, error)


def assertion(key: jwk.ECKey, **claims: object) -> dict[str, str]:
    good = {"iss": "c", "sub": "c", "aud": "http://here/oauth2/token", "exp": 4_000_000_000, "jti": "1"}
    signed = jwt.encode({"alg": "ES256"}, good | claims, key)
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    return GRANT | {"client_assertion_type": kind, "client_assertion": signed}


def test_private_key_jwt_is_verified() -> None:
    """A signed assertion is good once; a foreign key, subject or audience, an expired or missing one is not."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    endpoint = TokenEndpoint(Credentials("c", "s", public.decode()), lambda: 0.0)
    endpoint.audiences.add("http://here/oauth2/token")
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key = jwk.ECKey.import_key(pem)
    claims: list[dict[str, Any]] = [{"aud": "http://elsewhere"}, {"sub": "d"}, {"exp": 1}, {"jti": None}]
    wrong = [
        assertion(jwk.ECKey.generate_key("P-256")),
        *(assertion(key, **some) for some in claims),
        assertion(key) | {"client_assertion": "nonsense"},
        GRANT | {"client_id": "c", "client_secret": "s"},
    ]
    assert [ask(endpoint, form)[0] for form in wrong] == [401] * len(wrong)
    good = assertion(key)
    assert [ask(endpoint, good)[0], ask(endpoint, good)[0]] == [200, 401]

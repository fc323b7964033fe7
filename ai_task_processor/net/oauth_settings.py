"""The settings of the OAuth2 client."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import Endpoint, Group, Lower, Printable, setting

AuthMethod = Annotated[Literal["client_secret_basic", "client_secret_post", "private_key_jwt"], Lower]


class AuthSettings(Group):
    """The OAuth2 client and its token endpoint."""

    section = "OAuth2"

    #: one DNS label: it becomes part of a host name
    project_slug: Annotated[str, Field(pattern="^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")] | None = setting(
        "ORY_PROJECT_SLUG",
        "the slug alone (letters, digits, dashes) of your Ory project; or set OAUTH2_TOKEN_URL",
        example="your-project-slug",
    )
    custom_token_url: Endpoint | None = setting(
        "OAUTH2_TOKEN_URL", "the token endpoint of another OAuth2 server; wins over ORY_PROJECT_SLUG"
    )
    client_id: Annotated[str, Printable] = setting(
        "OAUTH2_CLIENT_ID",
        "the id of your machine-to-machine OAuth2 client",
        ...,
        example="your_client_id",
    )
    client_secret: Annotated[SecretStr | None, Printable] = setting(
        "OAUTH2_CLIENT_SECRET",
        "the secret of your OAuth2 client, or OAUTH2_CLIENT_SECRET_FILE to a file that holds it",
        example="your_client_secret",
    )
    scope: str = setting("OAUTH2_SCOPE", "the scopes to ask for", "read write")
    audience: str | None = setting("OAUTH2_AUDIENCE", "the audience sent with every token request")
    auth_method: AuthMethod = setting(
        "OAUTH2_AUTH_METHOD", "client_secret_basic, client_secret_post or private_key_jwt", "client_secret_basic"
    )
    private_key_pem: Annotated[SecretStr | None, BeforeValidator(syntax.private_key)] = setting(
        "OAUTH2_PRIVATE_KEY_FILE",
        "the path of the RSA private key (PEM) for private_key_jwt",
        note="Then OAUTH2_CLIENT_SECRET is not needed.",
    )
    issuer: str | None = setting(
        "OAUTH2_ISSUER", "the audience of a private_key_jwt assertion; the token URL if not set"
    )

    @property
    def token_url(self) -> str:
        """The URL of the token endpoint."""
        return self.custom_token_url or f"https://{self.project_slug}.projects.oryapis.com/oauth2/token"

    @property
    def url_setting(self) -> str:
        """The variable that it comes from."""
        return "OAUTH2_TOKEN_URL" if self.custom_token_url else "ORY_PROJECT_SLUG"

    @classmethod
    def required(cls, given: Mapping[str, str]) -> Iterator[str]:
        if "OAUTH2_TOKEN_URL" not in given:
            yield "ORY_PROJECT_SLUG"
        signed = given.get("OAUTH2_AUTH_METHOD", "").lower() == "private_key_jwt"
        yield "OAUTH2_PRIVATE_KEY_FILE" if signed else "OAUTH2_CLIENT_SECRET"

    def secrets(self) -> Iterable[str]:
        """The single lines of the key, too: a log line rarely holds the whole key."""
        key = self.private_key_pem.get_secret_value() if self.private_key_pem else ""
        return [*super().secrets(), *(line for line in key.splitlines() if not line.startswith("-----"))]

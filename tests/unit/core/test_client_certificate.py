"""The client certificate is checked before anything starts: each mistake names its variable and the remedy."""

from pathlib import Path

import pytest

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.reading import load_settings
from ai_task_processor.core.settings import Settings
from tests.contract.http.servers import Authority
from tests.helpers import without_origin

NEEDED = {
    "API_BASE_URL": "https://api.test",
    "ORY_PROJECT_SLUG": "slug",
    "OAUTH2_CLIENT_ID": "client",
    "OAUTH2_CLIENT_SECRET": "secret",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates with their keys, and the parts of one."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    whole = authority.issue("good").read_text()
    authority.issue("other")
    authority.issue("hidden", password="s3cret")
    authority.issue("old", days=-1)
    authority.issue("future", days=9)
    certificate, _, key = whole.partition("-----BEGIN PRIVATE")
    (folder / "alone.pem").write_text(certificate)
    (folder / "key.pem").write_text("-----BEGIN PRIVATE" + key)
    (folder / "torn.pem").write_text(("-----BEGIN PRIVATE" + key).replace("\n", "x", 2))
    (folder / "garbage.pem").write_text("garbage")
    (folder / "password").write_text("s3cret\n")
    return folder


def loaded(folder: Path, **given: str) -> Settings:
    files = {name: str(folder / text) if name.endswith("_FILE") else text for name, text in given.items()}
    return load_settings({**NEEDED, **files}, None, groups=())


CERT, KEY, PASSWORD = "CLIENT_CERT_FILE", "CLIENT_KEY_FILE", "CLIENT_KEY_PASSWORD"


@pytest.mark.parametrize(
    "given",
    [
        {CERT: "good.pem"},
        {CERT: "alone.pem", KEY: "key.pem"},
        {CERT: "hidden.pem", PASSWORD: "s3cret"},
        {CERT: "hidden.pem", "CLIENT_KEY_PASSWORD_FILE": "password"},
        {CERT: "good.pem", PASSWORD: "not needed"},
    ],
)
def test_a_certificate_and_its_key(folder: Path, given: dict[str, str]) -> None:
    """In one file or in two, with a password or without; the password is a secret."""
    settings = loaded(folder, **given)
    password = settings.network.client_key_password
    assert password is None or password.get_secret_value() in settings.secrets()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({CERT: "missing.pem"}, "CLIENT_CERT_FILE names a file that cannot be read (No such file or directory): "),
        ({CERT: "good.pem", KEY: "missing.pem"}, "CLIENT_KEY_FILE names a file that cannot be read (No such file "),
        ({CERT: "garbage.pem"}, "CLIENT_CERT_FILE ({}/garbage.pem) must name a file of PEM certificates"),
        ({CERT: "good.pem", KEY: "garbage.pem"}, "CLIENT_KEY_FILE ({}/garbage.pem) holds no private key: set "),
        ({CERT: "good.pem", KEY: "torn.pem"}, "CLIENT_KEY_FILE ({}/torn.pem) must name a file with a private key in "),
        ({CERT: "alone.pem"}, "CLIENT_CERT_FILE ({}/alone.pem) holds no private key: set CLIENT_KEY_FILE to "),
        (
            {CERT: "other.pem", KEY: "key.pem"},
            "CLIENT_KEY_FILE ({}/key.pem) holds a key that does not fit the certificate in CLIENT_CERT_FILE ({}/other.",
        ),
        ({CERT: "hidden.pem"}, "CLIENT_KEY_PASSWORD is missing: set it to "),
        ({CERT: "hidden.pem", PASSWORD: "wrong"}, "CLIENT_KEY_PASSWORD does not open the private key in "),
        ({CERT: "old.pem"}, "CLIENT_CERT_FILE ({}/old.pem) holds a certificate that expired on "),
        ({KEY: "key.pem"}, "CLIENT_KEY_FILE is set without CLIENT_CERT_FILE: "),
    ],
)
def test_a_mistake_is_named(folder: Path, given: dict[str, str], problem: str) -> None:
    """One line, the variable and its file first, what to do last, and no password in it."""
    with pytest.raises(ConfigurationError) as raised:
        loaded(folder, **given)
    assert len(raised.value.problems) == 1
    assert without_origin(raised.value.problems[0]).startswith(problem.replace("{}", str(folder)))
    assert "wrong" not in raised.value.problems[0]


def test_it_is_told_beside_other_mistakes(folder: Path) -> None:
    """Of its own group, too; a password that is no password is the only line about it."""
    others = {"HTTPS_PROXY": "nonsense", "ALLOW_INSECURE_HTTP": "perhaps"}
    with pytest.raises(ConfigurationError) as raised:
        load_settings({**NEEDED, **others, CERT: str(folder / "garbage.pem")}, None, groups=())
    assert sorted(line.split()[0] for line in raised.value.problems) == sorted([CERT, *others])
    with pytest.raises(ConfigurationError) as raised:
        loaded(folder, **{CERT: "hidden.pem", "CLIENT_KEY_PASSWORD_FILE": "nowhere"})
    assert [line.split()[0] for line in raised.value.problems] == ["CLIENT_KEY_PASSWORD_FILE"]


def test_a_key_instead_of_its_file_is_not_shown(folder: Path) -> None:
    pem = (folder / "key.pem").read_text()
    with pytest.raises(ConfigurationError) as raised:
        load_settings({**NEEDED, CERT: str(folder / "good.pem"), KEY: pem}, None, groups=())
    assert raised.value.problems[0].startswith("CLIENT_KEY_FILE names a file that cannot be read (")
    assert "BEGIN" not in str(raised.value)

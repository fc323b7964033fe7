"""A group of settings: what one component reads from the environment, from ``.env``, and from secret files.

Built on pydantic-settings. Added here: ``<NAME>_FILE`` (the library supports one directory of secrets only), mappings
in place of ``os.environ`` and of its reader of ``.env`` (which expands ``$``), and messages without values.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from importlib.metadata import packages_distributions
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ai_task_processor.core import environment, syntax

#: variables of the environment, which take precedence, and of ``.env``; without empty ones
Layers = tuple[Mapping[str, str], Mapping[str, str]]

LAYERS: ContextVar[Layers] = ContextVar("LAYERS", default=({}, {}))
G = TypeVar("G", bound="Group")
#: the type of an error of one field whose message is about several
SENTENCES = "sentences"
#: shorter values are shown in the messages of other packages: they are numbers and the like
LEAST_MASKED = 4


def _exposed(url: str | SecretStr) -> str | None:
    """The reach of plain http in a URL. A proxy, the only secret URL, forwards TLS: only its password is exposed."""
    if isinstance(url, SecretStr):
        url = url.get_secret_value() if "@" in url.get_secret_value() else ""
    return syntax.plain_http(url)


def insecure_allowed() -> bool:
    """Whether ``ALLOW_INSECURE_HTTP`` permits unencrypted requests to public hosts. For validators."""
    allowed = next((layer[name] for layer in LAYERS.get() if (name := "ALLOW_INSECURE_HTTP") in layer), "")
    return allowed.lower() in syntax.TRUE


def _encrypted(url: Any) -> Any:
    if _exposed(url) == "public" and not insecure_allowed():
        raise ValueError(
            "must use https, because plain http shows credentials and data on the way; "
            "ALLOW_INSECURE_HTTP=true permits it"
        )
    return url


#: a URL of a remote: plain http leads to a warning or an error
Encrypted = AfterValidator(_encrypted)
Url = Annotated[str, AfterValidator(syntax.base_url), Encrypted]
Endpoint = Annotated[str, AfterValidator(syntax.endpoint_url), Encrypted]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Bytes = Annotated[ByteSize, BeforeValidator(syntax.byte_count)]
Printable = BeforeValidator(syntax.printable)
Lower = BeforeValidator(str.lower)


def setting(
    name: str,
    meaning: str,
    default: Any = None,
    *,
    note: str = "",
    example: str = "",
    ge: int | None = None,
    le: int | None = None,
) -> Any:
    """A field of a ``Group`` that is read from the variable ``name``; several groups may read the same one.

    ``meaning`` completes "set it to" and "must be". ``default``: as text, parsed like a value in ``.env``; ``...`` for
    a required setting. A ``SecretStr`` can also come from the file that ``<NAME>_FILE`` names. ``note``: further
    sentences for documentation; ``example``: a value for the first block of ``.env.example``, which must be filled in.
    """
    parsed = isinstance(default, str)
    return Field(
        default,
        validation_alias=name,
        description=meaning,
        validate_default=parsed,
        ge=ge,
        le=le,
        json_schema_extra={"note": note, "example": example},
    )


class Group(BaseSettings):
    """The settings of one component: frozen, and parsed only when the component is selected."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        case_sensitive=True,
        dotenv_filtering="only_existing",
        enable_decoding=False,  # an error in the library's JSON decoding would hide all others
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )
    #: the heading in documentation under which the settings stand
    section: ClassVar[str] = "Others"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: Any, **given: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Secret files first: one that the environment names takes precedence over a secret in ``.env``."""
        environ, dotenv = given["env_settings"], given["dotenv_settings"]
        environ.env_vars, dotenv.env_vars = LAYERS.get()
        return given["init_settings"], _SecretFiles(settings_cls), environ, dotenv

    @field_validator("*", mode="before")
    @classmethod
    def _meant(cls, value: Any) -> Any:
        if isinstance(value, PydanticCustomError):
            raise value
        if isinstance(value, SecretStr):
            return value.get_secret_value()  # from a file, where quotation marks and comments are intended
        if isinstance(value, str) and (sentences := environment.remarks(value)):
            raise ValueError("\n".join(sentences))
        return value

    @classmethod
    def required(cls, given: Mapping[str, str]) -> Iterable[str]:  # noqa: ARG003 - for groups that need it
        """The variables without a default that must be set, given the texts of those that are."""
        return ()

    def warnings(self) -> Iterator[str]:
        """Warnings about valid values, logged at the start."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if value and Encrypted in _parts(field) and (reach := _exposed(value)):
                line = "is plain http to a {} host: credentials and data can be read on the way"
                yield f"{names(field)[0]} {line.format(reach)}"

    def secrets(self) -> Iterable[str]:
        """Every text that must never be shown."""
        return [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]

    def renewed(self, fresh: Self) -> Self:
        """A copy with the secrets of a group that was read later; other changes need a restart."""
        fields = type(self).model_fields.items()
        return self.model_copy(update={name: getattr(fresh, name) for name, field in fields if is_secret(field)})


class _SecretFiles(PydanticBaseSettingsSource):
    """Secrets from the files that ``<NAME>_FILE`` names, unless a higher layer sets the variable itself."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the library's
        name, file = names(field)
        layer: Mapping[str, str] = next((layer for layer in LAYERS.get() if file in layer or name in layer), {})
        if file not in layer:
            return None, name, False
        if name in layer and name != file:
            return PydanticCustomError("value_error", f"and {file} are both set: remove one of them"), name, False
        try:
            return SecretStr(environment.secret_in(layer[file])), name, False
        except ValueError as error:
            return PydanticCustomError("file_error", str(error)), name, False

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields.items()
        values = (self.get_field_value(field, name) for name, field in fields if is_secret(field))
        return {name: value for value, name, _ in values if value is not None}


def names(field: FieldInfo) -> Sequence[str]:
    """The variable of a field, and for a secret also the one that names its file (may be the same)."""
    name = str(field.validation_alias)
    return (name, f"{name.removesuffix('_FILE')}_FILE") if is_secret(field) else (name,)


def is_secret(field: FieldInfo) -> bool:
    """Whether its value must never be shown."""
    return SecretStr in _parts(field)


def _parts(field: FieldInfo) -> list[object]:
    """The type of a field and all its parts and metadata."""
    parts: list[object] = [field.annotation, *field.metadata]
    for part in parts:
        parts += get_args(part)
    return parts


def parse(group: type[G], layers: Layers, problems: list[str]) -> G | None:
    """The group; None on errors. Appends a line per error to ``problems``: variable and remedy, never a value."""
    before = LAYERS.set(layers)
    try:
        return _parsed(group, {**layers[1], **layers[0]}, problems)
    except (Exception, SystemExit) as error:
        if _is_ours(group.__module__):
            raise
        problems.append(_unusable(group, type(error).__name__))
        return None
    finally:
        LAYERS.reset(before)


def _parsed(group: type[G], given: Mapping[str, str], problems: list[str]) -> G | None:
    fields = {names(field)[0]: field for field in group.model_fields.values()}
    missing = [name for name in group.required(given) if given.keys().isdisjoint(names(fields[name]))]
    problems += [f"{name} {_remedy('missing', fields[name])}" for name in missing]
    try:
        parsed = group()
    except ValidationError as invalid:
        errors = invalid.errors(include_input=False, include_context=False, include_url=False)
        problems += [line for error in errors for line in _lines(error, fields, group)]
        return None
    _ = [*parsed.warnings(), *parsed.secrets()]  # what raises there is found now
    return None if missing else parsed


def _lines(error: ErrorDetails, fields: Mapping[str, FieldInfo], group: type[Group]) -> list[str]:
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if not _is_ours(group.__module__):
        message = _masked(message, fields)
    if not error["loc"] or kind == SENTENCES:  # from a validator of several fields, whose message names the variables
        return message.splitlines()
    field = fields.get(str(error["loc"][0]))
    if field is None:  # pydantic names a field by its variable when that has a value
        return [_unusable(group, f"the default of {error['loc'][0]}")]
    name = names(field)[-1 if kind == "file_error" else 0]
    sentences = message if kind in ("value_error", "file_error") else _remedy(kind, field)
    return [f"{name} {sentence}" for sentence in sentences.splitlines()]


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "ai_task_processor"


def _masked(message: str, fields: Mapping[str, FieldInfo]) -> str:
    """A message of another package's validator without the values that it was given: they may be secrets."""
    texts = set[str]()
    for field in fields.values():
        name, *files = names(field)
        for layer in LAYERS.get():
            texts |= {layer[name]} if name in layer else set()
            with suppress(ValueError):
                texts |= {environment.secret_in(layer[file]) for file in files if file in layer}
    for text in sorted(texts, key=len, reverse=True):
        message = message.replace(text, "***") if len(text) >= LEAST_MASKED else message
    return message


def _unusable(group: type[Group], reason: str) -> str:
    module = group.__module__.partition(".")[0]
    package = packages_distributions().get(module, [module])[0]
    origin = f"the settings group {group.__qualname__!r} of the package {package!r}"
    return f"{origin} cannot be used ({reason}): mend or uninstall that package"


def _remedy(kind: str, field: FieldInfo) -> str:
    parts = _parts(field)
    bounds = {key: getattr(part, key) for part in parts for key in ("ge", "gt", "le") if hasattr(part, key)}
    if kind == "missing":
        return f"is missing: set it to {field.description}"
    if kind == "literal_error":
        return f"must be one of {', '.join(get_args(field.annotation))}"
    if not bounds:
        return "must be true or false" if bool in parts else f"must be {field.description}"
    number = "number" if float in parts else "whole number"
    lowest = f"from {bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}" if "gt" in bounds else ""
    to = "to" if "ge" in bounds else ", up to" if lowest else "up to"
    highest = f"{to} {bounds['le']}" if "le" in bounds else ""
    return f"must be a {number} {lowest} {highest}".rstrip().replace(" ,", ",")

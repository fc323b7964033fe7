"""The settings of the store on disk."""

from pathlib import Path

from ai_task_processor.core.groups import Bytes, Group, setting


class StoreSettings(Group):
    """The outbox on disk."""

    section = "Outbox"

    data_dir: Path = setting(
        "DATA_DIR",
        "the directory of the outbox",
        "./data",
        note="The image sets /data.",
    )
    outbox_max_bytes: Bytes = setting(
        "OUTBOX_MAX_BYTES",
        "the size at which claiming stops; bytes, or like 512MiB",
        "1GiB",
        ge=2**16,
        le=2**50,
    )

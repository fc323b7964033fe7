"""The Qdrant sink and Qdrant's local mode: what a point is, and another length of vector."""

import pytest

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.sinks.base import REFUSED_AGAIN_S, event_id
from ai_task_processor.sinks.qdrant import QdrantSink
from ai_task_processor.testing.store import record
from tests.contract.sinks.servers import HOST, free_port, qdrant_server
from tests.helpers import alive, services

VECTOR = b"\x00\x00\x80\x3f\x00\x00\x00\x00"  # (1, 0)


async def test_a_point_tells_its_task_and_another_length_is_kept_apart() -> None:
    """The first vector decides the length of the collection; a vector that does not fit names the setting."""
    port, key = free_port(), "key"
    environ = {"QDRANT_URL": f"http://{HOST}:{port}", "QDRANT_API_KEY": key, "QDRANT_COLLECTION": "c"}
    async with qdrant_server(port, key) as server, alive(QdrantSink(services(environ, QdrantSink))) as sink:
        await sink.write(record("a", vector=VECTOR))
        with pytest.raises(RemoteError, match="QDRANT_COLLECTION has vectors of another length than 3") as raised:
            await sink.write(record("b", vector=VECTOR + bytes(4)))
        assert raised.value.retry_after_s == REFUSED_AGAIN_S
        (point,) = server.points("c")
        assert (point.id, point.vector) == (str(event_id(record("a"))), [1.0, 0.0])
        assert point.payload == {"task_id": "a", "type": "text_embedding", "source": "testing"}
        assert server.client.get_collection("c").config.params.vectors.distance == "Cosine"  # type: ignore[union-attr]

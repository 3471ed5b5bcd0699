"""The protocol between control host and box: topics, documents and their limits. Pure.

Control host, box and simulator import these names from here; the modules inside are one subject
each: `topics`, `states`, `want`, `report`, `orders`, `telemetry`, `cost`, `enrol`, `document`.

Example::

    want = Want(principal="acme~box-1", generation=7, issued_s=now_s, items=(item,))
    client.publish(topic(want.principal, Channel.WANT), want.sealed([key]), qos=1, retain=True)
    ...
    want = Want.opened(message, trusted_keys)
"""

from __future__ import annotations

from edge_runtime.agent.protocol.cost import (
    COST_SUMS,
    OTHER,
    BudgetState,
    CostLine,
    CostReport,
)
from edge_runtime.agent.protocol.document import (
    Document,
    SignedDocument,
    unchecked_payload,
)
from edge_runtime.agent.protocol.enrol import (
    ENROL_PATH,
    ROTATE_PATH,
    BrokerAccess,
    EnrolAnswer,
    EnrolRequest,
    Grant,
    MqttVersion,
    RotateRequest,
)
from edge_runtime.agent.protocol.orders import REMEMBERED_ORDERS, Cancel, Do, LogChunk, PullLog
from edge_runtime.agent.protocol.report import (
    MAX_WAITING,
    Failure,
    Hardware,
    Have,
    ItemReport,
    Link,
    SpoolState,
    Versions,
)
from edge_runtime.agent.protocol.states import (
    ENDS,
    SERVES_NEW,
    BoxState,
    DeferReason,
    FailureCode,
    FailureKind,
    Health,
    ItemKind,
)
from edge_runtime.agent.protocol.telemetry import (
    MAX_BATCH_ROWS,
    MAX_ROWS_BYTES,
    Ack,
    BatchHeader,
    ModelAtWork,
    Sample,
    Sketch,
    TelemetryRow,
    decode_batch,
    decode_header,
    encode_batch,
    mark_key,
)
from edge_runtime.agent.protocol.topics import (
    DOWN,
    MAX_BYTES,
    PREFIX,
    RETAINED,
    SHARDS,
    UP,
    Channel,
    Topic,
    box_filters,
    parse_topic,
    principal_of,
    quality,
    shard_filters,
    shard_of,
    split_principal,
    topic,
)
from edge_runtime.agent.protocol.want import MAX_ITEMS, ProbationRules, Want, WantItem, Window

__all__ = [
    "COST_SUMS",
    "DOWN",
    "ENDS",
    "ENROL_PATH",
    "MAX_BATCH_ROWS",
    "MAX_BYTES",
    "MAX_ITEMS",
    "MAX_ROWS_BYTES",
    "MAX_WAITING",
    "OTHER",
    "PREFIX",
    "REMEMBERED_ORDERS",
    "RETAINED",
    "ROTATE_PATH",
    "SERVES_NEW",
    "SHARDS",
    "UP",
    "Ack",
    "BatchHeader",
    "BoxState",
    "BrokerAccess",
    "BudgetState",
    "Cancel",
    "Channel",
    "CostLine",
    "CostReport",
    "DeferReason",
    "Do",
    "Document",
    "EnrolAnswer",
    "EnrolRequest",
    "Failure",
    "FailureCode",
    "FailureKind",
    "Grant",
    "Hardware",
    "Have",
    "Health",
    "ItemKind",
    "ItemReport",
    "Link",
    "LogChunk",
    "ModelAtWork",
    "MqttVersion",
    "ProbationRules",
    "PullLog",
    "RotateRequest",
    "Sample",
    "SignedDocument",
    "Sketch",
    "SpoolState",
    "TelemetryRow",
    "Topic",
    "Versions",
    "Want",
    "WantItem",
    "Window",
    "box_filters",
    "decode_batch",
    "decode_header",
    "encode_batch",
    "mark_key",
    "parse_topic",
    "principal_of",
    "quality",
    "shard_filters",
    "shard_of",
    "split_principal",
    "topic",
    "unchecked_payload",
]

"""Which stream an MQTT topic names.

A topic that is a stream name is used unchanged. Any other topic is encoded (``encoded_names.py``): slashes at its ends
are dropped, and an empty segment becomes ``~2F``.
"""

from meanwhile.core.stream_names import MAX_NAME_LENGTH, is_name
from meanwhile.formats.encoded_names import encode_segment, join_segments


def stream_of(topic: str) -> str:
    """Returns the stream that a topic names. Its name may be too long.

    >>> stream_of("plant/boiler"), stream_of("/zigbee2mqtt/Living room/"), stream_of("esp/count")
    ('plant/boiler', 'zigbee2mqtt/Living~20room', 'esp/~63ount')
    """
    if is_name(topic):
        return topic
    stripped = topic.encode("utf-8", "replace").decode().strip("/")  # Names of JSON members may have no UTF-8.
    if len(stripped) > MAX_NAME_LENGTH:
        return stripped  # Encoding makes a name longer, never shorter, and takes its time.
    return join_segments([encode_segment(segment) or "~2F" for segment in stripped.split("/")])

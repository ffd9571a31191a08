"""What schemathesis cannot know: lines of JSON are text."""

import schemathesis

schemathesis.serializer.alias(["application/x-ndjson", "application/ndjson", "application/jsonl"], "text/plain")

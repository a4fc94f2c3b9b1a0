"""The page's tables: those that Chainlit's own SQLAlchemy layer expects, so that databases of older versions open as
they are, and one for logins."""

import sqlalchemy as sa

from sllm.chatstore.tables import JsonText

_TYPES = {"key": sa.String(64), "unique": sa.String(200), "index": sa.String(64), "text": sa.Text,
          "json": JsonText(dict), "boolean": sa.Boolean, "integer": sa.Integer}  # fmt: skip
metadata = sa.MetaData()


def _table(name: str, /, **columns: str) -> sa.Table:
    return sa.Table(name, metadata, *(
        sa.Column(column, _TYPES[kind], primary_key=kind == "key", unique=kind == "unique", index=kind == "index")
        for column, kind in columns.items()
    ))  # fmt: skip


users = _table("users", id="key", identifier="unique", metadata="json", createdAt="text")
threads = _table(
    "threads", id="key", createdAt="text", name="text", userId="text", userIdentifier="text", tags="text",
    metadata="json",
)  # fmt: skip
steps = _table(
    "steps", id="key", name="text", type="text", threadId="index", parentId="text", streaming="boolean",
    waitForAnswer="boolean", isError="boolean", metadata="json", tags="text", input="text", output="text",
    createdAt="text", command="text", start="text", end="text", generation="text", showInput="text", language="text",
    indent="integer", defaultOpen="boolean", modes="text", autoCollapse="boolean", icon="text",
)  # fmt: skip
elements = _table(
    "elements", id="key", threadId="index", type="text", url="text", chainlitKey="text", name="text", display="text",
    objectKey="text", size="text", page="integer", language="text", forId="text", mime="text", props="json",
    autoPlay="boolean", playerConfig="text",
)  # fmt: skip
feedbacks = _table("feedbacks", id="key", forId="index", threadId="text", value="integer", comment="text")
logins = _table("sllm_logins", id="key", identifier="index", credential="text", expires="text")

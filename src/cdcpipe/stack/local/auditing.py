"""What the local servers note for the audit trail (`cdcpipe.observe.audit`).

PostgreSQL    its log has sessions, refusals, replication commands and DDL; an event trigger notes each DDL that took
              effect with its transaction, in a schema that is not captured
Connect       its REST server's log has who asked for a change, in a file of its own: `connect-access.log`
S3            an observed server sends each request, by fluentd's protocol, to a socket in its folder
Registry      its log has its own audit records
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from cdcpipe.stack.rowwise import ROW_BY_ROW

__all__ = [
    "ACCESS_LOG",
    "AUDIT_SCHEMA",
    "AUDIT_SOCKET",
    "POSTGRES_CONFIG",
    "access_log_properties",
    "install_ddl_audit",
    "write_s3_audit_config",
]

AUDIT_SCHEMA: Final = "cdcpipe_audit"
AUDIT_SOCKET: Final = "audit.sock"
ACCESS_LOG: Final = "connect-access.log"

POSTGRES_CONFIG: Final = """\
# For the audit trail: who came in from where, who read the WAL, who changed the schema. Reads of tables need pgaudit.
log_connections = 'receipt,authorization'
log_replication_commands = on
log_statement = ddl
"""

_TABLES: Final = (
    "CREATE SCHEMA IF NOT EXISTS {schema}",
    """CREATE TABLE IF NOT EXISTS {schema}.ddl (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        role text NOT NULL, application text, client text,
        command text NOT NULL, kind text, object text NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS {schema}.anchor (
        trail text NOT NULL, seq bigint NOT NULL, hash text NOT NULL, at timestamptz NOT NULL,
        PRIMARY KEY (trail, seq)
    )""",
    # It runs as its owner, so that whoever makes a table can be noted without being able to write here. An audit that
    # fails is a warning in the log: it must stop no migration.
    """CREATE OR REPLACE FUNCTION {schema}.note_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
    BEGIN
        IF tg_event = 'sql_drop' THEN
            INSERT INTO {schema}.ddl (role, application, client, command, kind, object)
            SELECT session_user, current_setting('application_name'), host(inet_client_addr()),
                   tg_tag, object_type, object_identity
            FROM pg_event_trigger_dropped_objects() WHERE original AND NOT is_temporary;
        ELSE
            INSERT INTO {schema}.ddl (role, application, client, command, kind, object)
            SELECT session_user, current_setting('application_name'), host(inet_client_addr()),
                   command_tag, object_type, object_identity
            FROM pg_event_trigger_ddl_commands() WHERE schema_name IS DISTINCT FROM 'pg_temp'
            AND NOT (object_type = 'trigger' AND object_identity LIKE '{guard}%');  -- nobody's but ours
        END IF;
    EXCEPTION WHEN OTHERS THEN
        RAISE WARNING 'cdcpipe: this DDL is not in the audit table: %', sqlerrm;
    END $note$""",
    "REVOKE ALL ON FUNCTION {schema}.note_ddl() FROM PUBLIC",
    "GRANT USAGE ON SCHEMA {schema} TO {witness}",
    "GRANT SELECT ON {schema}.ddl TO {witness}",
    "GRANT SELECT, INSERT ON {schema}.anchor TO {witness}",
)
_TRIGGERS: Final = {"cdcpipe_audit_ddl": "ddl_command_end", "cdcpipe_audit_drop": "sql_drop"}


def install_ddl_audit(connection: psycopg.Connection, witness: str) -> None:
    """Let the database note its DDL from now on. Needs the superuser; may run again. `witness` may read it."""
    for statement in _TABLES:
        connection.execute(
            sql.SQL(statement).format(
                schema=sql.Identifier(AUDIT_SCHEMA), witness=sql.Identifier(witness), guard=sql.SQL(ROW_BY_ROW)
            )
        )
    for name, event in _TRIGGERS.items():
        if connection.execute("SELECT 1 FROM pg_event_trigger WHERE evtname = %s", [name]).fetchone() is None:
            connection.execute(
                sql.SQL("CREATE EVENT TRIGGER {} ON {} EXECUTE FUNCTION {}.note_ddl()").format(
                    sql.Identifier(name), sql.Identifier(event), sql.Identifier(AUDIT_SCHEMA)
                )
            )


def access_log_properties(log_folder: Path) -> str:
    """Log4j settings that put every request to Connect's REST API that may change something into `ACCESS_LOG`."""
    file = (log_folder / ACCESS_LOG).resolve()
    return f"""\
appender.access.type = RollingFile
appender.access.name = access
appender.access.fileName = {file}
appender.access.filePattern = {file}.%i
appender.access.layout.type = PatternLayout
appender.access.layout.pattern = %d{{yyyy-MM-dd'T'HH:mm:ss.SSS}}Z %-5p %m%n
appender.access.filter.changes.type = RegexFilter
appender.access.filter.changes.regex = (?s).*"(?:POST|PUT|PATCH|DELETE) .*
appender.access.filter.changes.onMatch = ACCEPT
appender.access.filter.changes.onMismatch = DENY
appender.access.policies.type = Policies
appender.access.policies.size.type = SizeBasedTriggeringPolicy
appender.access.policies.size.size = 10MB
appender.access.strategy.type = DefaultRolloverStrategy
appender.access.strategy.max = 4
logger.access.name = org.apache.kafka.connect.runtime.rest.RestServer
logger.access.level = info
logger.access.additivity = false
logger.access.appenderRef.access.ref = access
logger.access.appenderRef.file.ref = file
logger.access.appenderRef.file.level = warn
"""


def write_s3_audit_config(folder: Path) -> Path:
    """A config of SeaweedFS that sends each request to `AUDIT_SOCKET` below `folder`, where the server works.

    Nobody waits for the listener: what it misses is kept in memory, up to the buffer's length, and sent when it comes.
    """
    path = folder / "audit.json"
    content = {
        "fluent_network": "unix",
        "fluent_socket_path": AUDIT_SOCKET,
        "tag_prefix": "s3",
        "async": True,
        "marshal_as_json": True,
        "buffer_limit": 4_096,
        "retry_wait": 500,
        "max_retry": 1_000_000,
        "max_retry_wait": 5_000,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path

"""The way of a change with times and places: the transaction and LSN that committed it, the record of the log that
holds it, the object, row and snapshot that archive it.

    trace_key(endpoints, "public.orders", "42")       every change of a row
    trace_transaction(endpoints, 812)                 every change of a transaction
    trace_object(endpoints, "s3://lake/…/x.parquet")  what an object holds

Little is read: of the archive the files whose bounds in the table's metadata allow a hit, of the log what is not
archived yet.
"""

from __future__ import annotations

from cdcpipe.observe.trace.find import trace, trace_key, trace_object, trace_transaction
from cdcpipe.observe.trace.model import Change, ObjectTrace, Range, Trace

__all__ = ["Change", "ObjectTrace", "Range", "Trace", "trace", "trace_key", "trace_object", "trace_transaction"]

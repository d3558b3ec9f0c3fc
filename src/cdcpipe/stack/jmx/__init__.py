"""Which JMX beans of Kafka and Connect are told as metrics, by name: rules of Prometheus' JMX exporter.

Few series on purpose: no client ids, no connection ids, no partitions where a topic will do. `cdcpipe.observe.metrics`
documents what comes out.
"""

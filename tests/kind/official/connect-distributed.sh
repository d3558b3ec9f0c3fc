#!/bin/sh
# As Kafka's own script of this name: KAFKA_HEAP_OPTS, KAFKA_OPTS, and the worker's properties.
exec /opt/java/bin/java -XX:+UseSerialGC ${KAFKA_HEAP_OPTS:-} ${KAFKA_OPTS:-} -cp '/opt/kafka/*' \
  org.apache.kafka.connect.cli.ConnectDistributed "$1"

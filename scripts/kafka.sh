#!/usr/bin/env bash
# Gets an Apache Kafka broker for tests and benchmarks into .peers/kafka/broker: a Java runtime from Debian where
# there is none, the broker's jars by Maven as tests/kafka/pom.xml names them. Does nothing when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.peers/kafka
# shellcheck source=scripts/peer-tools.sh
. scripts/peer-tools.sh
needs kcat kcat
needs java default-jre-headless
locked=(tests/kafka/pom.xml)
fresh broker "${locked[@]}" && exit 0
needs mvn maven
rm -rf "$target/broker" && mkdir -p "$target/broker"
mvn -B -q -f "${locked[0]}" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$PWD/$target/broker"
done_with broker "${locked[@]}"

#!/bin/bash
# Turn the environment into server.properties, format the folder if it is new, become the broker.
set -euo pipefail
shopt -s nullglob

settings=/tmp/server.properties
archive=(/opt/kafka/*.jsa)
options=(-Xms256m -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
[ ${#archive[@]} = 0 ] || options+=("-XX:SharedArchiveFile=${archive[0]}" -Xshare:auto)

java_main() {
  local jars=(/opt/kafka/libs/*.jar)
  exec java "${options[@]}" -cp "$(IFS=:; echo "${jars[*]}")" "$@"
}

for name in "${!KAFKA_@}"; do
  key=${name#KAFKA_}
  key=${key,,}
  echo "${key//_/.}=${!name}"
done >"$settings"

[ -e "$KAFKA_LOG_DIRS/meta.properties" ] ||
  (java_main kafka.tools.StorageTool format -t "$(head -c 16 /dev/urandom | base64 | tr -d '=' | tr '+/' 'ab')" -c "$settings" >/dev/null)
java_main kafka.Kafka "$settings"

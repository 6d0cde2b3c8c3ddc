#!/bin/sh
# A whole agent: takes the tasks of a queue one by one, runs their commands, and reports how they end.
#   [RETRIEVER_KEY_FILE=file-with-a-key] agent.sh http://127.0.0.1:8080 [queue [seconds of a lease]]
set -eu
api=${1:?the address of the API} queue=${2:-default} lease=${3:-60} agent=$(uname -n)-$$ pid=
here=$(mktemp -d) && cd "$here" && sed 's/^/Authorization: Bearer /' "${RETRIEVER_KEY_FILE:-/dev/null}" >key
trap 'kill -KILL "-$pid" 2>/dev/null || :; cd / && rm -rf "$here"' EXIT; trap 'exit 143' INT TERM
# Sends the JSON that it reads, prints the status and keeps the answer.
post() { curl -s -m 90 -o answer -w '%{http_code}' -H @key -H 'Content-Type: application/json' -d @- "$api/tasks/$1" || :; }
while :; do
  status=$(jq -n --arg q "$queue" --arg a "$agent" --argjson l "$lease" \
    '{queue: $q, agent: $a, wait_seconds: 20, lease_seconds: $l}' | post pick)
  if [ "$status" != 200 ] || ! jq -e '.tasks[0]' answer >task; then sleep 1; continue; fi
  id=$(jq -r .id task) token=$(jq .lease.token task) seconds=$(jq '.command.timeout_seconds // 60' task)
  eval "set -- $(jq -r '.command | .argv // ["sh", "-c", .shell // "exit 64"] | @sh' task)"
  jq -j '.command.stdin // ""' task >stdin; rm -rf work; mkdir work
  (cd work && exec setsid timeout "$seconds" "$@") <stdin >stdout 2>stderr & pid=$! end=
  until timeout $((lease / 3)) tail -s 0.1 --pid="$pid" -f /dev/null; do
    case $(echo "{\"token\": $token, \"lease_seconds\": $lease}" | post "$id/extend") in
      200) ! jq -e .cancel_requested answer >cancelled || end=cancelled ;; 409) end=lost ;;
    esac
    [ -z "$end" ] || kill -KILL "-$pid" 2>/dev/null || :
  done
  code=0 && wait "$pid" || code=$?
  [ "$end" != lost ] || continue
  jq -n --argjson token "$token" --argjson code "$code" --arg outcome "$end" \
    --rawfile out stdout --rawfile err stderr '{token: $token, stdout: $out[:60000], stderr: $err[:60000]}
    + if $outcome != "" then {outcome: $outcome} else {exit_code: $code} end' >report
  while status=$(post "$id/finish" <report); do case $status in 000 | 429 | 5*) sleep 1 ;; *) break ;; esac; done
done

# Sourced by the scripts of this folder: run GoogleTest programs under an emulator, in shards, with a time budget, and sum up what happened.
#
#   run_programs "emulator and its options" seconds_per_shard shards filter program...
#
# A shard that runs out of time is reported as a failure: a budget that cuts tests off unnoticed would be a hole. The logs stay in $logs.

run_shard() {
  local emulator=$1 budget=$2 shards=$3 filter=$4 program=$5 shard=$6 name log status start
  name=$(basename "$program")
  log=$logs/$name.$shard.log
  start=$(date +%s)
  # $emulator is a command with options: split on purpose.
  GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard timeout "$budget" $emulator "$program" --gtest_brief=1 --gtest_filter="$filter" >"$log" 2>&1
  status=$?
  printf '%s shard %s/%s: %s, %s s\n' "$name" $((shard + 1)) "$shards" \
    "$(case $status in 0) grep -E '^\[  PASSED' "$log" | tail -1 || echo passed ;; 124) echo "NOT FINISHED in $budget s" ;;
       *) echo "FAILED with status $status, see $log" ;; esac)" $(($(date +%s) - start))
  [ $status = 0 ] || echo "$name.$shard" >>"$logs/failed"
  return 0
}

run_programs() {
  local emulator=$1 budget=$2 shards=$3 filter=$4
  shift 4
  rm -f "$logs"/*.log "$logs/failed"
  export logs
  export -f run_shard
  local program shard
  for program in "$@"; do
    for shard in $(seq 0 $((shards - 1))); do
      printf '%s\0%s\0%s\0%s\0%s\0%s\0' "$emulator" "$budget" "$shards" "$filter" "$program" "$shard"
    done
  done | xargs -0 -n 6 -P "$(nproc)" bash -c 'run_shard "$@"' run_shard
  if [ -e "$logs/failed" ]; then
    while read -r name; do
      echo "--- $name"
      grep -E -A 6 'Failure|FAILED|ERROR|Sanitizer|terminate|qemu:' "$logs/$name.log" | head -40
    done <"$logs/failed"
    return 1
  fi
}
